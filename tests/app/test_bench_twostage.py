"""The bench of two stages: what is ranked how, and what it counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from search_runs import write_csv

from app.bench.twostage_suite import Settings, TwoStage, measured
from app.cli import main
from tasks.embedding import Embedder
from tasks.metrics.ranking import HEADLINE
from tasks.run import Run
from tasks.search.rerank import pair_scores

pytest_plugins = "search_runs"


@pytest.fixture(scope="module")
def reranker(zero_shot: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("twostage")
    words = ("map", "app")
    rows = [(f"where is my {a}", f"the {b} come back", str(int(a == b))) for a in words for b in words]
    pairs = write_csv(folder / "pairs.csv", ("query", "document", "label"), *rows * 4)
    given = [f"data.train={pairs}", "data.validation_share=0", "trainer=cpu", "trainer.max_epochs=1", zero_shot]
    assert main(["train", "task=reranking", *given, f"run_dir={folder / 'run'}"]) == 0
    return folder / "run"


def data_of(folder: Path) -> dict[str, object]:
    return {"test": str(folder / "questions.csv"), "corpus": str(folder / "docs.csv"), "columns": {}}


@pytest.mark.slow
def test_reranks_the_first_and_leaves_the_rest(
    corpus_folder: Path, tiny_encoder: Callable[..., Path], reranker: Path
) -> None:
    encoder = str(tiny_encoder("bert"))
    settings = Settings(encoder, str(reranker), data_of(corpus_folder), [3, 10], 5, 2, "auto", "cpu", "auto", None)
    run = Run.load(reranker, "cpu")
    system = TwoStage(Embedder.from_encoder(encoder, device="cpu"), run, settings)
    found = system.rankings()
    assert list(found) == ["BM25", "retriever", "retriever, 3 reranked", "retriever, 10 reranked"]
    assert found["retriever"].shape == (5, 100)
    before, after = found["retriever"], found["retriever, 3 reranked"]
    assert torch.equal(before[:, 3:], after[:, 3:])
    for query, first, then in zip(system.collection.queries, before[:, :3], after[:, :3], strict=True):
        assert sorted(first.tolist()) == sorted(then.tolist())
        scores = pair_scores(run, [query] * 3, [system.collection.documents[i] for i in then.tolist()])
        assert scores == sorted(scores, reverse=True)
    # Every word of a question but "where", "is" and "my" is in its document alone: BM25 finds it.
    assert measured(system.collection, found["BM25"]).compute()[HEADLINE] == 1


@pytest.mark.slow
def test_bench_twostage(
    corpus_folder: Path, tiny_encoder: Callable[..., Path], reranker: Path, capsys: pytest.CaptureFixture
) -> None:
    files = [f"data.test={corpus_folder / 'questions.csv'}", f"data.corpus={corpus_folder / 'docs.csv'}"]
    words = [f"retriever={tiny_encoder('bert')}", f"reranker={reranker}", *files, "device=cpu", "threads=1"]
    words += ["depths=[2,5]", "timed=2"]
    assert main(["bench", "twostage", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out.split("\n\n")[-1])
    assert (found["suite"], found["queries"], found["documents"]) == ("twostage", 28, 28)
    rows = {row["system"]: row for row in found["rows"]}
    assert rows["BM25"]["recall@100"] == 1
    assert "difference" not in rows["retriever"]
    one = rows["retriever, 5 reranked"]
    assert one["difference"]["second"] == pytest.approx(one["ndcg@10"], abs=1e-6)
    assert 0 < one["ms"] <= one["ms_95"]
    assert main(["bench", "twostage", *words, "precision=bf16"]) == 0
    assert "28 queries, 28 documents" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("depths=[]", "from 1 to 100"),
        ("depths=[10,200]", "from 1 to 100"),
        ("queries=0", "queries=0"),
        ("timed=0", "timed=0"),
    ],
)
def test_mistakes(given: str, message: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["bench", "twostage", "reranker=nowhere", "data.test=x.csv", given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
