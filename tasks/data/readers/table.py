"""Rows of one source as columns, each row with the place where a person finds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Table:
    """Rows of one source, or one chunk of them.

    `columns` maps each header name, white space included, to its values; a missing one is `None`. `rows`
    holds the line on which a record starts (CSV, TSV, JSONL; the header is line 1), the row of the sheet
    (xlsx) or the number of the record from 1 (Parquet, JSON array, hub). `notes` says what was detected.
    """

    source: str
    columns: dict[str, list[Any]]
    rows: list[int]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.rows)

    def select(self, indices: Sequence[int]) -> Table:
        """The rows at these positions, in this order."""
        columns = {name: [values[i] for i in indices] for name, values in self.columns.items()}
        return Table(self.source, columns, [self.rows[i] for i in indices], list(self.notes))


def join(tables: Iterable[Table]) -> Table:
    """One table of all chunks; they have the same columns. Needs at least one chunk."""
    chunks = iter(tables)
    first = next(chunks)
    whole = Table(first.source, {name: list(values) for name, values in first.columns.items()}, list(first.rows))
    whole.notes += first.notes
    for chunk in chunks:
        for name, values in whole.columns.items():
            values += chunk.columns[name]
        whole.rows += chunk.rows
        whole.notes += [note for note in chunk.notes if note not in whole.notes]
    return whole
