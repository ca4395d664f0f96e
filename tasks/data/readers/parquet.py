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

#: Bytes of a column in one group of rows up to which its texts are read as codes into a dictionary.
DICTIONARY = 1 << 26


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
    if pa.types.is_dictionary(column.type):  # rows that repeat a value share it
        codes = column.indices.unique()
        words = dict(zip(codes.to_pylist(), values(column.dictionary.take(codes)), strict=True))
        return [words[code] for code in column.indices.to_pylist()]
    found = column.to_pylist()
    if pa.types.is_floating(column.type):
        return [value if value == value else None for value in found]
    return found


def _check_rows(file: File, cells: int) -> None:
    """DataError for a file of a few bytes that states more cells than memory holds: encodings of runs allow it."""
    check_unpacked(file.source, cells * 8, file.path.stat().st_size)  # 8 bytes is a Python reference


def _open(file: File) -> pq.ParquetFile:
    try:
        about = pq.read_metadata(file.path)
        return pq.ParquetFile(file.path, metadata=about, read_dictionary=_repetitive(about))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file.source} is not a Parquet file, or is damaged: {error}") from error


def _repetitive(about: pq.FileMetaData) -> list[str]:
    """Columns of texts that are stored as a dictionary: a text of a megabyte that a million rows name is held once."""
    groups = [about.row_group(i) for i in range(about.num_row_groups)]
    found = []
    for i in range(about.num_columns if groups else 0):
        chunks = [group.column(i) for group in groups]
        small = all(chunk.has_dictionary_page and chunk.total_uncompressed_size <= DICTIONARY for chunk in chunks)
        if small and chunks[0].physical_type == "BYTE_ARRAY" and "." not in chunks[0].path_in_schema:
            found.append(str(chunks[0].path_in_schema))
    return found
