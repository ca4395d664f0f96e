"""Checks of the header and of text cells: what would crash late, or train on noise."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tasks.data.readers.table import Table
from tasks.data.schema import Problem, Report

# What other readers take for missing. Here they are text, and worth a look.
NULL_WORDS = {"null", "na", "n/a", "#n/a", "none", "nan", "nil", "<na>"}

# Control characters but tab and line ends; soft hyphen, zero-width space, word joiner, BOM inside a text. Not
# the zero-width (non-)joiners: emoji, Persian and Indic scripts need them.
INVISIBLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u200b\u2060\ufeff]")
SURROGATE = re.compile("[\ud800-\udfff]")
# UTF-8 that was read as cp1252 and saved so: "Ã¼" for "ü", "â€™" for "’".
MOJIBAKE = re.compile("\u00c3[\u0080-\u00bf\u0152-\u0178\u2013-\u203a\u20ac\u2122]|\u00e2\u20ac")


def check_header(report: Report, table: Table) -> None:
    """White space around column names, and a first line that looks like data."""
    for name in table.columns:
        if name != name.strip():
            what = f"the column name {name!r} has white space around it"
            report.add(
                Problem("warning", "header-space", table.source, None, name, what, "Remove it: it is ignored here")
            )
        if len(name) > 100:
            what = f"a column is called {_cut(name)!r}: is the first line a row?"
            mend = "Put a header line with the names of the columns first"
            report.add(Problem("warning", "header-looks-like-row", table.source, None, name, what, mend))


def check_text(report: Report, table: Table, column: str) -> None:
    """Texts that are missing, empty or no text (errors), and suspicious words and characters (warnings)."""

    def found(level: Literal["error", "warning"], code: str, row: int, what: str, mend: str) -> None:
        report.add(Problem(level, code, table.source, row, column, what, mend))

    for row, text in zip(table.rows, table.columns[column], strict=True):
        if text is None:
            found("error", "text-missing", row, f"{column!r} is empty", "Write the text, or delete the row")
        elif not isinstance(text, str):
            mend = "Make it a text (in JSON: in quotes; in Excel: a cell formatted as text)"
            what = f"{column!r} is {_cut(repr(text))}, not a text"
            found("error", "text-type", row, what, mend)
        elif not text or text.isspace():
            what = f"{column!r} has only white space" if text else f"{column!r} is empty"
            found("error", "text-empty", row, what, "Write the text, or delete the row")
        else:
            _check_words(found, column, row, text)


def _check_words(found: Any, column: str, row: int, text: str) -> None:
    """Checks of one text that is there."""
    if len(text) <= 8 and text.strip().casefold() in NULL_WORDS:
        what = f"{column!r} is the word {text!r}: kept as text"
        found("warning", "text-null-word", row, what, "If the text is missing, empty the cell or delete the row")
    if text.isascii() and text.isprintable():
        return
    if match := SURROGATE.search(text):
        what = f"{column!r} holds {match[0]!r}, half of a character"
        found("error", "text-half-character", row, what, "Write the whole character, or remove it")
    if match := INVISIBLE.search(text):
        what = f"{column!r} has the invisible character {match[0]!r} in {_around(text, match)}"
        found("warning", "text-invisible", row, what, "Remove it: the model sees it, people do not")
    if "\ufffd" in text:
        what = f"{column!r} has the mark '\ufffd' of characters that were lost"
        found("warning", "text-lost-characters", row, what, "Export the text again, as UTF-8")
    if match := MOJIBAKE.search(text):
        what = f"{column!r} looks like UTF-8 read in another encoding: {_around(text, match)}"
        found("warning", "text-mojibake", row, what, "Export the text again, as UTF-8")


def check_windows(report: Report, table: Table, texts: int, limit: int) -> None:
    """Texts longer than `limit` that are read in windows, and lose nothing."""
    if texts:
        what = f"{texts:,} texts are longer than {limit:,} tokens: they are read in overlapping windows"
        mend = "Nothing is lost; a larger data.max_length, as far as the encoder allows, shows more at once"
        report.add(Problem("warning", "text-in-windows", table.source, None, None, what, mend))


def check_lengths(
    report: Report,
    table: Table,
    lengths: Sequence[int] | np.ndarray,
    limit: int,
    refused: bool = False,
    what: str = "rows",
) -> None:
    """Texts longer than `limit`: the share of rows (or what they are) and of tokens that is cut; or errors (`refused`).

    `lengths` are tokens of each example before truncation, special tokens included.
    """
    full = np.asarray(lengths, dtype=np.int64)
    cut = int((full > limit).sum())
    if not cut:
        return
    if refused:
        for i in np.flatnonzero(full > limit).tolist():
            said = f"has {full[i]:,} tokens, allowed are {limit:,}"
            mend = "Shorten it, or set task.long to window, head or tail"
            report.add(Problem("error", "text-too-long", table.source, table.rows[i], None, said, mend))
        return
    lost = int((full - limit).clip(min=0).sum())
    said = (
        f"{cut:,} of {len(full):,} {what} ({_percent(cut, len(full))}) exceed {limit:,} tokens and are cut; "
        f"{_percent(lost, int(full.sum()))} of all tokens are not read (longest: {int(full.max()):,} tokens)"
    )
    mend = "Raise data.max_length, as far as the encoder allows, or shorten the texts"
    report.add(Problem("warning", "text-cut", table.source, None, None, said, mend))


def _percent(part: int, whole: int) -> str:
    share = 100 * part / whole
    return f"{share:.1f}%" if share >= 0.1 else "under 0.1%"


def _around(text: str, match: re.Match[str]) -> str:
    return repr(text[max(0, match.start() - 12) : match.end() + 12])


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
