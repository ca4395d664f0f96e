"""The first sheet of an xlsx file by openpyxl, row by row."""

from __future__ import annotations

import datetime
import itertools
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from modernbert.errors import DataError
from tasks.data.readers.header import column_names
from tasks.data.readers.malformed import Malformed
from tasks.data.readers.source import File, check_unpacked
from tasks.data.readers.table import Table

# openpyxl hands out what its parts trip over in a damaged file.
DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, ElementTree.ParseError, InvalidFileException, OSError, EOFError),
    *(KeyError, IndexError, ValueError, TypeError, AttributeError, NotImplementedError, OverflowError, RuntimeError),
)
SHEET_ROWS = 1_048_576  # Excel's specification
MEND = "Give the column a name in the header row, or clear the cells"


def tables(file: File, chunk: int) -> Iterator[Table]:
    """Tables of `chunk` rows; numbers stay numbers, dates become ISO text, formulas the value last computed.

    The first row that is not empty is the header, other empty rows are left out. Raises DataError for cells
    beyond the header.
    """
    with _open(file) as book:
        sheet = book.worksheets[0]
        sheet.reset_dimensions()  # written by other programs, they are often wrong
        names_of_sheets = book.sheetnames
        notes = [f"sheet {names_of_sheets[0]!r}, the first of {len(names_of_sheets)}"] if names_of_sheets[1:] else []
        rows = _rows(file, sheet)
        _, header = next(rows, (0, ()))
        if not header:
            raise DataError(f"{file.source}: its first sheet, {names_of_sheets[0]!r}, is empty")
        names, header_notes = column_names(file.source, _trimmed(header))
        bad = Malformed(file.source)
        fitting = _fitting(rows, len(names), bad)
        empty = True
        while part := list(itertools.islice(fitting, chunk)):
            empty = False
            if not bad.count:
                columns = {name: [cells[i] for _, cells in part] for i, name in enumerate(names)}
                yield Table(file.source, columns, [number for number, _ in part], notes + header_notes)
        bad.raise_if_any(MEND)
        if empty:
            raise DataError(f"{file.source} has a header ({', '.join(names)}) but no rows")


def count(file: File) -> int | None:
    """Rows by the size that the sheet states; `None` where it states none."""
    with _open(file) as book:
        rows = book.worksheets[0].max_row
        return rows - 1 if rows else None


@contextmanager
def _open(file: File) -> Iterator[openpyxl.Workbook]:
    with _whole(file):
        _check_size(file)
        book = openpyxl.load_workbook(file.path, read_only=True, data_only=True)
    try:
        if not book.worksheets:
            raise DataError(f"{file.source} has no sheet of cells")
        yield book
    finally:
        book.close()


@contextmanager
def _whole(file: File) -> Iterator[None]:
    """Turns what openpyxl raises at a damaged file into one DataError."""
    try:
        yield
    except DAMAGE as error:
        raise DataError(
            f"{file.source} is not an xlsx file, is damaged or has a password: save it as .xlsx or CSV"
        ) from error


def _check_size(file: File) -> None:
    """DataError for a file that unpacks to more than it could hold: openpyxl would take all of it into memory.

    What a file states is what is unpacked at most: zipfile stops there.
    """
    with zipfile.ZipFile(file.path) as archive:
        unpacked = sum(member.file_size for member in archive.infolist())
    check_unpacked(file.source, unpacked, file.path.stat().st_size)


def _rows(file: File, sheet: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(row of the sheet, cells) of rows that are not empty."""
    with _whole(file):
        for number, cells in enumerate(sheet.iter_rows(values_only=True), start=1):
            if number > SHEET_ROWS:  # one cell may state a row of its own, and openpyxl fills up to it
                raise DataError(f"{file.source} states more than {SHEET_ROWS:,} rows, which no sheet has")
            if any(cell not in (None, "") for cell in cells):
                yield number, cells


def _trimmed(cells: tuple[Any, ...]) -> list[Any]:
    """Without the empty cells at the end."""
    last = max(i for i, cell in enumerate(cells) if cell not in (None, ""))
    return list(cells[: last + 1])


def _fitting(
    rows: Iterator[tuple[int, tuple[Any, ...]]], width: int, bad: Malformed
) -> Iterator[tuple[int, list[Any]]]:
    for number, cells in rows:
        values = [_value(cell) for cell in cells]
        if any(value is not None for value in values[width:]):
            bad.add(f"row {number}: {len(_trimmed(cells))} cells, expected {width}")
        yield number, values[:width] + [None] * (width - len(values))


def _value(cell: Any) -> Any:
    if isinstance(cell, (datetime.date, datetime.time)):
        return cell.isoformat()
    return None if cell == "" else cell
