"""BEIR folders: corpus, queries and qrels (Thakur et al. 2021, "BEIR", arXiv:2104.08663)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modernbert.errors import DataError
from tasks.data import readers
from tasks.data.ranking.cells import UnreadableError, as_id, as_number
from tasks.data.ranking.corpus import Document, load_corpus, part_file, read_queries
from tasks.data.readers.encoding import detect_encoding, open_text, readable
from tasks.data.readers.malformed import Malformed
from tasks.data.readers.source import File
from tasks.data.schema import Role, map_columns

__all__ = ["Beir", "Document", "is_beir", "read_beir", "read_qrels"]

# What the splits are called, by what they are used for.
SPLITS = {"train": ("train",), "validation": ("dev", "validation", "valid", "val"), "test": ("test",)}
SUFFIXES = (".tsv", ".txt", ".qrels", ".qrel", ".jsonl", ".csv", ".parquet")
QUERY = Role("query-id", ("query_id", "qid", "query"), True, False, "the id of the query")
DOCUMENT = Role("corpus-id", ("corpus_id", "doc_id", "docid", "document_id", "pid"), True, False, "the document's id")
GRADE = Role("score", ("grade", "relevance", "label", "rel"), True, False, "how relevant it is, 0 for not at all")
MEND = "Each line is a query id, a document id and a whole number (0 = not relevant), with tabs between"

Qrel = tuple[str, str, int]  # query id, document id, grade


@dataclass(frozen=True)
class Beir:
    """A split of a BEIR folder.

    `qrels` are (query id, document id, grade) in the order of the file, with ids that nothing has included (see
    `tasks.data.ranking.checks.check_beir`); `rows` has the line of each in the file `qrels_source`.
    """

    source: str
    split: str
    qrels_source: str
    queries: Mapping[str, str]
    corpus: Mapping[str, Document]
    qrels: list[Qrel]
    rows: list[int]

    def judged(self) -> Iterator[tuple[int, str, str, int]]:
        """(row, query id, document id, grade) of each pair once whose query and document there are.

        Of a pair that is judged twice the higher grade counts.
        """
        best: dict[tuple[str, str], tuple[int, int]] = {}
        for row, (query, document, grade) in zip(self.rows, self.qrels, strict=True):
            if query in self.queries and document in self.corpus:
                first, highest = best.get((query, document), (row, grade))
                best[query, document] = (first, max(highest, grade))
        for (query, document), (row, grade) in best.items():
            yield row, query, document, grade


def is_beir(source: str) -> bool:
    """Whether this is a folder with a corpus, such a folder with `:split`, or one of its qrels files."""
    return _folder(source) is not None


def read_beir(source: str, wanted: str = "test") -> Beir:
    """One split of a BEIR folder.

    Args:
        source: `folder`, `folder:split`, or the path of `folder/qrels/split.tsv`.
        wanted: what the rows are for where `source` names no split: train, validation (dev) or test.

    Raises:
        DataError: no such folder, no queries, no such split (the message has those there are), a file that
            cannot be read, or qrels that are none.
    """
    found = _folder(source)
    if found is None:
        raise DataError(f"{source} is no BEIR folder: it must have corpus.jsonl, queries.jsonl and qrels/<split>.tsv")
    folder, file, split = found
    if file is None:
        file = _split_file(source, folder, SPLITS[wanted] if split is None else (split,))
    queries = part_file(folder, "queries")
    if queries is None:
        raise DataError(f"{folder} has no queries.jsonl (its lines: {{\"_id\": \"7\", \"text\": \"…\"}})")
    qrels, rows = read_qrels(file)
    return Beir(source, split_name(file), str(file), read_queries(queries), load_corpus(str(folder)), qrels, rows)


def read_qrels(file: Path) -> tuple[list[Qrel], list[int]]:
    """Judged pairs and the line of each: BEIR's three columns, TREC's four, or a table with such columns.

    Grades below 0 (TREC has them for spam) are read as 0.

    Raises:
        DataError: a line that is something else, or no line at all.
    """
    bad = Malformed(str(file))
    cells = _table_cells(file) if file.suffix in (".jsonl", ".csv", ".parquet") else _lines(file, bad)
    qrels, rows = [], []
    for row, query, document, grade in cells:
        try:
            ids, number = (as_id(query), as_id(document)), as_number(grade)
            if ids[0] is None or ids[1] is None:
                raise UnreadableError("an id is missing")
            if number != int(number):
                raise UnreadableError(f"the grade is {grade}, not a whole number")
        except UnreadableError as error:
            bad.add(f"line {row}: {error}")
            continue
        qrels.append((ids[0], ids[1], max(0, int(number))))
        rows.append(row)
    bad.raise_if_any(MEND)
    if not qrels:
        raise DataError(f"{file} has no judged pairs. {MEND}")
    return qrels, rows


def split_name(file: Path) -> str:
    """`train` of qrels/train.tsv."""
    return file.name.split(".")[0]


def _folder(source: str) -> tuple[Path, Path | None, str | None] | None:
    """(folder, qrels file, split) as far as `source` names them; None if it is no such folder."""
    path = Path(source).expanduser()
    if path.is_file() and path.parent.name == "qrels" and part_file(path.parent.parent, "corpus"):
        return path.parent.parent, path, None
    if path.is_dir():
        return (path, None, None) if _has_parts(path) else None
    head, colon, split = source.rpartition(":")
    folder = Path(head).expanduser()
    return (folder, None, split) if colon and split and folder.is_dir() and _has_parts(folder) else None


def _has_parts(folder: Path) -> bool:
    return part_file(folder, "corpus") is not None and (folder / "qrels").is_dir()


def _split_file(source: str, folder: Path, names: tuple[str, ...]) -> Path:
    files = {split_name(p): p for p in sorted((folder / "qrels").iterdir()) if p.suffix in SUFFIXES}
    for name in names:
        if name in files:
            return files[name]
    there = f"there are {', '.join(files)}" if files else "its folder qrels is empty"
    mend = f"name one, as {folder}:{next(iter(files), 'train')}" if files else f"it needs qrels/{names[0]}.tsv"
    raise DataError(f"{source} has no split {names[0]!r}: {there}; {mend}")


def _lines(file: Path, bad: Malformed) -> Iterator[tuple[int, str, str, str]]:
    """(line, query id, document id, grade) of a file without quotes, a header line left out."""
    opened = File(str(file), file, "tsv", compressed=False)
    if file.stat().st_size == 0:
        raise DataError(f"{file} is empty")
    encoding, _ = detect_encoding(opened)
    with readable(opened), open_text(opened, encoding) as stream:
        for number, line in enumerate(stream, start=1):
            cells = line.rstrip("\r\n").split("\t") if "\t" in line else line.split()
            if not line.strip() or (number == 1 and not _is_number(cells[-1])):
                continue
            if len(cells) == 4:
                cells.pop(1)  # TREC's iteration, which nothing uses
            if len(cells) != 3:
                bad.add(f"line {number}: {len(cells)} cells, expected 3: {line.strip()[:60]!r}")
                continue
            yield number, cells[0], cells[1], cells[2]


def _is_number(cell: str) -> bool:
    return cell.strip().lstrip("-").replace(".", "", 1).isdigit()


def _table_cells(file: Path) -> Iterator[tuple[int, Any, Any, Any]]:
    table = readers.read(str(file))
    mapping, _ = map_columns(table, (QUERY, DOCUMENT, GRADE), {})
    columns = (table.columns[mapping[role.name]] for role in (QUERY, DOCUMENT, GRADE))
    yield from zip(table.rows, *columns, strict=True)
