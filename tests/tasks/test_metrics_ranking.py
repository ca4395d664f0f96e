"""Ranking metrics against trec_eval (pytrec_eval-terrier), against counting by hand, and their intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from modernbert.errors import BackendError, ConfigError, DataError
from tasks.metrics.ranking import RankingReport, judged, trec_order

QUERIES, DOCUMENTS, RANKS = 40, 150, 120


def collection(seed: int = 0, ties: bool = False) -> tuple[dict, dict, tuple[torch.Tensor, ...], torch.Tensor, list]:
    """Qrels and a run as trec_eval takes them; the qrels as tensors; scores (Q, N); the document ids."""
    rng = np.random.default_rng(seed)
    names = [f"d{i}" for i in rng.permutation(DOCUMENTS)]
    scores = rng.normal(size=(QUERIES, DOCUMENTS)).astype(np.float32)
    if ties:
        scores = np.round(scores * 2) / 2
    triples = []
    for q in range(QUERIES):
        for d in rng.choice(DOCUMENTS, size=rng.integers(1, 12), replace=False):
            triples.append((q, int(d), int(rng.integers(0, 4)) if q else 0))  # query 0 has no relevant document
    qrels: dict[str, dict[str, int]] = {}
    for q, d, grade in triples:
        qrels.setdefault(f"q{q}", {})[names[d]] = grade
    run = {f"q{q}": {names[d]: float(scores[q, d]) for d in range(DOCUMENTS)} for q in range(QUERIES)}
    columns = tuple(torch.tensor(column) for column in zip(*triples, strict=True))
    return qrels, run, columns, torch.from_numpy(scores), names


def ranked(scores: torch.Tensor, names: list[str]) -> torch.Tensor:
    every = torch.arange(scores.shape[1]).expand_as(scores)
    return trec_order(scores, every, names)[1]


@pytest.mark.parametrize("ties", [False, True])
def test_equals_trec_eval_query_by_query(ties: bool) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, run, columns, scores, names = collection(ties=ties)
    theirs = {"ndcg@": "ndcg_cut_", "recall@": "recall_", "precision@": "P_", "hits@": "success_"}
    evaluator = pytrec_eval.RelevanceEvaluator(
        qrels, {f"{name}.1,3,5,10,100" for name in ("ndcg_cut", "recall", "P", "success")} | {"map", "recip_rank"}
    )
    expected = evaluator.evaluate(run)
    report = RankingReport()
    numbers = torch.arange(QUERIES)
    found = ranked(scores, names)
    for part in (numbers[25:], numbers[:25]):  # in batches, out of order
        report.update(*judged(found[part], part, columns), part)
    places, values = report.per_query()
    assert places.tolist() == list(range(QUERIES))
    for name, column in values.items():
        kind, _, k = name.partition("@")
        for q in range(QUERIES):
            of_query = expected[f"q{q}"]
            if kind == "mrr":
                # trec_eval has no cut of its own: the reciprocal rank counts where that rank is within k.
                whole = of_query["recip_rank"]
                wanted = whole if whole and 1 / whole <= int(k) + 0.5 else 0.0
            else:
                wanted = of_query["map"] if name == "map" else of_query[theirs[f"{kind}@"] + k]
            assert column[q] == pytest.approx(wanted, abs=1e-6), (name, q)
    result = report.compute()
    for name, column in values.items():
        assert result[name] == pytest.approx(column.mean(), abs=1e-7)


def test_by_hand() -> None:
    report = RankingReport(ks=(1, 3), headline="mrr@3")
    # Ranked: nothing, grade 2, grade 1, then the list ends; there is a third relevant document of grade 3.
    report.update(torch.tensor([[0, 2, 1, -1]]), torch.tensor([[3, 2, 1]]), torch.tensor([7]))
    result = report.compute()
    dcg = 2 / math.log2(3) + 1 / math.log2(4)
    best = 3 + dcg
    expected = {
        "ndcg@1": 0, "ndcg@3": dcg / best, "mrr@1": 0, "mrr@3": 1 / 2, "recall@1": 0, "recall@3": 2 / 3,
        "precision@1": 0, "precision@3": 2 / 3, "hits@1": 0, "hits@3": 1, "map": (1 / 2 + 2 / 3) / 3,
    }  # fmt: skip
    assert {name: result[name] for name in expected} == pytest.approx(expected, abs=1e-7)
    assert set(result) == {f"{name}{end}" for name in expected for end in ("", "_low", "_high")}
    assert (report.headline, report.mode) == ("mrr@3", "max")


def test_a_short_list_counts_as_ended() -> None:
    report = RankingReport()
    report.update(torch.tensor([[1, 0]]), torch.tensor([[1, 1]]), torch.tensor([0]))
    result = report.compute()
    assert (result["recall@100"], result["precision@5"]) == (0.5, pytest.approx(0.2))


def test_interval_is_the_bootstrap_over_queries() -> None:
    rng = np.random.default_rng(1)
    hit = rng.random(400) < 0.3
    report = RankingReport(ks=(1,), headline="ndcg@1")
    report.update(torch.from_numpy(hit[:, None].astype(np.int64)), torch.ones(400, 1), torch.arange(400))
    result = report.compute()
    spread = 1.96 * math.sqrt(hit.mean() * (1 - hit.mean()) / 400)
    assert result["hits@1_low"] == pytest.approx(hit.mean() - spread, abs=0.006)
    assert result["hits@1_high"] == pytest.approx(hit.mean() + spread, abs=0.006)


def test_many_queries_give_the_same_interval_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    grades = torch.from_numpy((rng.random((3000, 10)) < 0.1).astype(np.int64))
    results = []
    for limit in (20_000, 1000):
        monkeypatch.setattr("tasks.metrics.ranking.MANY_QUERIES", limit)
        report = RankingReport()
        report.update(grades, torch.ones(3000, 2), torch.arange(3000))
        results.append(report.compute())
    assert results[0] == pytest.approx(results[1], abs=1.5e-3)


def test_order_and_batches_change_nothing() -> None:
    _, _, columns, scores, names = collection(3)
    found, results = ranked(scores, names), []
    for parts in ([torch.arange(QUERIES)], list(torch.randperm(QUERIES).split(7))):
        report = RankingReport()
        for part in parts:
            report.update(*judged(found[part], part, columns), part)
        results.append(report.compute())
    assert results[0] == results[1]


def test_judged_takes_the_last_of_two_judgements_and_gaps() -> None:
    qrels = (torch.tensor([5, 5, 5, 9]), torch.tensor([3, 3, 0, 1]), torch.tensor([1, 2, 1, 0]))
    grades, ideal = judged(torch.tensor([[3, -1, 0], [1, 0, 2]]), torch.tensor([5, 9]), qrels)
    assert grades.tolist() == [[2, -1, 1], [0, 0, 0]]
    assert ideal.tolist() == [[2, 1], [0, 0]]
    grades, ideal = judged(torch.tensor([[0, 1]]), torch.tensor([4]), qrels)
    assert (grades.tolist(), ideal.tolist()) == ([[0, 0]], [[0]])


def test_ties_go_by_id_downwards_and_gaps_to_the_end() -> None:
    scores, found = torch.tensor([[1.0, 2.0, 2.0, 9.0]]), torch.tensor([[0, 1, 2, -1]])
    assert trec_order(scores, found, ["a", "b", "c"])[1].tolist() == [[2, 1, 0, -1]]


def test_reset_and_errors() -> None:
    report = RankingReport()
    report.update(torch.ones(1, 1), torch.ones(1, 1), torch.tensor([0]))
    report.compute()
    report.reset()
    with pytest.raises(DataError, match="no rows"):
        report.compute()
    with pytest.raises(BackendError, match=r"\(Q, K\)"):
        report.update(torch.ones(2, 3), torch.ones(1, 3), torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match="ndcg@7"):
        RankingReport(headline="ndcg@7")
    with pytest.raises(ConfigError, match="cuts"):
        RankingReport(ks=(0, 1))
