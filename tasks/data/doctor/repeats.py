"""Checks across rows and files: the same text twice, with two labels, or in train and test."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any

from tasks.data.readers.table import Table
from tasks.data.schema import Problem, Report


def normalise(text: str) -> str:
    """A text as repeats are compared: Unicode NFKC, no case, runs of white space as one space."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.casefold().split())


def check_duplicates(report: Report, table: Table, columns: Sequence[str]) -> None:
    """Rows whose `columns` are all equal to those of an earlier row."""
    first: dict[Any, int] = {}
    for row, key in zip(table.rows, _keys(table, columns, exact=True), strict=True):
        if key is None:
            continue
        earlier = first.setdefault(key, row)
        if earlier != row:
            what = f"the same {_named(columns)} as row {earlier}"
            mend = "Delete one of them, unless it counts twice on purpose"
            report.add(Problem("warning", "row-duplicate", table.source, row, columns[0], what, mend))


def check_conflicts(report: Report, table: Table, text_columns: Sequence[str], labels: Sequence[Any]) -> None:
    """Rows with the text of an earlier row (case and white space aside) but another label."""
    first: dict[Any, tuple[int, Any]] = {}
    for row, key, label in zip(table.rows, _keys(table, text_columns), labels, strict=True):
        if key is None or label is None:
            continue
        earlier, its_label = first.setdefault(key, (row, label))
        if _comparable(label) != _comparable(its_label):
            what = f"labelled {_shown(label)}, but {_shown(its_label)} in row {earlier}, which has the same text"
            mend = "Give both the right label, or delete one"
            report.add(Problem("warning", "label-conflict", table.source, row, text_columns[0], what, mend))


def check_leakage(
    report: Report, a: Table, b: Table, text_columns: Sequence[str], b_columns: Sequence[str] | None = None
) -> None:
    """Rows of `b` (validation or test) whose text is also in `a`; `b_columns` if named otherwise there."""
    known: dict[Any, int] = {}
    for row, key in zip(a.rows, _keys(a, text_columns), strict=True):
        known.setdefault(key, row)
    names = b_columns or text_columns
    for row, key in zip(b.rows, _keys(b, names), strict=True):
        if key is not None and key in known:
            what = f"the same text as {a.source}:{known[key]}"
            mend = "Delete it here: a text seen in training makes the score too good"
            report.add(Problem("warning", "row-leak", b.source, row, names[0], what, mend))


def _keys(table: Table, columns: Sequence[str], exact: bool = False) -> list[Any]:
    """What is compared, one a row; None where a text is missing or is no text."""
    parts = [
        [
            (value if exact else normalise(value))
            if isinstance(value, str)
            else (repr(value) if value is not None else None)
            for value in table.columns[column]
        ]
        for column in columns
    ]
    if len(parts) == 1:
        return [key or None for key in parts[0]]
    return [key if any(key) else None for key in zip(*parts, strict=True)]


def _comparable(label: Any) -> Any:
    """A list of labels has no order."""
    return sorted(map(str, label)) if isinstance(label, (list, tuple, set)) else label


def _shown(label: Any) -> str:
    return ", ".join(map(repr, label)) or "nothing" if isinstance(label, (list, tuple, set)) else repr(label)


def _named(columns: Sequence[str]) -> str:
    return " and ".join(map(repr, columns))
