"""Checks of labels: missing, misspelt, too rare, unknown to training, no number."""

from __future__ import annotations

import difflib
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from tasks.data.readers.table import Table
from tasks.data.schema import Problem, Report

# Largest class over smallest. At 100 to 1 a batch of 32 sees the small one every third step (32 * 3 / 100).
IMBALANCE = 100


def check_missing_labels(report: Report, table: Table, column: str, labels: Sequence[Any]) -> None:
    """Rows without a label."""
    for row, label in zip(table.rows, labels, strict=True):
        if label is None or (isinstance(label, str) and not label.strip()):
            mend = "Write the label, or delete the row"
            report.add(Problem("error", "label-missing", table.source, row, column, f"{column!r} is empty", mend))


def check_numbers(report: Report, table: Table, column: str, cells: Sequence[Any], values: Sequence[Any]) -> None:
    """Scores that are missing or no finite number; `values` are the cells as numbers, else None or NaN."""
    for row, cell, value in zip(table.rows, cells, values, strict=True):
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            what, mend = f"{column!r} is empty", "Write the number, or delete the row"
            report.add(Problem("error", "label-missing", table.source, row, column, what, mend))
        elif value is None or not math.isfinite(value):
            what, mend = f"{column!r} is {cell!r}, not a number", "Write a number such as 3 or 2.5"
            report.add(Problem("error", "label-not-number", table.source, row, column, what, mend))


def check_switches(report: Report, table: Table, column: str, is_switch: Callable[[Any], bool]) -> None:
    """Cells of a 0/1 column that say neither yes nor no."""
    for row, cell in zip(table.rows, table.columns[column], strict=True):
        if not is_switch(cell):
            what, mend = f"{column!r} is {cell!r}, neither 0 nor 1", "Write 1 where the label holds, else 0"
            report.add(Problem("error", "label-not-switch", table.source, row, column, what, mend))


def check_label_spelling(report: Report, table: Table, column: str, labels: Sequence[Any]) -> None:
    """Labels that differ by case or white space alone: the rarer forms; the mend is the most frequent one."""
    forms: dict[str, Counter[str]] = {}
    first: dict[str, int] = {}
    for row, name in _each(table, labels):
        if isinstance(name, str):
            first.setdefault(name, row)
            forms.setdefault(" ".join(name.casefold().split()), Counter())[name] += 1
    for counter in forms.values():
        (usual, times), *others = counter.most_common()
        for form, number in others:
            what = f"{form!r} ({_rows(number)}, from here) is {usual!r} ({_rows(times)}) but for case or spaces"
            mend = f"Write {usual!r}, if they are one label"
            report.add(Problem("warning", "label-spelling", table.source, first[form], column, what, mend))


def check_class_counts(report: Report, table: Table, column: str, labels: Sequence[Any]) -> None:
    """One class only (error), classes of one example, and a class far smaller than the largest (warnings)."""
    counts: Counter[Any] = Counter()
    first: dict[Any, int] = {}
    for row, name in _each(table, labels):
        counts[name] += 1
        first.setdefault(name, row)
    if len(counts) == 1:
        what = f"every row has the label {next(iter(counts))!r}: there is nothing to learn"
        mend = "Add rows of another label, or choose another column: data.columns.label=…"
        report.add(Problem("error", "label-one-class", table.source, None, column, what, mend))
        return
    for name, number in counts.items():
        if number == 1:
            what = f"{name!r} has this one example: it cannot be in both training and validation"
            mend = "Add examples, join it with another label, or delete the row"
            report.add(Problem("warning", "label-single", table.source, first[name], column, what, mend))
    if counts:
        (largest, most), (smallest, least) = counts.most_common(1)[0], counts.most_common()[-1]
        if most >= IMBALANCE * least and least > 1:
            what = f"{largest!r} has {_rows(most)}, {smallest!r} only {least:,}"
            mend = "Add examples of the rare labels, weigh the classes, and judge by macro F1, not by accuracy"
            report.add(Problem("warning", "label-imbalance", table.source, None, column, what, mend))


def check_unseen(report: Report, table: Table, column: str, labels: Sequence[Any], known: Collection[Any]) -> None:
    """Labels of validation or test rows that training lacks: one error a label."""
    counts: Counter[Any] = Counter()
    first: dict[Any, int] = {}
    seen = set(known)
    for row, name in _each(table, labels):
        if name not in seen:
            counts[name] += 1
            first.setdefault(name, row)
    spelt = {str(name): name for name in known}
    for name, number in counts.items():
        close = difflib.get_close_matches(str(name), spelt, n=1, cutoff=0.8)
        what = f"the label {name!r} ({_rows(number)}, from here) is not in the training rows"
        mend = "Add training rows of it, or delete these" + (f"; or is it {spelt[close[0]]!r}?" if close else "")
        report.add(Problem("error", "label-unseen", table.source, first[name], column, what, mend))


def _each(table: Table, labels: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """(row, label) of every label there is; a list of labels gives each of its own."""
    for row, label in zip(table.rows, labels, strict=True):
        for name in label if isinstance(label, (list, tuple, set)) else (label,):
            if name is not None and name != "":
                yield row, name


def _rows(number: int) -> str:
    return "1 row" if number == 1 else f"{number:,} rows"
