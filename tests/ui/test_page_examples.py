"""Texts to click, and the tables a run wrote."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.run import Run
from ui.examples import examples_of, own_rows


def test_own_rows(tmp_path: Path) -> None:
    path = tmp_path / "worst_errors.csv"
    assert own_rows(path) == []
    path.write_text("row,loss\n", encoding="utf-8")  # a run without errors
    assert own_rows(path) == []
    path.write_text('row,loss\n3,"1,5"\n4,\n', encoding="utf-8")
    assert own_rows(path) == [{"row": "3", "loss": "1,5"}, {"row": "4", "loss": ""}]
    assert len(own_rows(path, most=1)) == 1


def test_each_answer_in_turn_short_ones_first(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        ("a" * 100, "x"),
        ("short", "x"),
        ("short", "x"),
        ("b" * 121, "y"),
        ("", "y"),
        ("second", "y"),
        ("end", "x"),
    ]
    text = "message,prediction\n" + "".join(f"{text},{answer}\n" for text, answer in rows)
    (tmp_path / "predictions.csv").write_text(text, encoding="utf-8")
    monkeypatch.setattr(run, "folder", tmp_path)
    assert examples_of(run) == [["short"], ["second"], ["end"], ["a" * 100]]
