"""CSV and TSV by the csv module: any separator, streamed, each record with the line on which it starts."""

from __future__ import annotations

import csv
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from modernbert.errors import DataError
from tasks.data.readers.dialect import Dialect, detect_dialect
from tasks.data.readers.encoding import BLOCK, detect_encoding, open_text, readable
from tasks.data.readers.header import column_names
from tasks.data.readers.malformed import Malformed
from tasks.data.readers.source import File
from tasks.data.readers.table import Table

# Characters of a cell. csv's own limit (131,072) refuses long documents; none lets a lost quote eat all
# memory.
CELL_LIMIT = 1 << 26
SAMPLE_LINES = 1000
SAMPLE_CHARACTERS = 1 << 18
LINE_END = re.compile(r"\r\n|\r|\n")
MEND = "Put a text that holds the separator or a line break in double quotes, and write a double quote inside it twice"

Record = tuple[int, list[str]]  # line on which it starts, cells


class _Lines:
    """Lines of a stream, counted; `held` are those of the record being read."""

    def __init__(self, stream: Iterable[str]) -> None:
        self.stream = iter(stream)
        self.number = 0
        self.ended = False
        self.held: list[str] = []

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        try:
            line = next(self.stream)
        except StopIteration:
            self.ended = True
            raise
        self.number += 1
        self.held.append(line)
        return line


def tables(file: File, chunk: int) -> Iterator[Table]:
    """Tables of `chunk` rows. After a bad row none is yielded, but the file is read on to list the others.

    Raises DataError for rows that do not fit the header, a quote that is not closed, a header that cannot
    be used and a file without rows.
    """
    csv.field_size_limit(CELL_LIMIT)
    suffix_separator = "\t" if file.format == "tsv" else ","
    encoding, notes = detect_encoding(file)
    bad = Malformed(file.source)
    with readable(file), open_text(file, encoding) as stream:
        sample = _sample(stream)
        dialect = detect_dialect(sample, suffix_separator)
        notes += dialect.notes(suffix_separator)
        records = _records(itertools.chain(sample, stream), dialect, bad, notes)
        header = next((cells for _, cells in records if len(cells) > 1 or cells[0].strip()), None)
        if header is None:
            bad.raise_if_any(MEND)
            raise DataError(f"{file.source} has only blank lines")
        names, header_notes = column_names(file.source, header)
        notes += header_notes
        fitting = _fitting(records, names, dialect, bad)
        rows = 0
        while part := list(itertools.islice(fitting, chunk)):
            rows += len(part)
            if not bad.count:
                yield _table(file.source, names, part, notes)
        if not rows and bad.count > 1:
            bad.raise_if_any(f"No row fits the header ({', '.join(names)}): does it lack a name? Else: {MEND}")
        bad.raise_if_any(MEND)
        if not rows:
            raise DataError(f"{file.source} has a header ({', '.join(names)}) but no rows")


def count(file: File) -> int | None:
    """Records of a well-formed file by its line ends outside quotes, for progress bars; None for UTF-16."""
    ends, inside, last = 0, 0, ord("\n")
    with readable(file), file.open() as stream:
        while block := stream.read(BLOCK):
            data = np.frombuffer(block, dtype=np.uint8)
            if not data.all():
                return None
            data = data[data != ord("\r")]
            if not len(data):
                continue
            quotes = np.cumsum(data == ord('"'), dtype=np.int64) + inside
            before = np.concatenate(([last], data[:-1]))
            ends += int(((data == ord("\n")) & (before != ord("\n")) & (quotes % 2 == 0)).sum())
            inside, last = int(quotes[-1] % 2), int(data[-1])
    records = ends + (last != ord("\n"))
    return records - 1 if records > 1 else None


def _sample(stream: Iterable[str]) -> list[str]:
    """The first lines, enough to tell the separator."""
    lines: list[str] = []
    size = 0
    for line in stream:
        lines.append(line)
        size += len(line)
        if size >= SAMPLE_CHARACTERS or len(lines) >= SAMPLE_LINES:
            break
    return lines


def _records(stream: Iterable[str], dialect: Dialect, bad: Malformed, notes: list[str]) -> Iterator[Record]:
    """The records of the file, empty lines left out.

    The csv reader is strict, to learn of a quote that ends inside a cell. On one line that is harmless: the
    record is read again tolerantly and the first such line noted. Over several lines the quote has
    swallowed rows.
    """
    lines = _Lines(stream)
    strict = csv.reader(lines, strict=True, **dialect.options)
    noted = False
    while True:
        lines.held.clear()
        start = lines.number + 1
        try:
            cells = next(strict)
        except StopIteration:
            return
        except csv.Error:
            if lines.ended or sum(map(len, lines.held)) > CELL_LIMIT:
                bad.add(f"line {_opening(start, lines.held, dialect)}")
                return
            if len(lines.held) > 1:
                bad.add(f"line {_opening(start, lines.held, dialect)}, up to line {lines.number}")
                continue
            cells = next(csv.reader(list(lines.held), **dialect.options))
            if not noted:
                notes.append(f"line {start}: a quote inside quotes is not written twice; read as {_cut(cells[0])!r}")
                noted = True
        if cells:
            yield start, cells


def _opening(start: int, held: Sequence[str], dialect: Dialect) -> str:
    """Where the quote was opened that is not closed on its line: in the last cell that holds a line end."""
    cells = next(csv.reader(held[:SAMPLE_LINES], **dialect.options))
    ends = [len(LINE_END.findall(cell)) for cell in cells]
    last = max((i for i, number in enumerate(ends) if number), default=len(cells) - 1)
    line = start + sum(ends[:last])
    return f"{line}: the quote opened here is not closed where the text ends: {_cut(cells[last])!r}"


def _fitting(records: Iterable[Record], names: Sequence[str], dialect: Dialect, bad: Malformed) -> Iterator[Record]:
    """Records as wide as the header; others go to `bad`."""
    width = len(names)
    for line, cells in records:
        if len(cells) == width:
            yield line, cells
        elif len(cells) == 1 and not cells[0].strip():
            continue  # a line of white space
        elif len(cells) > width and not any(cells[width:]):
            yield line, cells[:width]  # "a,b,," from spreadsheets: nothing is lost
        else:
            number = "1 cell" if len(cells) == 1 else f"{len(cells)} cells"
            bad.add(f"line {line}: {number}, expected {width} ({_cause(cells, width, dialect)})")


def _cause(cells: Sequence[str], width: int, dialect: Dialect) -> str:
    """Why a record most likely has the wrong number of cells."""
    for cell in cells:
        if LINE_END.search(cell):
            return f"a quote was opened at {_cut(cell)!r} and closed lines later"
    row = _cut(dialect.separator.join(cells))
    if len(cells) < width:
        return f"{dialect.name}; a cell or a separator is missing: {row!r}"
    if any('"' in cell for cell in cells):
        return f"{dialect.name}; a quote inside a text ended its cell: {row!r}"
    return f"{dialect.name}; a text that holds it is not quoted: {row!r}"


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _table(source: str, names: Sequence[str], part: list[Record], notes: list[str]) -> Table:
    cells = zip(*(cells for _, cells in part), strict=True)
    columns = {name: [cell or None for cell in column] for name, column in zip(names, cells, strict=True)}
    return Table(source, columns, [line for line, _ in part], list(notes))
