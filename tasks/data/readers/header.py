"""Names of the columns from a header row, for CSV, TSV and xlsx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modernbert.errors import DataError

#: A 0/1 column for each of EuroVoc's 7,000 concepts would be the widest table of texts that we know of.
MOST_COLUMNS = 10_000


def column_names(source: str, header: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Names as written, and notes; one without a name is called `column N`. DataError for repeated names."""
    check_width(source, len(header))
    names = ["" if name is None else str(name) for name in header]
    notes = []
    for position, name in enumerate(names, start=1):
        if not name.strip():
            names[position - 1] = f"column {position}"
            notes.append(f"column {position} has no name in the header: called 'column {position}'")
    first: dict[str, int] = {}
    for position, name in enumerate(names, start=1):
        if first.setdefault(name, position) != position:
            places = [str(i) for i, other in enumerate(names, start=1) if other == name]
            shown = ", ".join(places[:10]) + (" …" if len(places) > 10 else "")
            raise DataError(f"{source}: columns {shown} are all called {cut(name)!r}: rename all but one")
    return names, notes


def check_width(source: str, columns: int) -> None:
    """DataError for more columns than a table of texts and labels has."""
    if columns > MOST_COLUMNS:
        raise DataError(
            f"{source} has {columns:,} columns, at most {MOST_COLUMNS:,} are read: is the header a line of data, or "
            "the separator another one?"
        )


def cut(name: str) -> str:
    """A name that fits a message."""
    return name if len(name) <= 60 else name[:59] + "…"
