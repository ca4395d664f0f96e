"""A table of rows to examples: distinct texts as numbers for training, queries and documents for measuring.

Dimensions: N rows, M negatives of all rows, U distinct query texts, V distinct document texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from tasks.data.ranking.batches import TextRole
from tasks.data.ranking.collection import OTHERS, Collection, Encode, Judged, Texts, join_tokens, take
from tasks.data.ranking.corpus import FullTexts
from tasks.data.ranking.examples import TupleExamples, TupleRows
from tasks.data.ranking.rows import RankingTable
from tasks.data.sampler import permutation

IntArray = npt.NDArray[np.int64]
# Of the draw of other documents. Not the run's own: two runs that differ in their seed search the same.
SEED = 0


def build_examples(table: RankingTable, encode: Encode, negatives: int) -> TupleExamples:
    """Rows to learn from; each distinct query and document is encoded once.

    Args:
        negatives: most of a row in a batch.
    """
    rows, queries, documents = number_rows(table)
    tokens = join_tokens([encode(queries, "query"), encode(documents, "document")])
    numbers = {"query": {text: i for i, text in enumerate(queries)}}
    numbers["document"] = {text: len(queries) + i for i, text in enumerate(documents)}

    def collect(known: Texts) -> Collection:
        def look_up(texts: Sequence[str], role: TextRole) -> Texts:
            return take(known, [numbers[role][text] for text in texts])

        return build_collection(table, look_up, others=0)

    return TupleExamples(tokens, len(queries), rows, negatives, collect)


def number_rows(table: RankingTable) -> tuple[TupleRows, list[str], list[str]]:
    """The rows as numbers, and the U query texts and V document texts that these count."""
    columns = table.columns
    queries, documents, ids = dict[str, int](), dict[str, int](), dict[str, int]()
    id_of = dict(zip(columns["positive_key"], columns["positive_id"], strict=True))
    negatives = [text for texts in columns["negatives"] for text in texts]
    keys = [key for keys in columns["negative_keys"] for key in keys]
    scores = columns["scores"] if any(value is not None for value in columns["scores"]) else None
    score = columns["score"] if table.kind == "scored" else None
    rows = TupleRows(
        query=_numbers(columns["query"], queries),
        positive=_numbers(columns["positive"], documents),
        negative=_numbers(negatives, documents),
        offsets=np.cumsum([0, *map(len, columns["negatives"])]).astype(np.int64),
        positive_document=_numbers(columns["positive_id"], ids),
        negative_document=_numbers([id_of.get(key, key) for key in keys], ids),
        positive_score=None if scores is None else np.array([row[0] for row in scores], dtype=np.float32),
        negative_score=None if scores is None else np.array([v for row in scores for v in row[1:]], dtype=np.float32),
        score=None if score is None else np.array(score, dtype=np.float32),
    )
    return rows, list(queries), list(documents)


def _numbers(values: Iterable[str], known: dict[str, int]) -> IntArray:
    """The number of each value, new ones counted on."""
    return np.array([known.setdefault(value, len(known)) for value in values], dtype=np.int64)


def build_collection(table: RankingTable, encode: Encode, others: int | None = OTHERS) -> Collection:
    """The queries of the rows and what they search: the documents judged for them and `others` more, or all (None).

    Documents are in the order of the corpus. Where queries or documents have no ids these are q1, q2 … and d1, d2 …:
    their position among all.
    """
    columns, corpus = table.columns, table.corpus
    query_of: dict[str, int] = {}
    text_of: dict[str, str] = {}
    for key, text in zip(columns["query_id"], columns["query"], strict=True):
        query_of.setdefault(key, len(query_of))
        text_of.setdefault(key, text)
    place = {key: i for i, key in enumerate(corpus)}
    # Positions in the corpus, best grade of each pair; what is judged twice counts once.
    grades: dict[tuple[int, int], int] = {}
    cells = (columns[name] for name in ("query_id", "positive_key", "grade", "negative_keys"))
    for query_id, positive, grade, negatives in zip(*cells, strict=True):
        for key, value in ((positive, grade), *((key, 0) for key in negatives if key in place)):
            pair = (query_of[query_id], place[key])
            grades[pair] = max(value, grades.get(pair, 0))
    searched = _searched(len(corpus), {document for _, document in grades}, others)
    number = {document: i for i, document in enumerate(searched)}
    judged = [(query, number[document], grade) for (query, document), grade in grades.items()]
    values = corpus.values()
    found = list(values) if others is None else [document for i, document in enumerate(values) if i in number]
    ids = [d.id or f"d{i + 1}" for i, d in zip(searched, found, strict=True)]
    scored = None
    if table.kind == "scored":
        cells = (columns[name] for name in ("query_id", "positive_key", "score"))
        pairs = [(query_of[key], number[place[text]], score) for key, text, score in zip(*cells, strict=True)]
        scored, judged = _judged(pairs, np.float64), []
    qrels = _judged(judged, np.int64)
    query_ids = [f"q{i + 1}" if key == text else key for i, (key, text) in enumerate(text_of.items())]
    return Collection(list(text_of.values()), query_ids, FullTexts(found), ids, qrels, encode, scored)


def _searched(count: int, judged: set[int], others: int | None) -> Sequence[int]:
    """Positions in the corpus of the documents to search, ascending."""
    if others is None:
        return range(count)
    drawn = [i for i in permutation(count, SEED)[: others + len(judged)].tolist() if i not in judged]
    return sorted(judged.union(drawn[:others]))


def _judged(pairs: Sequence[tuple[int, int, float]], dtype: type) -> Judged:
    query, document, value = ([pair[i] for pair in pairs] for i in range(3))
    return Judged(np.array(query, np.int64), np.array(document, np.int64), np.array(value, dtype))
