"""Files and hub data sets to rows: `read` (all), `stream` (in chunks, constant memory), `count` (for a bar).

CSV, TSV, JSONL, JSON array (each also .gz), Parquet, xlsx, and `hf:name[:config][:split]`. A missing value
(an empty cell, null) is `None`; the words null, NA, None, nan stay text. CSV values are text, others keep
their type.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tasks.data.readers import delimited, json_rows, parquet, sheet
from tasks.data.readers.source import File, HubSet, locate
from tasks.data.readers.table import Table, join

__all__ = ["Table", "count", "join", "read", "stream"]

FORMATS = {
    "csv": delimited,
    "tsv": delimited,
    "jsonl": json_rows,
    "json": json_rows,
    "parquet": parquet,
    "xlsx": sheet,
}
READ_CHUNK = 10_000  # rows; larger gains nothing


def read(source: str) -> Table:
    """All rows of a file or hub data set. Raises DataError, with every bad row it can name."""
    return join(_tables(locate(str(source)), READ_CHUNK))


def stream(source: str, chunk: int = 1000) -> Iterator[Table]:
    """The rows in tables of at most `chunk`, in memory that does not grow with the file.

    A CSV or TSV file is first read through once, so that a bad row is refused before hours of work on the
    rows above it (so is JSONL; Parquet has no such rows). Raises DataError as `read` does.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: at least 1 row")
    data = locate(str(source))
    if isinstance(data, File) and data.format in ("csv", "tsv"):
        for _ in delimited.tables(data, chunk):
            pass
    yield from _tables(data, chunk)


def count(source: str) -> int | None:
    """Number of rows where that is cheap to know, else `None`. For progress bars, not for arithmetic."""
    data = locate(str(source))
    return _module(data).count(data)


def _tables(data: File | HubSet, chunk: int) -> Iterator[Table]:
    return _module(data).tables(data, chunk)


def _module(data: File | HubSet) -> Any:
    """The module that reads it; that of the hub takes a second to import and is for few."""
    if isinstance(data, HubSet):
        from tasks.data.readers import hub

        return hub
    return FORMATS[data.format]
