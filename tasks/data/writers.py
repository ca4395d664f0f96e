"""Rows to CSV, TSV, JSONL, Parquet or xlsx, in chunks; the file has its name only when it is whole."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TextIO

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
from openpyxl.cell import WriteOnlyCell
from openpyxl.utils.exceptions import IllegalCharacterError

from modernbert.errors import DataError
from tasks.data.readers.source import format_of
from tasks.data.readers.table import Table

ALLOWED = ".csv, .tsv, .jsonl (each also with .gz), .parquet, .xlsx"
# Excel's specification of a sheet; the header is one of the rows.
SHEET_ROWS = 1_048_576
CELL_CHARACTERS = 32_767

Columns = Mapping[str, Sequence[Any]]


def with_columns(table: Table, found: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """The table's columns and the new ones; a name that is taken gets "_predicted" behind it."""
    columns = dict(table.columns)
    for name, values in found.items():
        free = name
        while free in columns:
            free += "_predicted"
        columns[free] = values
    return columns


class Writer(Protocol):
    """What `open_writer` gives."""

    def write(self, columns: Columns) -> None:
        """Append rows. Each call has the columns of the first; DataError where it has not."""


@contextmanager
def open_writer(path: str | Path) -> Iterator[Writer]:
    """A writer by the suffix of `path`.

    It writes to a file beside, which takes the name at the end; after an exception nothing is left, and a
    file that had the name is as it was. A missing value is an empty cell or null. Raises DataError for an
    unknown suffix, a folder that does not exist, and for values that the format cannot hold.
    """
    final = Path(path)
    kind, compressed = format_of(final)
    if kind not in WRITERS:
        raise DataError(f"{path}: cannot write files ending in {final.suffix or 'nothing'!r}; allowed are {ALLOWED}")
    if final.is_dir() or not final.parent.is_dir():
        what = "it is a folder" if final.is_dir() else f"the folder {final.parent} does not exist"
        raise DataError(f"{path} cannot be written: {what}")
    beside = final.with_name(f".{final.name}.{os.getpid()}.part")
    stack = ExitStack()
    try:
        with _blaming(path):
            writer = WRITERS[kind](beside, compressed, stack)
        yield _Checked(str(path), writer)
        with _blaming(path):
            stack.close()
            os.replace(beside, final)
    finally:
        stack.close()
        beside.unlink(missing_ok=True)


@contextmanager
def _blaming(path: str | Path) -> Iterator[None]:
    """An OSError inside is one of writing `path`; one of the caller's own is left alone."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{path} cannot be written: {error.strerror or error}") from error


class _Checked:
    """Checks that each chunk has the columns of the first, all equally long, in one order of columns."""

    def __init__(self, source: str, writer: Writer) -> None:
        self.source, self.writer = source, writer
        self.names: list[str] | None = None

    def write(self, columns: Columns) -> None:
        if self.names is None:
            self.names = list(columns)
        if set(columns) != set(self.names):
            odd = sorted(set(columns) ^ set(self.names))
            raise DataError(f"{self.source}: a later chunk of rows has other columns: {', '.join(map(repr, odd))}")
        plain = {name: _plain(columns[name]) for name in self.names}
        if len({len(values) for values in plain.values()}) > 1:
            lengths = ", ".join(f"{name!r} {len(values)}" for name, values in plain.items())
            raise DataError(f"{self.source}: columns of different lengths: {lengths}")
        try:
            with _blaming(self.source):
                self.writer.write(plain)
        except UnicodeEncodeError as error:
            bad = error.object[error.start : error.end]
            raise DataError(f"{self.source}: a value holds {bad!r}, half of a character, which no file can") from error


def _plain(values: Sequence[Any]) -> Sequence[Any]:
    """Python values of an array or tensor."""
    return values.tolist() if hasattr(values, "tolist") else values


def _rows(columns: Columns) -> Iterator[tuple[Any, ...]]:
    return zip(*columns.values(), strict=True)


def _text(path: Path, compressed: bool, stack: ExitStack) -> TextIO:
    opener: Any = gzip.open if compressed else open
    stream = stack.enter_context(opener(path, "wb"))
    return stack.enter_context(io.TextIOWrapper(stream, encoding="utf-8", newline=""))


class _UnixLines:
    """Ends lines with "\\n". csv itself, told to, leaves a cell with "\\r" unquoted: none reads it back."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, line: str) -> int:
        return self.stream.write(line.removesuffix("\r\n") + "\n")


class _Delimited:
    def __init__(self, path: Path, compressed: bool, stack: ExitStack, separator: str) -> None:
        lines = _UnixLines(_text(path, compressed, stack))
        self.csv = csv.writer(lines, delimiter=separator, lineterminator="\r\n")
        self.has_header = False

    def write(self, columns: Columns) -> None:
        if not self.has_header:
            self.csv.writerow(columns)
            self.has_header = True
        nested = (list, dict, tuple)
        for row in _rows(columns):
            self.csv.writerow([_json(cell) if isinstance(cell, nested) else cell for cell in row])


class _JsonLines:
    def __init__(self, path: Path, compressed: bool, stack: ExitStack) -> None:
        self.stream = _text(path, compressed, stack)

    def write(self, columns: Columns) -> None:
        names = list(columns)
        for row in _rows(columns):
            self.stream.write(_json(dict(zip(names, row, strict=True))) + "\n")


class _Parquet:
    """Row groups of one schema; where a later chunk needs a wider type, those so far are written again."""

    def __init__(self, path: Path, _compressed: bool, stack: ExitStack) -> None:
        self.path = path
        self.writer: pq.ParquetWriter | None = None
        stack.callback(self.close)

    def write(self, columns: Columns) -> None:
        try:
            table = pa.table({name: pa.array(values) for name, values in columns.items()})
            if self.writer is None:
                self.writer = pq.ParquetWriter(self.path, table.schema)
            schema = pa.unify_schemas([self.writer.schema, table.schema], promote_options="permissive")
            if schema != self.writer.schema:
                self.widen(schema)
            self.writer.write_table(table.cast(schema))
        except pa.ArrowException as error:
            raise DataError(f"Parquet needs one type in a column: {error}; write .jsonl instead") from error

    def widen(self, schema: pa.Schema) -> None:
        self.close()
        before = self.path.with_name(self.path.name + ".before")
        os.replace(self.path, before)
        try:
            self.writer = pq.ParquetWriter(self.path, schema)
            with pq.ParquetFile(before) as file:
                for batch in file.iter_batches():
                    self.writer.write_table(pa.Table.from_batches([batch]).cast(schema))
        finally:
            before.unlink()

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
        else:
            pq.write_table(pa.table({}), self.path)


class _Sheet:
    def __init__(self, path: Path, _compressed: bool, stack: ExitStack) -> None:
        self.book = openpyxl.Workbook(write_only=True)
        self.sheet = self.book.create_sheet("rows")
        self.rows = 0
        stack.callback(self.book.save, path)

    def write(self, columns: Columns) -> None:
        if not self.rows:
            self.append(tuple(columns))
        for row in _rows(columns):
            self.append(row)

    def append(self, row: tuple[Any, ...]) -> None:
        self.rows += 1
        if self.rows > SHEET_ROWS:
            raise DataError(f"an xlsx sheet holds {SHEET_ROWS - 1:,} rows and a header: write .csv or .parquet")
        self.sheet.append([self.cell(value) for value in row])

    def cell(self, value: Any) -> Any:
        """Text stays text ("=1+1" would become a formula) and whole (openpyxl cuts it at CELL_CHARACTERS)."""
        if isinstance(value, (list, dict, tuple)):
            value = _json(value)
        if not isinstance(value, str):
            return value
        if len(value) > CELL_CHARACTERS:
            raise DataError(
                f"row {self.rows} has a text of {len(value):,} characters; xlsx holds {CELL_CHARACTERS:,}: "
                "write .csv or .parquet"
            )
        try:
            cell = WriteOnlyCell(self.sheet, value)
        except IllegalCharacterError as error:
            raise DataError(f"row {self.rows} has a control character, which xlsx cannot hold: write .csv") from error
        cell.data_type = "s"
        return cell


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


WRITERS: dict[str | None, Callable[[Path, bool, ExitStack], Writer]] = {
    "csv": lambda path, compressed, stack: _Delimited(path, compressed, stack, ","),
    "tsv": lambda path, compressed, stack: _Delimited(path, compressed, stack, "\t"),
    "jsonl": _JsonLines,
    "parquet": _Parquet,
    "xlsx": _Sheet,
}
