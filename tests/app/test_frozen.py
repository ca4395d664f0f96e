"""encoder.frozen: the head learns, the encoder stays as it was published."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.cli import main
from modernbert.weights import read_tensors


@pytest.mark.slow
def test_only_the_head_learns(tiny_encoder: Callable[..., Path], root: Path, tmp_path: Path) -> None:
    base, run = tiny_encoder("bert"), tmp_path / "run"
    words = [f"encoder.source={base}", f"data.train={root / 'examples/support.csv'}", f"run_dir={run}"]
    words += ["encoder.frozen=true", "trainer.max_steps=2", "trainer.threads=1", "optim.lr=0.01", "logger=none"]
    assert main(["train", "task=classification", *words]) == 0
    before, after = read_tensors(base), read_tensors(run / "model")
    kept = [name for name in before if not name.startswith("pooler.")]
    assert len(kept) > 30
    assert all(torch.equal(before[name], after[f"bert.{name}"]) for name in kept)
    assert not torch.equal(before["pooler.dense.weight"], after["bert.pooler.dense.weight"])


def test_a_task_without_a_head_has_nothing_to_learn(
    tiny_encoder: Callable[..., Path], root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"encoder.source={tiny_encoder('bert')}", f"data.train={root / 'examples/manual_questions.csv'}"]
    assert main(["train", "task=retrieval", *words, "encoder.frozen=true", f"run_dir={tmp_path / 'run'}"]) == 2
    assert "encoder.frozen=true leaves nothing to learn" in capsys.readouterr().err
