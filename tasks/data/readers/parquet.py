"""Parquet by pyarrow, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from modernbert.errors import DataError
from tasks.data.readers.header import check_width
from tasks.data.readers.source import File, check_unpacked
from tasks.data.readers.table import Table


def tables(file: File, chunk: int) -> Iterator[Table]:
    """Tables of at most `chunk` rows; values keep their type, NaN is missing too. DataError if damaged."""
    start = 1
    with _open(file) as parquet:
        check_width(file.source, len(parquet.schema_arrow.names))
        _check_rows(file, parquet.metadata.num_rows * len(parquet.schema_arrow.names))
        repeated = {name for name in parquet.schema_arrow.names if parquet.schema_arrow.names.count(name) > 1}
        if repeated:
            raise DataError(f"{file.source}: two columns are called {min(repeated)!r}: rename one")
        try:
            for batch in parquet.iter_batches(batch_size=chunk):
                if batch.num_rows:
                    columns = {name: values(batch.column(i)) for i, name in enumerate(batch.schema.names)}
                    yield Table(file.source, columns, list(range(start, start + batch.num_rows)))
                start += batch.num_rows
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise DataError(f"{file.source}: damaged Parquet file: {error}") from error
    if start == 1:
        raise DataError(f"{file.source} has no rows")


def count(file: File) -> int | None:
    """Rows, from the file's own metadata."""
    with _open(file) as parquet:
        return int(parquet.metadata.num_rows)


def values(column: pa.Array) -> list[Any]:
    """Python values of an Arrow column; NaN, which pandas has for missing, is `None`."""
    found = column.to_pylist()
    if pa.types.is_floating(column.type):
        return [value if value == value else None for value in found]
    return found


def _check_rows(file: File, cells: int) -> None:
    """DataError for a file of a few bytes that states more cells than memory holds: encodings of runs allow it."""
    check_unpacked(file.source, cells * 8, file.path.stat().st_size)  # 8 bytes is a Python reference


def _open(file: File) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file.path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.source} is not a Parquet file, or is damaged: {error}") from error
