"""Scoring and training of rerankers beside sentence-transformers, on encoders and data small enough for seconds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app import cli
from app.bench import peers
from app.bench.job import Job
from app.compose import compose, plain
from modernbert.errors import ConfigError

pytest.importorskip("sentence_transformers")

ROWS = [
    f"{q},where is my {word},the {other} is {'good' if word == other else 'bad'} again,{int(word == other)}"
    for q, word in enumerate(["order", "parcel", "money", "app", "map", "shoes"])
    for other in ["order", "parcel", "money", "app", "map", "shoes"]
]


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    file = tmp_path / "pairs.csv"
    file.write_text("query_id,query,document,label\n" + "\n".join(ROWS) + "\n", encoding="utf-8")
    return file


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_every_kind_is_timed(
    tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture, pairs: Path, family: str
) -> None:
    words = [f"source={tiny_encoder(family)}", f"input={pairs}", "pairs=20", "rounds=1", "device=cpu"]
    assert cli.main(["bench", "score", *words, "kinds=[cross,poly,uni]", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["pairs"], row["queries"]) == (20, 4)
    assert list(row["sides"]) == ["ours", "CrossEncoder", "uni", "poly", "poly kept"]
    assert row["max_difference"] <= 1e-5
    assert row["sides"]["CrossEncoder"]["ratio"]["median"] == 1.0
    assert all(side["pairs_per_s"] > 0 for side in row["sides"].values())


def test_generated_pairs(tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture) -> None:
    words = [f"source={tiny_encoder('bert')}", "pairs=25", "rounds=1", "device=cpu"]
    assert cli.main(["bench", "score", *words]) == 0
    out = capsys.readouterr().out
    assert "25 pairs of 2 queries" in out
    assert "largest difference of a score" in out


@pytest.mark.parametrize(("word", "what"), [("kinds=[bi]", "kinds=bi: allowed are cross"), ("pairs=0", "pairs=0")])
def test_wrong_values(word: str, what: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "score", word]) == 2
    assert what in " ".join(capsys.readouterr().err.split())


def config(pairs: Path, *words: str) -> dict:
    given = ["task=reranking", f"data.train={pairs}", f"data.test={pairs}", "data.validation_share=0", *words]
    return plain(compose("bench_train", given))


@pytest.mark.slow
def test_peer_of_reranking(tiny_encoder: Callable[..., Path], tmp_path: Path, pairs: Path) -> None:
    pytest.importorskip("datasets")
    words = ["task.positive_weight=balanced", "trainer.max_epochs=2", "optim.batch_size=8", "trainer=cpu"]
    settings = config(pairs, *words)
    peers.require(settings)
    result = peers.PEERS["reranking"].train(Job(settings, str(tiny_encoder("bert")), 64, 0, str(tmp_path / "peer")))
    assert result.steps == 2 * 5
    assert result.seconds > 0
    assert set(result.quality) == {"map", "mrr@10", "ndcg@10"}
    assert 0 < result.quality["map"] <= 1


def test_what_the_peer_has_not(pairs: Path) -> None:
    with pytest.raises(ConfigError, match=r"task\.loss=lambda: Trainer has no such setting"):
        peers.require(config(pairs, "task.loss=lambda"))
