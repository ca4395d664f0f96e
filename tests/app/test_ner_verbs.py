"""task=ner as a person runs it, on a tiny encoder: train, evaluate, predict, export, check, and transformers."""

from __future__ import annotations

import csv
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import pipeline

from app.cli import main
from tasks.run import Run

THINGS = ("parcel", "order", "shoes", "password", "refund money")
PEOPLE = ("courier", "neighbour")
FRAMES = (
    "where is the {0}",
    "the {1} has left my {0} again",
    "please send the {0} back",
    "i was charged for one {0} twice",
    "how do i open the map",
    "the {1} left it with a {1}",
)


def sentences(count: int) -> list[tuple[str, list[list]]]:
    """Sentences whose entities are told by their words alone."""
    draw, rows = random.Random(0), []
    for number in range(count):
        parts, spans = [], []
        for word in FRAMES[number % len(FRAMES)].split():
            at = len(" ".join(parts)) + (1 if parts else 0)
            chosen = {"{0}": draw.choice(THINGS), "{1}": draw.choice(PEOPLE)}.get(word, word)
            parts.append(chosen)
            if word != chosen:
                spans.append([at, at + len(chosen), "THING" if word == "{0}" else "MAN"])
        rows.append((" ".join(parts), spans))
    return rows


def write_jsonl(path: Path, count: int = 40, start: int = 0) -> Path:
    lines = [
        json.dumps({"id": i, "text": text, "entities": spans})
        for i, (text, spans) in enumerate(sentences(start + count)[start:])
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_conll(path: Path, count: int = 40) -> Path:
    lines = []
    for text, spans in sentences(count):
        at = 0
        for word in text.split():
            label = next((label for a, b, label in spans if a <= at < b), None)
            begins = any(a == at for a, _, _ in spans)
            lines.append(f"{word}\t{'O' if label is None else ('B-' if begins else 'I-') + label}")
            at += len(word) + 1
        lines.append("")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train(tmp_path: Path, encoder: Path, source: Path, *words: str) -> Path:
    run = tmp_path / f"run-{encoder.name}"
    arguments = [
        "train", "task=ner", f"data.train={source}", f"encoder.source={encoder}", f"run_dir={run}", "trainer=cpu",
        "trainer.max_epochs=6", "optim.batch_size=6", "optim.lr=0.01", "data.cache=false", *words,
    ]  # fmt: skip
    assert main(arguments) == 0
    return run


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_a_run_finds_what_transformers_finds(tmp_path: Path, tiny_encoder: Callable[..., Path], family: str) -> None:
    run = train(tmp_path, tiny_encoder(family), write_jsonl(tmp_path / "rows.jsonl"))
    output = tmp_path / "found.jsonl"
    source = write_jsonl(tmp_path / "new.jsonl", 30, 100)
    assert main(["predict", f"run={run}", f"input={source}", f"output={output}"]) == 0
    rows = read_lines(output)
    assert [row["id"] for row in rows] == list(range(30))
    pipe = pipeline("token-classification", model=str(run / "model"), aggregation_strategy="first")
    count = 0
    for row in rows:
        theirs = pipe(row["text"])
        ours = row["entities_predicted"]
        assert [(e["start"], e["end"], e["label"]) for e in ours] == [
            (e["start"], e["end"], e["entity_group"]) for e in theirs
        ]
        assert [e["score"] for e in ours] == pytest.approx([float(e["score"]) for e in theirs], abs=1e-5)
        assert [row["text"][e["start"] : e["end"]] for e in ours] == [e["text"] for e in ours]
        count += len(ours)
    assert count > 20
    metrics = json.loads((run / "metrics.json").read_text())["validation"]
    assert metrics["f1"] > 0.5
    assert {"f1_low", "f1_high", "precision", "recall", "f1/THING", "f1_partial", "f1_type", "token_accuracy",
            "missed", "spurious", "wrong_type", "wrong_boundary"} <= set(metrics)  # fmt: skip


def test_a_crf_run_can_be_moved_evaluated_and_exported(
    tmp_path: Path, tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_conll(tmp_path / "rows.conll")
    run = train(
        tmp_path, tiny_encoder("modernbert"), source, f"data.test={source}", "task.head=crf", "task.scheme=BIOES"
    )
    first = json.loads((run / "metrics.json").read_text())
    for name in ("README.md", "types.csv", "confusion_matrix.png", "learning_curves.png", "worst_errors.csv"):
        assert (run / name).stat().st_size > 0, name
    assert 'aggregation_strategy="first"' in (run / "README.md").read_text(encoding="utf-8")
    with (run / "predictions.csv").open(newline="", encoding="utf-8") as file:
        shown = list(csv.DictReader(file))
    assert list(shown[0]) == ["text", "entities", "row", "right", "predicted", "equal", "entities_predicted"]
    assert shown[0]["right"].endswith("(THING)")
    moved = tmp_path / "elsewhere"
    shutil.move(run, moved)
    transitions = Run.load(moved, "cpu").task.crf.transitions
    assert float(transitions.abs().max()) > 0.1, "the CRF has learned, and comes back"
    assert main(["evaluate", f"run={moved}", f"data.test={source}"]) == 0
    again = json.loads((moved / "evaluations" / "rows" / "metrics.json").read_text())
    assert again["test"] == pytest.approx(first["test"], abs=1e-9)
    out = tmp_path / "out"
    assert main(["export", f"run={moved}", "format=transformers", f"output={out}"]) == 0
    assert 'pipeline("token-classification"' in capsys.readouterr().out
    pipe = pipeline("token-classification", model=str(out))
    assert {found["entity"][:2] for found in pipe("where is the parcel")} <= {"B-", "I-", "E-", "S-"}


def test_predict_reads_words_and_texts_and_keeps_rows_it_cannot_read(
    tmp_path: Path, tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tmp_path, tiny_encoder("bert"), write_jsonl(tmp_path / "rows.jsonl"), "data.max_length=12")
    source = tmp_path / "new.csv"
    long = "the courier left it with a neighbour again and " * 4 + "please send the parcel back"
    source.write_text(f"id,body\n1,where is the parcel\n2,\n3,{long}\n", encoding="utf-8")
    output = tmp_path / "found.jsonl"
    words = [f"run={run}", f"input={source}", f"output={output}", "data.columns.text=body"]
    assert main(["predict", *words]) == 0
    rows = read_lines(output)
    assert rows[1]["entities"] is None
    assert "have no text and no prediction: rows 3" in capsys.readouterr().err
    assert rows[2]["entities"][-1]["start"] > 190, "the end of a long text is read too"
    assert all(long[e["start"] : e["end"]] == e["text"] for e in rows[2]["entities"])
    conll = write_conll(tmp_path / "words.conll", 6)
    assert main(["predict", f"run={run}", f"input={conll}", f"output={output}"]) == 0
    assert [row["text"] for row in read_lines(output)] == [text for text, _ in sentences(6)]
    answers = Run.load(run, "cpu").answer(["where is the parcel", "  ", "how do i open the map"])
    assert answers[1] is None
    assert [(span.start, span.end, span.text) for span in answers[0]] == [(13, 19, "parcel")]


def test_check_names_rows_and_labels(
    tmp_path: Path, tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_jsonl(tmp_path / "rows.jsonl")
    test = tmp_path / "test.jsonl"
    test.write_text('{"text": "where is map", "entities": [[9, 12, "PLACE"], [50, 99, "MAN"]]}\n', encoding="utf-8")
    words = ["task=ner", f"data.train={source}", f"data.test={test}", f"encoder.source={tiny_encoder('bert')}"]
    assert main(["check", *words, "--json"]) == 1
    problems = {p["code"]: p for p in json.loads(capsys.readouterr().out)["problems"]}
    assert "'PLACE'" in problems["label-unseen"]["what"]
    assert problems["span-out-of-text"]["row"] == 1
    assert main(["train", *words, f"run_dir={tmp_path / 'run'}"]) == 1
    assert "is not in the training rows" in capsys.readouterr().err
    nothing = tmp_path / "nothing.jsonl"
    nothing.write_text('{"text": "where is map", "entities": []}\n' * 20, encoding="utf-8")
    assert main(["check", "task=ner", f"data.train={nothing}", f"encoder.source={tiny_encoder('bert')}"]) == 1
    assert "no text has an entity" in capsys.readouterr().out
