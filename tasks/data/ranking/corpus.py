"""Documents to search: the corpus file of a BEIR folder, or any table with texts."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from modernbert.errors import DataError
from tasks.data import readers
from tasks.data.ranking.cells import UnreadableError, as_id, join_title, short
from tasks.data.readers.malformed import Malformed
from tasks.data.readers.source import format_of
from tasks.data.readers.table import Table
from tasks.data.schema import Role, map_columns

ID = Role("id", ("_id", "docid", "doc_id", "document_id", "passage_id", "pid", "corpus_id", "query_id", "qid"),
          required=False, for_prediction=True, help="what it is called")  # fmt: skip
TITLE = Role("title", ("title", "heading", "headline"), required=False, for_prediction=True, help="its title")
TEXT = Role("text", ("text", "document", "passage", "body", "contents", "content", "abstract", "description", "answer"),
            required=True, for_prediction=True, help="what to search")  # fmt: skip
QUERY = Role("text", ("text", "query", "question"), required=True, for_prediction=True, help="what is asked")
MEND = "Give each document an id of its own, or leave the column of ids out: then the row is its number"


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a corpus; `title` may be empty."""

    id: str
    title: str
    text: str

    @property
    def full(self) -> str:
        """What is encoded: title and text with a space between."""
        return join_title(self.title, self.text)


class FullTexts(Sequence[str]):
    """The full texts of documents, put together when they are asked for."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [document.full for document in self.documents[index]]
        return self.documents[index].full


def read_corpus(source: str, columns: Mapping[str, Any] | None = None, chunk: int = 1000) -> Iterator[Table]:
    """The documents of a table file or BEIR folder, at most `chunk` at a time, in memory that grows by the ids alone.

    Each table has the columns `id`, `title` and `text` (texts; title and text may be empty) beside those of the
    file. Without a column of ids the row of the file is the id. `notes` say which columns were guessed.

    Args:
        columns: roles `id`, `title`, `text` to column names, where the guess is not right.

    Raises:
        ConfigError: no column fits `text`, or a named one is not there.
        DataError: an id that is missing, no id, or taken; a text that is no text. The first such rows are listed.
    """
    yield from _records(corpus_file(source), (ID, TITLE, TEXT), columns or {}, chunk)


def corpus_file(source: str) -> str:
    """The file of documents in a BEIR folder; of anything else itself."""
    folder = Path(source).expanduser()
    return str(part_file(folder, "corpus") or source) if folder.is_dir() else source


def part_file(folder: Path, name: str) -> Path | None:
    """`corpus.jsonl`, `corpus.parquet`, `corpus.jsonl.gz` … of a folder; None if there is none.

    Raises:
        DataError: there are several.
    """
    found = sorted(p for p in folder.glob(f"{name}.*") if p.is_file() and format_of(p)[0])
    if len(found) > 1:
        raise DataError(f"{folder} has {' and '.join(p.name for p in found)}: keep one of them")
    return found[0] if found else None


def load_corpus(source: str) -> Mapping[str, Document]:
    """All documents of `read_corpus` by id, in their order. The last one read is kept, for the next split."""
    file = Path(corpus_file(source)).expanduser()
    stamp = (file.stat().st_mtime_ns, file.stat().st_size) if file.is_file() else (0, 0)
    return _load_corpus(source, stamp)


@functools.lru_cache(maxsize=1)
def _load_corpus(source: str, stamp: tuple[int, int]) -> Mapping[str, Document]:
    documents: dict[str, Document] = {}
    for table in read_corpus(source, chunk=10_000):
        cells = (table.columns[name] for name in ("id", "title", "text"))
        documents |= {key: Document(key, title, text) for key, title, text in zip(*cells, strict=True)}
    return documents


def read_queries(file: Path) -> dict[str, str]:
    """Texts of a BEIR queries file by id, in order. Raises as `read_corpus` does."""
    queries: dict[str, str] = {}
    for table in _records(str(file), (ID, QUERY), {}, 10_000):
        queries |= dict(zip(table.columns["id"], table.columns["text"], strict=True))
    return queries


def _records(source: str, roles: Sequence[Role], given: Mapping[str, Any], chunk: int) -> Iterator[Table]:
    """Tables with a column of texts for each role; ids are unique."""
    bad, seen = Malformed(source), set[str]()
    mapping: dict[str, Any] | None = None
    notes: list[str] = []
    for table in readers.stream(source, chunk):
        if mapping is None:
            mapping, notes = map_columns(table, roles, given)
        columns = dict(table.columns)
        for role in roles:
            cells = table.columns.get(mapping.get(role.name, ""), [None] * len(table))
            if role is ID:
                found = _ids(table.rows, cells, bad, seen) if "id" in mapping else list(map(str, table.rows))
            else:
                found = _texts(role.name, table.rows, cells, bad)
            columns[role.name] = found
        if not bad.count:
            yield Table(table.source, columns, table.rows, [*table.notes, *notes])
    bad.raise_if_any(MEND)


def _ids(rows: Sequence[int], cells: Sequence[Any], bad: Malformed, seen: set[str]) -> list[str]:
    found = []
    for row, cell in zip(rows, cells, strict=True):
        try:
            key = as_id(cell)
        except UnreadableError as error:
            bad.add(f"row {row}: {error}")
            continue
        if key is None:
            bad.add(f"row {row}: it has no id")
        elif key in seen:
            bad.add(f"row {row}: the id {key!r} is taken by a row above")
        else:
            seen.add(key)
            found.append(key)
    return found


def _texts(name: str, rows: Sequence[int], cells: Sequence[Any], bad: Malformed) -> list[str]:
    found = []
    for row, cell in zip(rows, cells, strict=True):
        if cell is not None and not isinstance(cell, str):
            bad.add(f"row {row}: its {name} is {short(cell)}, not a text")
        found.append(cell if isinstance(cell, str) else "")
    return found
