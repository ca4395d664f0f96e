"""Which passage of a document that was split is meant: nested hits.

P passages, Q queries, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from tasks.answers import Hit
from tasks.embedding import Embedder
from tasks.search.bm25 import Bm25
from tasks.search.exact import ExactEngine
from tasks.search.index import Index
from tasks.vectors import Vectors, similarity

Spans = Mapping[str, Sequence[tuple[int, int]]]


def locate(
    queries: Sequence[str], hits: Sequence[Sequence[Hit]], index: Index, embedder: Embedder | None
) -> list[list[Hit]]:
    """The hits of each query, each with the passage of its document that answers best: by the model's vectors, or
    without a model by shared words (BM25). Of equal ones the first.

    Args:
        index: of documents that were split (`index.meta.split`).
    """
    texts = {hit.id: hit.text for found in hits for hit in found}
    borders = index.engine.borders(set(texts))
    spans = {name: list(zip(each[::2], each[1::2], strict=True)) for name, each in borders.items()}
    if not spans:
        return [list(found) for found in hits]
    numbers, count = dict[str, range](), 0
    for name, own in spans.items():
        numbers[name] = range(count, count + len(own))
        count += len(own)
    passages = [texts[name][start:end] for name, own in spans.items() for start, end in own]
    vectors = asked = None
    if embedder is not None:
        vectors = passage_vectors(list(spans), passages, index, embedder)
        # In place of a document's passages the query has one vector too: here it meets each by itself.
        found = embedder.encode(queries, "query")
        asked = found if found.kind == vectors.kind else Vectors(vectors.kind, found.values)
    answered = []
    for place, (query, own_hits) in enumerate(zip(queries, hits, strict=True)):
        rows = [number for hit in own_hits for number in numbers[hit.id]]
        if vectors is None or asked is None:
            scores = Bm25([passages[row] for row in rows]).scores(query).tolist() if rows else []
        else:
            scores = similarity(asked.select([place]), vectors.select(rows))[0].tolist() if rows else []
        by_row = dict(zip(rows, scores, strict=True))
        answered.append([with_best(hit, spans[hit.id], [by_row[row] for row in numbers[hit.id]]) for hit in own_hits])
    return answered


def passage_vectors(names: Sequence[str], passages: Sequence[str], index: Index, embedder: Embedder) -> Vectors:
    """P vectors, document after document: those that the index has, else encoded now."""
    engine = index.engine
    if isinstance(engine, ExactEngine) and index.meta.kind != embedder.kind:
        stored = engine.vectors(names)
        return Vectors(embedder.kind, torch.cat([stored[name].values for name in names]))
    return embedder.encode(passages, "document", whole=True).to("cpu")


def with_best(hit: Hit, spans: Sequence[tuple[int, int]], scores: Sequence[float]) -> Hit:
    start, end = spans[max(range(len(spans)), key=lambda i: (scores[i], -i))]
    return replace(hit, start=start, end=end, passage=hit.text[start:end])
