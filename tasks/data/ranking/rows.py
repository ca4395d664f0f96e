"""Every format of retrieval data to one table: a query, its positive, its negatives, and scores where there are any."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from modernbert.errors import ConfigError
from tasks.data import readers
from tasks.data.ranking.beir import Beir, is_beir, read_beir
from tasks.data.ranking.cells import Text, UnreadableError, as_id, as_number, as_numbers, as_texts
from tasks.data.ranking.checks import check_beir
from tasks.data.ranking.collection import OTHERS
from tasks.data.ranking.columns import match_columns
from tasks.data.ranking.corpus import Document, load_corpus
from tasks.data.ranking.pool import Pool
from tasks.data.readers.table import Table
from tasks.data.schema import Columns, Problem, Report

Kind = Literal["tuples", "scored"]
MENDS = {
    "positive": "Write a text, or a list of texts",
    "negative": "Write a text, a list of texts, or leave the cell empty",
    "score": "Write a number such as 0.8; if the column is no score, set data.columns.score=false",
    "scores": "Write a list of numbers, that of the positive first, then one for each negative",
    "id": "Write a text or a whole number",
}


@dataclass
class RankingTable(Table):
    """Rows of a query and its positive. Beside the columns of the file there are

    `query`, `positive` (str, None where missing), `negatives` (list of str), `scores` (a teacher's, of the positive
    and each negative, or None), `score` (of a graded pair, or None), `grade` (int, 1 unless qrels say more),
    `query_id`, `positive_id` (the text itself where there is no id), `positive_key` and `negative_keys` (keys of
    `corpus`).

    Args:
        kind: tuples, or scored (graded pairs).
        split: train, validation or test: a test searches the whole corpus.
        corpus: what there is to search, by key: the given corpus, else every text that is a positive or negative.
        names: role -> the column of the file, for messages.
    """

    kind: Kind = "tuples"
    split: str = "test"
    corpus: Mapping[str, Document] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def select(self, indices: Sequence[int]) -> RankingTable:
        """The rows at these positions, in this order; the corpus stays whole."""
        part = super().select(indices)
        return dataclasses.replace(self, columns=part.columns, rows=part.rows, notes=part.notes)


@dataclass
class Row:
    """One row as it is read; `texts` are the positive and the negatives."""

    row: int
    position: int  # in the table it comes from
    query: Any
    query_id: str
    positive: Text
    negatives: list[Text]
    key: str = ""
    negative_keys: Sequence[str] = ()
    scores: list[float] | None = None
    score: float | None = None
    grade: int = 1


def read_tuples(
    source: str, given: Mapping[str, Any], report: Report, split: str = "test", corpus: str | None = None
) -> RankingTable:
    """Rows of a table file, hub data set or BEIR folder.

    Args:
        given: roles (see `tasks.data.ranking.columns`) to columns.
        report: takes in every row that cannot be read; such rows are left out.
        split: what the rows are for: train, validation or test. Of a BEIR folder it is also which qrels are read.
        corpus: a table of documents to search, which a BEIR folder brings itself.

    Raises:
        DataError: a file that cannot be read; ConfigError: columns that do not fit, a corpus for a BEIR folder.
    """
    if is_beir(source) or Path(source).expanduser().is_dir():
        if corpus:
            raise ConfigError(f"data.corpus={corpus}: {source} is a BEIR folder and has its own corpus; leave it out")
        return _from_beir(read_beir(source, split), report, split)
    documents = load_corpus(corpus) if corpus else None
    table = readers.read(source)
    mapping, notes = match_columns(table, given, documents is not None)
    pool = Pool(documents)
    rows = []
    for row in _read_rows(table, mapping, report):
        if placed := pool.place(report, table.source, row.row, row.positive):
            row.positive, row.key = placed
            rows.append(row)
    for row in rows:
        row.negative_keys = [pool.place_negative(text) for text in row.negatives]
    kind: Kind = "scored" if "score" in mapping else "tuples"
    notes += [*pool.notes(), *([_search_note(pool.corpus, split)] if kind == "tuples" else [])]
    if not rows:
        report.raise_if_errors()  # a table without rows has nothing else to say
    names = {name: str(column) for name, column in mapping.items() if isinstance(column, str)}
    taken = table.select([row.position for row in rows])
    return _table(table.source, taken.columns, rows, [*table.notes, *notes], pool.corpus, kind, split, names)


def _from_beir(beir: Beir, report: Report, split: str) -> RankingTable:
    """A row for each relevant document; documents judged not relevant are the query's negatives (a test needs none)."""
    check_beir(report, beir)
    rows: list[Row] = []
    negatives: dict[str, list[Text]] = {}
    judged = list(beir.judged())
    for _, query, key, grade in judged:
        if grade == 0 and split != "test":
            negatives.setdefault(query, []).append(Text(beir.corpus[key].full, key))
    for row, query, key, grade in judged:
        if grade > 0:
            positive = Text(beir.corpus[key].full, key)
            found = negatives.get(query, [])
            keys = [text.id for text in found if text.id is not None]
            rows.append(Row(row, len(rows), beir.queries[query], query, positive, found, key, keys, grade=grade))
    notes = [f"split {beir.split!r}: {len({row.query_id for row in rows}):,} queries, {len(rows):,} relevant documents"]
    if split == "train":
        filled = [row for row in rows if row.positive.text.strip()]  # check_beir has named the empty documents
        if len(filled) < len(rows):
            notes.append(f"relevant documents without a text, left out of training: {len(rows) - len(filled):,}")
        rows = filled
    lacking = {query for _, query, _, _ in judged} - {row.query_id for row in rows}
    if lacking:
        notes.append(f"queries without a relevant document, left out: {len(lacking):,}")
    notes.append(_search_note(beir.corpus, split))
    if not rows:
        report.raise_if_errors()
    return _table(beir.qrels_source, {}, rows, notes, beir.corpus, "tuples", split, {})


def _search_note(corpus: Mapping[str, Document], split: str) -> str:
    """What the queries of a split search, in words."""
    some = f"the documents judged for its queries and at most {OTHERS:,} others of {len(corpus):,}, drawn at random"
    return {
        "train": f"a validation that is split off searches {some}",
        "validation": f"validation searches {some}",
        "test": f"test searches {len(corpus):,} documents",
    }[split]


def _table(
    source: str,
    columns: Mapping[str, list[Any]],
    rows: list[Row],
    notes: list[str],
    corpus: Mapping[str, Document],
    kind: Kind,
    split: str,
    names: Mapping[str, str],
) -> RankingTable:
    made: dict[str, list[Any]] = {
        "query": [row.query for row in rows],
        "positive": [row.positive.text if row.key else None for row in rows],
        "negatives": [[text.text for text in row.negatives] for row in rows],
        "scores": [row.scores for row in rows],
        "score": [row.score for row in rows],
        "grade": [row.grade for row in rows],
        "query_id": [row.query_id for row in rows],
        "positive_id": [row.positive.id or row.positive.text for row in rows],
        "positive_key": [row.key for row in rows],
        "negative_keys": [list(row.negative_keys) for row in rows],
    }
    numbers = [row.row for row in rows]
    return RankingTable(source, {**columns, **made}, numbers, notes, kind, split, corpus, names)


def _read_rows(table: Table, mapping: Columns, report: Report) -> list[Row]:
    """The rows that can be read, one for each positive; the others go to the report."""

    def cells(role: str) -> list[Any]:
        return table.columns[mapping[role]] if role in mapping else [None] * len(table)

    def lists(role: str) -> list[list[Any]]:
        return [[table.columns[name][i] for name in mapping.get(role, [])] for i in range(len(table))]

    reader = _Reader(table.source, mapping, report)
    found: list[Row] = []
    columns = (cells("query"), cells("query_id"), cells("positive"), cells("positive_id"), lists("negative"))
    scores = (cells("score"), lists("scores"))
    for position, (row, *rest) in enumerate(zip(table.rows, *columns, *scores, strict=True)):
        found += reader.rows(position, row, *rest)
    return found


class _Reader:
    """Reads the cells of one row at a time."""

    def __init__(self, source: str, mapping: Columns, report: Report) -> None:
        self.source, self.mapping, self.report = source, mapping, report
        self.several = False  # whether rows have lists of positives

    def rows(
        self,
        position: int,
        row: int,
        query: Any,
        query_id: Any,
        positive: Any,
        positive_id: Any,
        negative: list[Any],
        score: Any,
        scores: list[Any],
    ) -> list[Row]:
        """One row for each positive of a row of the file; none where a cell cannot be read."""
        role = "id"
        try:
            own_id, document = as_id(query_id), as_id(positive_id)
            role = "positive"
            texts = as_texts(positive)
            if len(texts) > 1 and document is not None:
                raise UnreadableError(f"{len(texts)} texts with the one id {document!r}; give each a row of its own")
            texts = [Text(text.text, document or text.id) for text in texts or [Text("")]]
            role = "negative"
            negatives = [text for cell in negative for text in as_texts(cell)]
            role = "score"
            value = as_number(score) if "score" in self.mapping else None
            role = "scores"
            teacher = self.teacher(scores, len(texts), len(negatives)) if "scores" in self.mapping else None
        except UnreadableError as error:
            names = self.mapping.get(role, role)
            column = ", ".join(names) if isinstance(names, list) else names
            what = str(error) if role == "id" else f"{column!r}: {error}"
            self.report.add(
                Problem("error", f"{role}-unreadable", self.source, row, column, what, MENDS[role])
            )
            return []
        key = own_id or (query if isinstance(query, str) else "")
        return [
            Row(position=position, row=row, query=query, query_id=key, positive=text, negatives=negatives, score=value,
                scores=None if teacher is None else [teacher[i], *teacher[len(texts):]])
            for i, text in enumerate(texts)
        ]  # fmt: skip

    def teacher(self, cells: list[Any], positives: int, negatives: int) -> list[float]:
        """Scores of all positives, then of all negatives."""
        values: list[float] = []
        for cell in cells:
            if cell is None and len(cells) > 1:
                continue  # beside a negative that is left out
            is_list = isinstance(cell, (list, tuple)) or (isinstance(cell, str) and cell.lstrip().startswith("["))
            values += as_numbers(cell) if is_list or len(cells) == 1 else [as_number(cell)]
        if len(values) != positives + negatives:
            texts = f"{positives + negatives} texts (the positive and {negatives} negatives)"
            raise UnreadableError(f"{len(values)} scores for {texts}")
        return values
