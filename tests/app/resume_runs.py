"""Trainings that the tests of resuming share: rows on which a tiny encoder learns something, and what came out."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

import forked

from app.bench.fault_child import Fault

WORDS = "please refund money the parcel has not come yet my password does not work where is order".split()


def write_rows(path: Path, count: int = 120) -> Path:
    """`count` rows of three classes, told by their first word; the later words differ from row to row."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for i in range(count):
            words = " ".join(WORDS[(i + j) % len(WORDS)] for j in range(2 + i % 6))
            writer.writerow([f"{'good bad fine'.split()[i % 3]} {words} {i}", "abc"[i % 3]])
    return path


def words(encoder: Path, data: Path, *more: str) -> list[str]:
    """`modernbert train` on these rows, without a folder."""
    return ["train", "task=classification", f"encoder.source={encoder}", f"data.train={data}", "trainer=cpu",
            "trainer.threads=1", "optim.lr=1e-3", "optim.batch_size=32", "trainer.max_epochs=3", "data.cache=false",
            *more]  # fmt: skip


def result(run: Path) -> dict[str, Any]:
    """All that must be equal: weights, scores, curves, what training counted. Hashes where they are long."""
    curves = run / "logs" / "metrics.csv"
    rows = list(csv.DictReader(curves.open(newline=""))) if curves.is_file() else []
    training = json.loads((run / "task.json").read_text())["training"]
    return {
        "weights": hashlib.sha256((run / "model" / "model.safetensors").read_bytes()).hexdigest(),
        "metrics": json.loads((run / "metrics.json").read_text()),
        # A resumed file may have its columns in another order.
        "curves": [{key: value for key, value in row.items() if value} for row in rows],
        "training": {key: training[key] for key in ("epochs", "steps", "tokens", "steps_left_out")},
    }


def struck(fault: Fault, words: list[str]) -> tuple[int, str]:
    """`faults_suite.run` without the seconds in which a process imports."""
    done = forked.run("app.bench.fault_child", *fault.words(), "train", *words)
    return done.returncode, done.stdout + done.stderr
