"""What an evaluation of retrieval reports and writes, on a collection whose ranking is known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from retrieval_parts import ROWS, SCORED, MakeEncoder, new_task, read

from tasks.data import readers
from tasks.data.ranking import Collection, Judged
from tasks.data.readers import Table
from tasks.embedding import Embedder
from tasks.metrics import CorrelationReport, RankingReport
from tasks.retrieval import Retrieval
from tasks.retrieval_measure import fill_report, measure_ranking
from tasks.vectors import Vectors

DOCUMENTS = ["good", "bad map", "refund money", "the parcel has not come yet", "app closes when open map"]
QUERIES = ["where is my parcel", "map", "password"]
ROWS_OF_TEST = Table("rows", {"query": QUERIES}, [1, 2, 3], [])


def collection(task: Retrieval, tokenizer: object, grades: list[tuple[int, int, int]]) -> Collection:
    columns = [np.array(column, dtype=np.int64) for column in zip(*grades, strict=True)]
    return Collection(
        QUERIES, ["q1", "q2", "q3"], DOCUMENTS, [f"d{i}" for i in range(5)], Judged(*columns),
        lambda texts, role: task.schema.tokens(tokenizer, texts, role),
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["dense", "multi_vector"])
def test_files_say_what_was_found(tiny_encoder: MakeEncoder, tmp_path: Path, kind: str) -> None:
    task, tokenizer = new_task(tiny_encoder("bert"), read(tmp_path, ROWS), kind)
    embedder = Embedder(task, tokenizer)
    scores = torch.stack([
        torch.cat([_score(embedder, query, document) for document in DOCUMENTS]) for query in QUERIES
    ])  # fmt: skip
    order = scores.argsort(dim=1, descending=True)
    first, second, last = (int(order[0, i]) for i in (0, 1, 4))
    # The first query's best document is right; the second's worst; the third has none.
    grades = [(0, first, 2), (0, second, 0), (1, int(order[1, 4]), 1), (2, 0, 0)]
    found = measure_ranking(task, collection(task, tokenizer, grades), ROWS_OF_TEST, "test", tmp_path).compute()
    assert found["ndcg@10"] == pytest.approx((1 + 1 / math.log2(6) + 0) / 3, abs=1e-6)
    assert found["mrr@10"] == pytest.approx((1 + 1 / 5 + 0) / 3, abs=1e-6)
    assert {"ndcg@10_low", "bm25_ndcg@10", "bm25_recall@100_high"} <= set(found)

    rows = readers.read(str(tmp_path / "predictions.csv")).columns
    assert rows["query_id"] == ["q1"] * 5 + ["q2"] * 5 + ["q3"] * 5
    assert list(map(int, rows["rank"])) == [1, 2, 3, 4, 5] * 3
    assert rows["document_id"][:5] == [f"d{i}" for i in order[0]]
    assert rows["text"][4] == DOCUMENTS[last]
    assert list(map(float, rows["score"][:5])) == pytest.approx(scores[0, order[0]].tolist(), abs=1e-5)
    assert list(map(int, rows["grade"]))[:5] == [2, 0, 0, 0, 0]

    worst = readers.read(str(tmp_path / "worst_errors.csv")).columns
    assert worst["query_id"] == ["q3", "q2"]
    assert worst["wanted"] == [None, DOCUMENTS[int(order[1, 4])]]
    assert worst["wanted_rank"][1] in (5, "5")
    assert worst["first_id"] == [f"d{int(order[2, 0])}", f"d{int(order[1, 0])}"]
    each = readers.read(str(tmp_path / "per_query.csv")).columns
    assert list(map(float, each["ndcg@10"])) == pytest.approx([1, 1 / math.log2(6), 0], abs=1e-5)


def _score(embedder: Embedder, query: str, document: str) -> torch.Tensor:
    left, right = embedder.encode([query], "query"), embedder.encode([document], "document")
    if left.cu_seqlens is None:
        return left.values[0] @ right.values.t()
    return (left.values @ right.values.t()).amax(dim=1).sum()[None]


def test_a_corpus_in_chunks_is_ranked_as_a_whole(
    tiny_encoder: MakeEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, tokenizer = new_task(tiny_encoder("bert"), read(tmp_path, ROWS))
    grades = [(0, 3, 1), (1, 4, 2), (1, 1, 1)]
    whole = measure_ranking(task, collection(task, tokenizer, grades), ROWS_OF_TEST, "test", tmp_path).compute()
    text = (tmp_path / "predictions.csv").read_text()
    monkeypatch.setattr("tasks.retrieval_measure.CHUNK", {"dense": 2})
    told: list[int] = []
    whole_rows = collection(task, tokenizer, grades), ROWS_OF_TEST
    parts = measure_ranking(task, *whole_rows, "test", tmp_path, None, told.append).compute()
    assert parts == pytest.approx(whole)
    assert (tmp_path / "predictions.csv").read_text() == text
    assert (sum(told), len(told)) == (3, 5)


def test_shares_of_queries_add_up(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    """What each rank counts of a validation, together, is what one process counts."""
    task, tokenizer = new_task(tiny_encoder("bert"), read(tmp_path, ROWS))
    some = collection(task, tokenizer, [(0, 3, 1), (1, 4, 2), (1, 1, 1), (2, 2, 1)])
    embedder = Embedder(task, tokenizer)
    vectors = Vectors.cat([embedder.encode(QUERIES, "query"), embedder.encode(DOCUMENTS, "document")])
    whole, parts = RankingReport(), RankingReport()
    fill_report(whole, some, vectors)
    for rank in range(2):
        fill_report(parts, some, vectors, slice(rank, None, 2))
    assert parts.compute() == whole.compute()


def test_graded_pairs(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    table = read(tmp_path, SCORED, "test")
    task, tokenizer = new_task(tiny_encoder("bert"), table)
    examples = task.schema.examples(table, tokenizer, "evaluate")
    found = task.measure_ranking(examples, table, "test", tmp_path).compute()
    embedder = Embedder(task, tokenizer)
    scores = torch.cat([_score(embedder, row["sentence1"], row["sentence2"]) for row in SCORED])
    report = CorrelationReport()
    report.update(scores, torch.tensor([row["score"] for row in SCORED]), torch.arange(5))
    assert found["spearman"] == pytest.approx(report.compute()["spearman"])
    assert task.shown == ("spearman", "pearson")
    rows = readers.read(str(tmp_path / "predictions.csv")).columns
    assert rows["document"] == [row["sentence2"] for row in SCORED]
    assert list(map(float, rows["right"])) == [row["score"] for row in SCORED]
    assert list(map(float, rows["score"])) == pytest.approx(scores.tolist(), abs=1e-5)
    worst = readers.read(str(tmp_path / "worst_errors.csv")).columns
    off = list(map(float, worst["places_off"]))
    assert off == sorted(off, reverse=True)
