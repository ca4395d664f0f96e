"""Names of the columns from a header row, for CSV, TSV and xlsx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modernbert.errors import DataError


def column_names(source: str, header: Sequence[Any]) -> tuple[list[str], list[str]]:
    """Names as written, and notes; one without a name is called `column N`. DataError for repeated names."""
    names = ["" if name is None else str(name) for name in header]
    notes = []
    for position, name in enumerate(names, start=1):
        if not name.strip():
            names[position - 1] = f"column {position}"
            notes.append(f"column {position} has no name in the header: called 'column {position}'")
    for name in names:
        places = [str(i) for i, other in enumerate(names, start=1) if other == name]
        if len(places) > 1:
            raise DataError(f"{source}: columns {', '.join(places)} are all called {name!r}: rename all but one")
    return names, notes
