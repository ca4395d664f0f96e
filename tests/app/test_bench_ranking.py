"""The bench of measuring a ranking: what it counts, and that memory does not grow with the corpus."""

from __future__ import annotations

import json

import forked
import pytest
import torch

from app import cli
from app.bench import child, memory
from app.bench.ranking_suite import Evaluation, Settings


def test_ranks_as_when_everything_is_compared_at_once() -> None:
    settings = Settings(300, 20, 16, 64, "cpu", None)
    evaluation = Evaluation(settings, torch.device("cpu"))
    evaluation.run()
    documents = torch.cat([vectors.values for _, vectors in evaluation.chunks()])
    assert documents.shape == (300, 16)
    ranks = (evaluation.queries() @ documents.T).argsort(dim=1, descending=True)
    place = (ranks == torch.arange(20)[:, None]).nonzero()[:, 1]
    gain = torch.where(place < 10, 1 / torch.log2(place + 2.0), 0.0)
    assert evaluation.row["ndcg@10"] == pytest.approx(float(gain.mean()), abs=1e-6)
    assert settings.at_once == 4 * (300 * 16 + 20 * 316)


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="needs Linux' /proc")
def test_bench_ranking(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "run", forked.output)
    words = ["documents=20000", "queries=50", "dimension=64", "chunk=512", "device=cpu", "threads=1"]
    assert cli.main(["bench", "ranking", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["suite"] == "ranking"
    (row,) = found["rows"]
    assert row["seconds"] > 0
    assert row["peak_bytes"] < row["at_once_bytes"]
    assert cli.main(["bench", "ranking", "queries=5", "documents=4"]) == 2
    assert "each has a document of its own" in " ".join(capsys.readouterr().err.split())
