"""The verbs, run as a person runs them, on a tiny encoder: train, move, evaluate, predict, export, and transformers."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import pipeline

from app.cli import main

TEXTS = ["the parcel has not come yet", "please refund money", "my password does not work", "where is my order",
         "app closes when open map", "shoes back again"]  # fmt: skip
LABELS = {
    "binary": ["yes", "no"],
    "multiclass": ["a", "b", "c"],
    "multilabel": ["a;b", "b", "c"],
    "ordinal": ["1", "2", "3"],
    "regression": ["0.5", "1.5", "-2.25"],
}


def write_rows(
    path: Path, labels: list[str], rows: int = 48, header: tuple[str, str] = ("text", "label")
) -> Path:
    """Rows of distinct texts whose first word tells the label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *header])
        for i in range(rows):
            text = f"{'good bad fine'.split()[i % len(labels)]} {TEXTS[i % 6]} {i}"
            writer.writerow([f"r{i}", text, labels[i % len(labels)]])
    return path


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def train(folder: Path, encoder: Path, kind: str, *words: str) -> Path:
    data = write_rows(folder / "rows.csv", LABELS[kind])
    run = folder / "run"
    arguments = [
        "train", "task=classification", f"task.kind={kind}", f"encoder.source={encoder}", "optim.lr=1e-3",
        f"data.train={data}", f"run_dir={run}", "trainer=cpu", "trainer.max_epochs=1", "optim.batch_size=16", *words,
    ]  # fmt: skip
    assert main(arguments) == 0
    return run


@pytest.mark.parametrize(
    ("family", "kind"),
    [
        ("bert", "multiclass"),
        ("roberta", "multiclass"),
        ("modernbert", "multiclass"),
        ("modernbert", "binary"),
        ("modernbert", "multilabel"),
        ("bert", "multilabel"),
        ("modernbert", "ordinal"),
        ("roberta", "ordinal"),
        ("modernbert", "regression"),
    ],
)
def test_a_run_predicts_as_transformers_does(
    tmp_path: Path, tiny_encoder: Callable[..., Path], family: str, kind: str
) -> None:
    run = train(tmp_path, tiny_encoder(family), kind)
    output = tmp_path / "scored.csv"
    assert main(["predict", f"run={run}", f"input={tmp_path / 'rows.csv'}", f"output={output}"]) == 0
    rows = read_rows(output)
    assert [row["id"] for row in rows] == [f"r{i}" for i in range(48)]  # order and input columns are kept
    function = {"regression": "none", "multilabel": "sigmoid", "ordinal": "sigmoid"}.get(kind, "softmax")
    pipe = pipeline("text-classification", model=str(run / "model"), top_k=None, function_to_apply=function)
    for row in rows[:12]:
        scores = {found["label"]: found["score"] for found in pipe([row["text"]])[0]}
        if kind == "regression":
            labels = json.loads((run / "task.json").read_text())["schema"]["labels"]
            value = scores["value"] * labels["std"] + labels["mean"]
            assert value == pytest.approx(float(row["prediction"]), abs=1e-5)
        elif kind == "ordinal":
            assert list(scores) == sorted(scores, key=lambda name: -scores[name])
            above = {"1": scores["above 1"], "2": scores["above 2"]}
            assert 1 - above["1"] == pytest.approx(float(row["p_1"]), abs=1e-5)
            assert above["2"] == pytest.approx(float(row["p_3"]), abs=1e-5)
        else:
            assert {name: float(row[f"p_{name}"]) for name in scores} == pytest.approx(scores, abs=1e-5)


def test_a_run_can_be_moved_evaluated_and_exported(
    tmp_path: Path, tiny_encoder: Callable[..., Path], capsys
) -> None:
    run = train(tmp_path, tiny_encoder("modernbert"), "multiclass", f"data.test={tmp_path / 'rows.csv'}")
    first = json.loads((run / "metrics.json").read_text())
    assert set(first) == {"validation", "test"}
    assert {"accuracy", "accuracy_low", "accuracy_high", "f1_macro"} <= set(first["test"])
    for name in ("README.md", "config.yaml", "predictions.csv", "worst_errors.csv", "confusion_matrix.png",
                 "reliability.png", "learning_curves.png"):  # fmt: skip
        assert (run / name).stat().st_size > 0, name
    by_label = {row["label"]: row for row in read_rows(run / "per_class.csv")}
    assert {name: row["support"] for name, row in by_label.items()} == {"a": "16", "b": "16", "c": "16"}
    assert not list(run.rglob("*.ckpt")), "nothing of a finished run needs pickle"
    moved = tmp_path / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(run, moved)
    assert main(["evaluate", f"run={moved}", f"data.test={tmp_path / 'rows.csv'}"]) == 0
    again = json.loads((moved / "evaluations" / "rows" / "metrics.json").read_text())
    assert again["test"] == pytest.approx(first["test"], abs=1e-9)
    capsys.readouterr()
    assert main(["export", f"run={moved}", "format=transformers", f"output={tmp_path / 'out'}"]) == 0
    assert "transformers.pipeline" in capsys.readouterr().out
    assert pipeline("text-classification", model=str(tmp_path / "out"))("good refund")[0]["label"] in {
        "a",
        "b",
        "c",
    }


def test_training_stops_early_and_can_use_every_row(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    slow = ("trainer.max_epochs=30", "trainer.patience=2", "optim.lr=1e-7")
    run = train(tmp_path, tiny_encoder("bert"), "binary", *slow)
    facts = json.loads((run / "task.json").read_text())
    # Nothing is learned at this rate: the first validation stays the best, two more end the training.
    assert facts["training"]["epochs"] == 3
    assert {split: data["rows"] for split, data in facts["data"].items()} == {"train": 43, "validation": 5}
    shutil.rmtree(run)
    run = train(tmp_path, tiny_encoder("bert"), "binary", "data.validation_share=0")
    facts = json.loads((run / "task.json").read_text())
    assert {split: data["rows"] for split, data in facts["data"].items()} == {"train": 48}
    assert set(json.loads((run / "metrics.json").read_text())) == {"train"}


@pytest.mark.parametrize(("monitor", "mode"), [("f1_macro", max), ("log_loss", min)])
def test_the_best_epoch_is_chosen_by_the_metric_asked_for(
    tmp_path: Path, tiny_encoder: Callable[..., Path], monitor: str, mode: Callable[[list[float]], float]
) -> None:
    words = ("trainer.max_epochs=4", f"trainer.monitor={monitor}", "optim.lr=3e-2")
    run = train(tmp_path, tiny_encoder("bert"), "multiclass", *words)
    column = f"val_{monitor}"
    seen = [float(row[column]) for row in read_rows(run / "logs" / "metrics.csv") if row[column]]
    assert len(seen) == 4
    kept = json.loads((run / "metrics.json").read_text())["validation"][monitor]
    assert kept == pytest.approx(mode(seen), abs=1e-4)


def test_predict_keeps_rows_it_cannot_read_and_says_what_was_cut(
    tmp_path: Path, tiny_encoder: Callable[..., Path], capsys
) -> None:
    run = train(tmp_path, tiny_encoder("bert"), "binary", "data.max_length=16")
    source = tmp_path / "new.csv"
    source.write_text(
        "prediction,text\nmine,good\nkept,\n,bad order " + "again " * 40 + "\n", encoding="utf-8"
    )
    output = tmp_path / "new.jsonl"
    assert main(["predict", f"run={run}", f"input={source}", f"output={output}"]) == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["prediction"] for row in rows] == [
        "mine",
        "kept",
        None,
    ]  # an input column is never overwritten
    assert [row["prediction_predicted"] in ("yes", "no") for row in rows] == [True, False, True]
    assert [row["cut"] for row in rows] == [False, None, True]
    said = capsys.readouterr().err
    assert "1 of 3 texts are longer than 16 tokens" in said
    assert "have no text and no prediction: rows 3" in said


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["evaluate", "run=nowhere", "data.test=x.csv"], 2, "run=nowhere does not exist: give the folder"),
        (["train", "task=classification", "data.train=missing.csv"], 1, "missing.csv"),
        (["train", "task=classification", "data.train={rows}", "data.max_length=4096"], 2, "trained for"),
        (["train", "task=classification", "data.train={rows}", "optim.lr=7"], 2, "optim.lr=7"),
        (["train", "task=classification", "data.train={rows}", "trainer.monitor=f2"], 2, "'f2' is not one of accuracy"),
        (["train", "task=classification", "data.train={rows}", "data.columns.text=boddy"], 2, "boddy"),
        (["train", "task=classification", "data.train={rows}", "encoder.source=./nowhere"], 1, "encoder=minilm"),
        (["train", "task=classification", "data.train={rows}", "task.pooling=mean", "encoder.source={bert}"], 2,
         "reads the first token"),
    ],
)  # fmt: skip
def test_mistakes_get_one_clear_line(
    tmp_path: Path, tiny_encoder: Callable[..., Path], capsys, words: list[str], status: int, message: str
) -> None:
    rows = write_rows(tmp_path / "rows.csv", ["a", "b"])
    words = [word.format(rows=rows, bert=tiny_encoder("bert")) for word in words]
    assert main(words) == status
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_bad_rows_stop_training_with_their_numbers(
    tmp_path: Path, tiny_encoder: Callable[..., Path], capsys
) -> None:
    source = write_rows(tmp_path / "rows.csv", ["a", "b"])
    with source.open("a", encoding="utf-8") as file:
        file.write('x,"  ",a\ny,something,\n')
    words = ["task=classification", f"data.train={source}", f"encoder.source={tiny_encoder('bert')}"]
    assert main(["train", *words, f"run_dir={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().err
    assert "rows.csv:50" in said
    assert "rows.csv:51" in said
    assert not (tmp_path / "run").exists()
    assert main(["check", *words, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert {(p["row"], p["column"]) for p in found["problems"] if p["level"] == "error"} == {
        (50, "text"),
        (51, "label"),
    }
