"""JSONL, streamed, and JSON arrays: one object a row, values keep their type."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

from modernbert.errors import DataError
from tasks.data.readers.encoding import BLOCK, detect_encoding, open_text, readable
from tasks.data.readers.header import check_width
from tasks.data.readers.malformed import Malformed
from tasks.data.readers.source import File
from tasks.data.readers.table import Table

MEND = 'Each line must be one JSON object of column names and values, such as {"text": "…", "label": "…"}'
# pandas writes a missing value as NaN, which is no JSON and is missing here too.
DECODER = json.JSONDecoder(parse_constant=lambda name: None if name == "NaN" else float(name))


def tables(file: File, chunk: int) -> Iterator[Table]:
    """Tables of `chunk` rows with the columns of all objects; a key that an object lacks is a missing value.

    Reads JSONL twice: the keys of the last object may be new. DataError lists lines that are no JSON object.
    """
    encoding, notes = detect_encoding(file)
    with readable(file), open_text(file, encoding) as stream:
        as_array = file.format == "json" and _first_character(stream) in ("[", "{")
    if as_array and (array := _array(file, encoding)) is not None:
        rows: Iterable[tuple[int, dict[str, Any]]] = enumerate(array, start=1)
        names = _names(file.source, array)
        yield from _chunks(file, rows, names, chunk, notes)
        return
    bad = Malformed(file.source)
    names = _names(file.source, (row for _, row in _objects(file, encoding, bad)))
    bad.raise_if_any(MEND)
    yield from _chunks(file, _objects(file, encoding, bad), names, chunk, notes)


def count(file: File) -> int | None:
    """Lines that are not blank; `None` for a JSON array."""
    if file.format == "json":
        return None
    total, line_is_blank = 0, True
    with readable(file), file.open() as stream:
        while block := stream.read(BLOCK):
            parts = block.split(b"\n")
            for i, part in enumerate(parts):
                line_is_blank = line_is_blank and not part.strip()
                if i < len(parts) - 1:
                    total += not line_is_blank
                    line_is_blank = True
    return total + (not line_is_blank)


def _first_character(stream: Iterable[str]) -> str:
    return next((line.strip()[0] for line in stream if line.strip()), "")


def _array(file: File, encoding: str) -> list[dict[str, Any]] | None:
    """The objects of a JSON array; `None` where a .json file holds one object a line instead."""
    with readable(file), open_text(file, encoding) as stream:
        text = stream.read()
    try:
        value = DECODER.decode(text.strip())
    except json.JSONDecodeError as error:
        if text.lstrip().startswith("{"):
            return None
        raise DataError(f"{file.source}: line {error.lineno}: not valid JSON: {error.msg}") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{file.source}: {_refused(error)}") from error
    if isinstance(value, dict):
        if "\n" not in text.strip() and not any(isinstance(v, (list, dict)) for v in value.values()):
            return [value]
        raise DataError(
            f"{file.source} is one JSON object with {', '.join(map(repr, list(value)[:5]))}: "
            "it must be an array of objects, one a row, or one object a line"
        )
    for number, row in enumerate(value, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{file.source}: item {number} of the array is {_kind(row)}, not an object")
    return value


def _objects(file: File, encoding: str, bad: Malformed) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of each line that is not blank; other lines go to `bad`."""
    with readable(file), open_text(file, encoding) as stream:
        for number, line in enumerate(stream, start=1):
            text = line.strip()
            if not text:
                continue
            try:
                row = DECODER.decode(text)
            except json.JSONDecodeError as error:
                bad.add(f"line {number}: not valid JSON: {error.msg} at character {error.colno}")
                continue
            except (RecursionError, ValueError) as error:
                bad.add(f"line {number}: {_refused(error)}")
                continue
            if isinstance(row, dict):
                yield number, row
            else:
                bad.add(f"line {number}: {_kind(row)}, not an object")


def _names(source: str, rows: Iterable[dict[str, Any]]) -> list[str]:
    """Keys in order of first appearance."""
    names: dict[str, None] = {}
    for row in rows:
        if not row.keys() <= names.keys():
            names.update(dict.fromkeys(row))
            check_width(source, len(names))
    return list(names)


def _chunks(
    file: File, rows: Iterable[tuple[int, dict[str, Any]]], names: list[str], chunk: int, notes: list[str]
) -> Iterator[Table]:
    numbered = iter(rows)
    empty = True
    while part := list(itertools.islice(numbered, chunk)):
        empty = False
        columns = {name: [row.get(name) for _, row in part] for name in names}
        yield Table(file.source, columns, [number for number, _ in part], list(notes))
    if empty:
        raise DataError(f"{file.source} has no rows")


def _refused(error: Exception) -> str:
    """Why Python's own decoder gives up on what is valid JSON."""
    deep = isinstance(error, RecursionError)
    return "lists or objects nested too deep to be read" if deep else f"a number too long to be read ({error})"


def _kind(value: Any) -> str:
    names = {list: "a list", str: "a string", int: "a number", float: "a number", bool: "true or false"}
    return names.get(type(value), "null")
