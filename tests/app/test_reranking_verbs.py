"""task=reranking as a person runs it, on a tiny encoder: check, train, evaluate, predict, export."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from app.cli import main
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.run import Run

WORDS = ("order", "parcel", "money", "app", "map", "shoes", "refund", "password")


def rows(queries: int, start: int = 0) -> list[dict[str, Any]]:
    """Three candidates for each query; the relevant one says "good"."""
    return [
        {
            "question": f"where is my {WORDS[i % 8]} {WORDS[i // 8 % 8]}",
            "answer": f"the {WORDS[(i + place) % 8]} is {'good' if place == i % 3 else 'bad'} again",
            "label": int(place == i % 3),
        }
        for i in range(start, start + queries)
        for place in range(3)
    ]


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    return path


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    write(folder / "train.csv", rows(40))
    write(folder / "test.csv", rows(12, start=40))
    return folder


#: A few rows are learned by every kind, whatever the seed.
STEADY = ("trainer.max_epochs=10", "encoder.dropout=0", "task.head_dropout=0")


def train(base: Path, files: Path, run: Path, *words: str) -> int:
    settings = ["optim.lr=2e-3", "optim.batch_size=8", "trainer=cpu", "trainer.precision=32", "logger=none"]
    data = [f"data.train={files}/train.csv", f"data.test={files}/test.csv", "data.cache=false"]
    return main(["train", "task=reranking", f"encoder.source={base}", *data, *settings, f"run_dir={run}", *words])


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cross", "uni", "poly"])
def test_from_rows_to_scores(
    tiny_encoder: Callable[..., Path], files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    run = tmp_path / "run"
    assert train(tiny_encoder("bert"), files, run, f"task.kind={kind}", *STEADY) == 0
    told = capsys.readouterr()
    assert "document: column 'answer' (guessed by its name" in " ".join((told.out + told.err).split())
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["test"]["map"] > 0.8
    assert metrics["test"]["map_low"] <= metrics["test"]["map"] <= metrics["test"]["map_high"]
    assert {"mrr@10", "ndcg@10"} <= set(metrics["validation"])
    assert len(read(run / "predictions.csv")) == 36
    card = (run / "README.md").read_text()
    assert "Reranking by a" in card
    assert ('CrossEncoder("model").rank(' in card) == (kind == "cross")

    assert main(["evaluate", f"run={run}", f"data.test={files}/test.csv", f"output={tmp_path}/again"]) == 0
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())["test"]
    assert again["map"] == pytest.approx(metrics["test"]["map"], abs=1e-6)

    asked = [{"question": row["question"], "answer": row["answer"], "n": i} for i, row in enumerate(rows(5))]
    plain = write(tmp_path / "new.csv", asked)
    assert main(["predict", f"run={run}", f"input={plain}", f"output={tmp_path}/scored.csv"]) == 0
    scored = read(tmp_path / "scored.csv")
    assert [row["n"] for row in scored] == [str(i) for i in range(15)]
    for start in range(0, 15, 3):
        three = scored[start : start + 3]
        assert sorted(row["rank"] for row in three) == ["1", "2", "3"]
        best = max(three, key=lambda row: float(row["score"]))
        assert best["rank"] == "1"

    table = Table("x", {"query": ["shoes", "shoes"], "document": ["the map is good", "bad"]}, [1, 2])
    assert all(0 <= score.value <= 1 for score in Run.load(run).outputs(table))


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_a_published_cross_encoder_is_a_run_without_training(
    tiny_encoder: Callable[..., Path], files: Path, tmp_path: Path, family: str
) -> None:
    published, base = tmp_path / "published", tiny_encoder(family)
    torch.manual_seed(1)
    theirs = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    theirs.save_pretrained(published)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(base / name, published)
    run = tmp_path / "run"
    assert train(published, files, run, "trainer.max_steps=0") == 0
    queries, documents = ["where is my order", "refund"], ["the parcel is good again", "the map is bad again"]
    given = load_tokenizer(published)(queries, documents, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs.eval()(**given).logits.sigmoid().flatten().tolist()
    table = Table("x", {"query": queries, "document": documents}, [1, 2])
    assert [score.value for score in Run.load(run).outputs(table)] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("kind", ["cross", "poly"])
def test_a_reranker_that_nobody_has_trained_is_refused(
    tiny_encoder: Callable[..., Path], files: Path, tmp_path: Path, capsys: pytest.CaptureFixture, kind: str
) -> None:
    assert train(tiny_encoder("bert"), files, tmp_path / "run", "trainer.max_steps=0", f"task.kind={kind}") == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "is no published cross-encoder (it has no tensor" in told
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_lists_triplets_and_exports(
    tiny_encoder: Callable[..., Path], files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = rows(40)
    triples = [found[i : i + 3] for i in range(0, len(found), 3)]
    lines = []
    for three in triples:
        ordered = sorted(three, key=lambda row: -row["label"])
        texts = [row["answer"] for row in ordered]
        found_by = {"query": three[0]["question"], "scores": [5.0, 0.5, 0.0]}
        lines.append({**found_by, "positive": texts[0], "negative": texts[1:]})
    triplets = tmp_path / "triplets.jsonl"
    triplets.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    run = tmp_path / "run"
    words = [f"data.train={triplets}", "task.loss=margin_mse", "trainer.max_epochs=6", "task.calibrate=platt"]
    assert train(tiny_encoder("modernbert"), files, run, *words) == 0
    info = json.loads((run / "task.json").read_text())
    assert info["schema"]["teacher"] is True
    assert info["fitted"]["platt"][0] > 0
    assert json.loads((run / "metrics.json").read_text())["test"]["map"] > 0.8
    capsys.readouterr()
    assert main(["export", f"run={run}", "format=transformers", f"output={tmp_path}/out", "threads=1"]) == 0
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.slow
def test_poly_and_uni_are_not_exported(
    tiny_encoder: Callable[..., Path], files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run = tmp_path / "run"
    assert train(tiny_encoder("bert"), files, run, "task.kind=uni", "trainer.max_steps=2") == 0
    capsys.readouterr()
    assert main(["export", f"run={run}", "format=transformers", f"output={tmp_path}/out"]) != 0
    assert "nothing but this package" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_check_lists_what_is_wrong(
    tiny_encoder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    found = rows(6)
    found[0]["label"] = "maybe"
    found[4]["answer"] = ""
    file = write(tmp_path / "bad.csv", found)
    words = [f"data.train={file}", f"encoder.source={tiny_encoder('bert')}", "--json"]
    assert main(["check", "task=reranking", *words]) == 1
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert {(p["code"], p["row"]) for p in problems if p["level"] == "error"} == {
        ("label-not-number", 2),
        ("text-missing", 6),
    }


@pytest.mark.slow
def test_a_model_that_learns_nothing_is_stopped(
    tiny_encoder: Callable[..., Path], files: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    words = ["optim.lr=1e-9", "optim.batch_size=2", "trainer.max_epochs=6"]  # 324 steps
    status = train(tiny_encoder("bert"), files, tmp_path / "run", *words)
    assert status != 0
    err = " ".join(capsys.readouterr().err.split())
    assert "Training stopped at step" in err
    assert "Likely cause: optim.lr is too low" in err
