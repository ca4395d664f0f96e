"""Measure retrieval: encode queries and documents, rank, and write what a person reads of it.

Q queries, N documents, K ranks that are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tasks.data.module import in_rows
from tasks.data.passages import PassageExamples
from tasks.data.ranking import Chunk, Collection, SequenceBatch, TupleExamples
from tasks.data.readers import Table
from tasks.data.tokenise import Progress
from tasks.data.writers import open_writer
from tasks.metrics import RankingReport
from tasks.metrics.ranking import judged, trec_order
from tasks.per_query import write_queries
from tasks.retrieval_loss import pair_scores
from tasks.run import forward
from tasks.vectors import Vectors, top_k

#: Documents encoded at a time, by kind: 6 MB of dense vectors, 130 MB of token vectors at 250 tokens each.
CHUNK = {"dense": 4096, "multi_vector": 1024, "sparse": 1024}
#: Ranks of each query in predictions.csv, and queries in worst_errors.csv.
SHOWN, WORST = 10, 50
#: The metric of worst_errors.csv.
WORST_BY = "ndcg@10"


@dataclass
class Measured:
    """A report with the metrics of other rankings of the same queries beside it (`bm25_ndcg@10` …)."""

    report: Any
    beside: dict[str, float | None] = field(default_factory=dict)

    def compute(self) -> dict[str, float | None]:
        """Every metric under its name."""
        return self.report.compute() | self.beside


def measure_ranking(
    task: Any,
    examples: Any,
    table: Table,
    split: str,
    folder: Path,
    tokens_per_batch: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Measured:
    """One pass over a collection; writes predictions.csv, worst_errors.csv and, of rankings, per_query.csv.

    In memory are the queries' vectors, one chunk of documents and the ranks that are kept.

    Args:
        task: a `tasks.retrieval.Retrieval`.
        examples: a `Collection`, or rows to learn from, which search their own documents.
        advance: told of the rows of `table` in all.
    """
    collection = examples.collection() if isinstance(examples, TupleExamples) else examples
    progress = in_rows(advance, len(table)) if advance else None
    report = task.new_report(split).to(task.device)
    if collection.scored is not None:
        vectors = Vectors.cat(
            [part for _, part in encoded(task, collection, ("query", "document"), tokens_per_batch, progress)]
        )
        write_pairs(folder, collection, fill_report(report, collection, vectors).cpu().numpy())
        return Measured(report)
    queries = Vectors.cat([part for _, part in encoded(task, collection, ("query",), tokens_per_batch, progress)])
    documents = encoded(task, collection, ("document",), tokens_per_batch, progress)
    scores, found = top_k(queries, documents, max(report.ks))
    scores, found = trec_order(scores.cpu(), found.cpu(), collection.document_ids)
    everyone = torch.arange(len(collection.queries))
    grades, ideal = judged(found, everyone, qrels_of(collection))
    report.update(grades, ideal, everyone)
    write_ranking(folder, collection, scores, found, grades)
    write_worst(folder, collection, scores, found, report)
    write_queries(folder, collection.query_ids, collection.queries, report)
    return Measured(report, floor(collection, report))


def encoded(
    task: Any,
    collection: Collection,
    roles: Sequence[str],
    tokens_per_batch: int | None,
    progress: Progress | None = None,
) -> Iterator[tuple[Tensor, Vectors]]:
    """(numbers (n,), vectors) of the queries, of the documents, or of both, chunk by chunk."""
    total = len(collection)
    for role in roles:
        done = 0 if role == "query" else len(collection.queries)
        for chunk in collection.chunks(role, CHUNK[task.kind]):  # type: ignore[arg-type]
            yield torch.from_numpy(chunk.numbers), encode_chunk(task, chunk, tokens_per_batch)
            done += len(chunk)
            if progress:
                progress(done, total)


def encode_chunk(task: Any, chunk: Chunk, tokens_per_batch: int | None = None, advance: Any = None) -> Vectors:
    """The vectors of a chunk in its order, on the task's device; like lengths were encoded together."""
    if isinstance(chunk.examples, PassageExamples) and task.vector_kind != task.kind:
        # Each passage is a vector of its own: so is it encoded, and a book needs no more memory than a passage.
        passages = chunk.examples.tokens
        each = encode_chunk(task, Chunk(passages.tokens, chunk.role, 0), tokens_per_batch)
        if advance:
            advance(len(chunk))
        return Vectors(task.vector_kind, each.values, torch.from_numpy(passages.starts).to(each.device))
    parts, places = [], []
    for batch, outputs in forward(task, chunk, tokens_per_batch, len(chunk)):
        assert isinstance(batch, SequenceBatch)
        parts.append(task.vectors(outputs, batch.packed, batch.is_query).stored())
        places.append(batch.index)
        if advance:
            advance(len(batch))
    return Vectors.cat(parts).select(torch.cat(places).argsort())


def fill_report(report: Any, collection: Collection, vectors: Vectors, share: slice = slice(None)) -> Tensor:
    """Measure a collection that is encoded as a whole.

    Args:
        report: is fed.
        vectors: of all queries, then all documents.
        share: which queries, or graded pairs, to count.

    Returns:
        The scores: of the K best documents of each query (Q, K), or of graded pairs (P,).
    """
    count = len(collection.queries)
    if collection.scored is not None:
        numbers = torch.arange(len(collection.scored.query))[share]
        sides = (
            torch.from_numpy(column)[numbers]
            for column in (collection.scored.query, collection.scored.document + count)
        )
        scores = torch.cat([
            pair_scores(vectors.select(first), vectors.select(second))
            for first, second in zip(*(side.split(CHUNK[vectors.kind]) for side in sides), strict=True)
        ])  # fmt: skip
        report.update(scores, torch.from_numpy(collection.scored.value)[numbers].to(scores), numbers)
        return scores
    numbers = torch.arange(count)[share]
    documents = ((torch.arange(len(vectors) - count), vectors.select(slice(count, len(vectors)))) for _ in range(1))
    scores, found = top_k(vectors.select(numbers), documents, max(report.ks))
    scores, found = trec_order(scores.cpu(), found.cpu(), collection.document_ids)
    report.update(*judged(found, numbers, qrels_of(collection)), numbers)
    return scores


def qrels_of(collection: Collection) -> tuple[Tensor, Tensor, Tensor]:
    """Query numbers, document numbers, grades."""
    query, document, grade = (torch.from_numpy(column) for column in collection.qrels)
    return query, document, grade


def floor(collection: Collection, report: RankingReport) -> dict[str, float | None]:
    """What BM25 reaches on the same collection, as `bm25_<metric>`."""
    # Imported here: training and encoding need no BM25, and its library takes a second to load.
    from tasks.search.bm25 import bm25_ranking

    found = RankingReport(report.ks)
    everyone = torch.arange(len(collection.queries))
    scores, numbers = bm25_ranking(collection.queries, collection.documents, max(report.ks))
    _, numbers = trec_order(scores, numbers, collection.document_ids)
    found.update(*judged(numbers, everyone, qrels_of(collection)), everyone)
    return {f"bm25_{name}": value for name, value in found.compute().items()}


def write_ranking(folder: Path, collection: Collection, scores: Tensor, found: Tensor, grades: Tensor) -> None:
    """predictions.csv: the first SHOWN documents of each query."""
    with open_writer(folder / "predictions.csv") as writer:
        for start in range(0, len(found), CHUNK["dense"]):
            part = found[start : start + CHUNK["dense"], :SHOWN]
            rows, ranks = (part >= 0).nonzero(as_tuple=True)
            numbers = part[rows, ranks].tolist()
            asked = (rows + start).tolist()
            writer.write({
                "query_id": [collection.query_ids[i] for i in asked],
                "query": [collection.queries[i] for i in asked],
                "rank": (ranks + 1).tolist(),
                "document_id": [collection.document_ids[i] for i in numbers],
                "score": [round(score, 6) for score in scores[start:][rows, ranks].tolist()],
                "grade": grades[start:][rows, ranks].tolist(),
                "text": [collection.documents[i] for i in numbers],
            })  # fmt: skip


def write_worst(folder: Path, collection: Collection, scores: Tensor, found: Tensor, report: RankingReport) -> None:
    """worst_errors.csv: the WORST queries with the lowest nDCG@10: what was wanted, where it came, what came first."""
    places, metrics = report.per_query()
    values = metrics[WORST_BY] if WORST_BY in metrics else metrics[report.headline]
    order = np.argsort(values, kind="stable")
    worst = [int(i) for i in order[:WORST] if values[i] < 1]
    best = wanted(collection, places[worst])
    with open_writer(folder / "worst_errors.csv") as writer:
        columns: dict[str, list[Any]] = {
            "query_id": [collection.query_ids[places[i]] for i in worst],
            "query": [collection.queries[places[i]] for i in worst],
            WORST_BY: [round(float(values[i]), 4) for i in worst],
        }
        columns |= {name: [] for name in ("wanted_id", "wanted", "wanted_rank", "first_id", "first", "first_score")}
        for i, document in zip(worst, best, strict=True):
            row = int(places[i])
            hit = (found[row] == document).nonzero().flatten() if document is not None else found.new_zeros(0)
            first = int(found[row, 0])
            columns["wanted_id"].append(None if document is None else collection.document_ids[document])
            columns["wanted"].append(None if document is None else collection.documents[document])
            columns["wanted_rank"].append(int(hit[0]) + 1 if len(hit) else None)
            columns["first_id"].append(collection.document_ids[first] if first >= 0 else None)
            columns["first"].append(collection.documents[first] if first >= 0 else None)
            columns["first_score"].append(round(float(scores[row, 0]), 6) if first >= 0 else None)
        writer.write(columns)


def wanted(collection: Collection, queries: np.ndarray) -> list[int | None]:
    """The document of the highest grade of each query, of equal ones the first; None where none is relevant."""
    query, document, grade = collection.qrels
    found: list[int | None] = []
    for number in queries:
        own = np.flatnonzero((query == number) & (grade > 0))
        found.append(int(document[own[np.argmax(grade[own])]]) if len(own) else None)
    return found


def write_pairs(folder: Path, collection: Collection, scores: np.ndarray) -> None:
    """predictions.csv of graded pairs, and worst_errors.csv: the pairs whose place among all scores is most wrong."""
    assert collection.scored is not None
    query, document, gold = collection.scored
    columns: dict[str, Any] = {
        "query": [collection.queries[i] for i in query],
        "document": [collection.documents[i] for i in document],
        "right": gold.tolist(),
        "score": np.round(scores, 6).tolist(),
    }
    with open_writer(folder / "predictions.csv") as writer:
        writer.write(columns)
    by_rank = [np.argsort(np.argsort(values, kind="stable")) / len(values) for values in (gold, scores)]
    distance = np.abs(by_rank[0] - by_rank[1])
    worst = np.argsort(-distance, kind="stable")[:WORST]
    with open_writer(folder / "worst_errors.csv") as writer:
        chosen = {name: [values[i] for i in worst] for name, values in columns.items()}
        writer.write(chosen | {"places_off": np.round(distance[worst], 3).tolist()})
