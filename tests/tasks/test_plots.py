"""Plots: PNG files that say what they show, drawn without pyplot."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tasks import plots


def size(path: Path) -> tuple[int, int]:
    """Width and height from a PNG's header."""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(data[16:20], "big"), int.from_bytes(data[20:24], "big")


def test_confusion_matrix_is_legible_at_any_size(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for labels in (1, 2, 150):
        path = tmp_path / f"{labels}.png"
        matrix = rng.integers(0, 3, (labels, labels)) + 20 * np.eye(labels, dtype=int)
        plots.confusion_matrix(path, matrix, [f"a label of some $length$ {i}" for i in range(labels)])
        width, height = size(path)
        assert 300 < width < 2200
        assert 300 < height < 2200
    with pytest.raises(ValueError, match="square"):
        plots.confusion_matrix(tmp_path / "x.png", np.zeros((2, 3)), ["a", "b"])


def test_the_most_confused_block_holds_the_confusions() -> None:
    matrix = 10 * np.eye(100, dtype=int)
    pairs = [(3, 90), (90, 3), (17, 45), (60, 61)]
    for gold, predicted in pairs:
        matrix[gold, predicted] = 5
    shown = plots._most_confused(matrix)
    assert len(shown) == plots.MOST_LABELS
    assert {3, 90, 17, 45, 60, 61} <= set(shown.tolist())
    assert sorted(shown) == shown.tolist()


def test_long_labels_keep_their_ends() -> None:
    assert plots._short("short") == "short"
    shortened = {plots._short(f"a_common_prefix_of_many_labels_{i}") for i in range(20)}
    assert len(shortened) == 20
    assert max(map(len, shortened)) == plots.LONGEST_LABEL


def test_the_others_draw(tmp_path: Path) -> None:
    bins = [
        {"low": m / 15, "high": (m + 1) / 15, "count": 0, "confidence": None, "accuracy": None}
        for m in range(14)
    ]
    bins.append({"low": 14 / 15, "high": 1.0, "count": 3, "confidence": 0.97, "accuracy": 2 / 3})
    plots.reliability(tmp_path / "reliability.png", bins, "ECE 0.3")
    history = {"train/loss": [(0, 2.0), (10, 1.0)], "validation/loss": [(10, 1.2)], "validation/accuracy": []}
    plots.learning_curves(tmp_path / "curves.png", history)
    plots.scores(tmp_path / "scores.png", np.array([1.0]), np.array([1.0]))
    for name in ("reliability", "curves", "scores"):
        width, height = size(tmp_path / f"{name}.png")
        assert min(width, height) > 200
    with pytest.raises(ValueError, match="empty history"):
        plots.learning_curves(tmp_path / "x.png", {})
    with pytest.raises(ValueError, match="filled"):
        plots.scores(tmp_path / "x.png", np.zeros(0), np.zeros(0))


def test_no_global_state() -> None:
    import subprocess

    code = "import tasks.plots, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[2])
