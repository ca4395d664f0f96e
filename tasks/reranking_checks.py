"""The doctor's visit to rows of a reranker: labels that are no grades, queries that teach or measure nothing."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from tasks.data import doctor
from tasks.data.ranking.groups import number_queries, rows_of_queries
from tasks.data.ranking.lists import to_label
from tasks.data.readers import Table
from tasks.data.schema import Problem, Report

Grades = Literal["binary", "graded", "scored"]
Array = npt.NDArray[np.float64]


def check_labels(report: Report, table: Table, name: str, grades: Grades, teacher: bool) -> None:
    """Labels alone and by query; `grades` and `teacher` are those of the training rows, `name` is that of the split."""
    column = label_column(table)
    if column is None:
        what, mend = "there is no column of labels", "Name it: data.columns.label=…"
        report.add(Problem("error", "label-missing", table.source, None, "label", what, mend))
        return
    labels = labels_of(table)
    doctor.check_numbers(report, table, column, table.columns[column], labels.tolist())
    if teacher and column != "teacher" and "teacher" in table.columns:
        cells = table.columns["teacher"]
        doctor.check_numbers(report, table, "teacher", cells, [to_label(cell) for cell in cells])
    pair = [*(["query_id"] if "query_id" in table.columns else []), "query", "document"]
    doctor.check_duplicates(report, table, pair)
    doctor.check_conflicts(report, table, pair, [label if np.isfinite(label) else None for label in labels.tolist()])
    check_query_texts(report, table)
    if grades != "scored" and np.isfinite(labels).all():
        check_grades(report, table, column, labels)
        check_queries(report, table, column, labels, name)


def label_column(table: Table) -> str | None:
    """Labels, or where there are none the scores of a teacher."""
    return next((name for name in ("label", "teacher") if name in table.columns), None)


def labels_of(table: Table) -> Array:
    """(N,) labels as numbers, NaN where there is none."""
    column = label_column(table)
    cells = [None] * len(table) if column is None else table.columns[column]
    return np.array([to_label(cell) for cell in cells], dtype=np.float64)


def grades_of(labels: Array) -> Grades:
    """What these labels are."""
    if not ((labels >= 0) & (labels == labels.round())).all():
        return "scored"
    return "binary" if labels.max(initial=0.0) <= 1 else "graded"


def queries_of(table: Table) -> list[npt.NDArray[np.int64]]:
    """The rows of each query of a table."""
    return rows_of_queries(number_queries(table))


def check_grades(report: Report, table: Table, column: str, labels: Array) -> None:
    """Labels that a ranking cannot be measured by, beside a training file with grades."""
    for i in np.flatnonzero((labels < 0) | (labels != labels.round())).tolist():
        what, mend = f"{column!r} is {labels[i]:g}, no grade", "Give whole numbers from 0 on, as in the training rows"
        report.add(Problem("error", "label-not-grade", table.source, table.rows[i], column, what, mend))


def check_query_texts(report: Report, table: Table) -> None:
    """Rows of one query id with another text."""
    if "query_id" not in table.columns:
        return
    for rows in queries_of(table):
        texts = [table.columns["query"][i] for i in rows]
        other = next((i for i, text in zip(rows, texts, strict=True) if text != texts[0]), None)
        if other is not None:
            what = f"query {table.columns['query_id'][other]!r} has another text than in row {table.rows[rows[0]]}"
            mend = "Give each query an id of its own"
            report.add(Problem("warning", "query-two-texts", table.source, table.rows[other], "query_id", what, mend))


def check_queries(report: Report, table: Table, column: str, labels: Array, name: str) -> None:
    """Queries that teach or measure nothing, because no candidate is relevant or all are alike."""
    queries = queries_of(table)
    none = [rows for rows in queries if not (labels[rows] > 0).any()]
    alike = [rows for rows in queries if (labels[rows] == labels[rows[0]]).all() and labels[rows[0]] > 0]
    if (labels == labels[0]).all():
        what = f"every row has the label {labels[0]:g}: there is nothing to {'learn' if name == 'train' else 'measure'}"
        mend = "Add candidates with another label, or choose another column: data.columns.label=…"
        report.add(Problem("error", "label-one-class", table.source, None, column, what, mend))
        return
    if len(none) + len(alike) == len(queries):
        what = f"in each of {len(queries):,} queries all candidates have the same label: there is no order"
        mend = "Give candidates of both kinds; is data.columns.query_id the right column?"
        report.add(Problem("error", "query-no-order", table.source, None, column, what, mend))
        return
    if none:
        what = f"{len(none):,} of {len(queries):,} queries, from here, have no relevant candidate"
        mend = "They are left out of the metrics, and teach only what is not relevant"
        row = table.rows[int(none[0][0])]
        report.add(Problem("warning", "query-no-positive", table.source, row, column, what, mend))
    if alike:
        what = f"{len(alike):,} of {len(queries):,} queries, from here, have relevant candidates only"
        mend = "Any order of them is right: add candidates that are not relevant"
        row = table.rows[int(alike[0][0])]
        report.add(Problem("warning", "query-all-positive", table.source, row, column, what, mend))
