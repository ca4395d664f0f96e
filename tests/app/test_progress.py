"""Progress: what the bar computes, and what a log file gets."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import lightning as L
import pytest
import torch
from rich.console import Console
from torch import nn

from app import console, progress
from app.progress import Steps, TrainingBar, short, tracking


@dataclass
class Throughput:
    tokens: int = 0
    micro_batches: int = 0


class Clock:
    """Seconds that pass only where the test lets them."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Tiny(L.LightningModule):
    """10 steps an epoch, each 2 s of training, 100 tokens in 2 forward passes; a validation takes 1,000 s."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = nn.Parameter(torch.ones(1))
        self.clock, self.throughput = clock, Throughput()

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        optimizer = self.optimizers()
        loss = (self.weight * 0 + 0.5).sum()
        self.manual_backward(loss)
        optimizer.step()
        self.clock.now += 2.0
        self.throughput.tokens += 100
        self.throughput.micro_batches += 2
        self.log("train_loss", loss.detach(), batch_size=1)

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.clock.now += 1000.0
        self.log("val_accuracy", torch.tensor(0.75), batch_size=1)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(bar: TrainingBar, clock: Clock, **settings: int) -> None:
    trainer = L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
        num_sanity_val_steps=0, callbacks=[bar], **settings,
    )  # fmt: skip
    rows = torch.utils.data.DataLoader(torch.zeros(10, 1), batch_size=None)
    one = torch.utils.data.DataLoader(torch.zeros(1, 1), batch_size=None)
    trainer.fit(Tiny(clock), rows, one)


def test_steps() -> None:
    steps = Steps()
    assert (steps.loss(), steps.tokens_per_second(), steps.tokens_per_batch()) == (None, None, None)
    steps.add(2.0, 100, 2, torch.tensor(3.0))
    assert steps.loss() == pytest.approx(3.0)
    steps.add(2.0, 300, 4, torch.tensor(1.0))
    assert steps.loss() == pytest.approx((0.95 * 0.05 * 3 + 0.05 * 1) / (1 - 0.95**2))
    assert steps.tokens_per_second() == pytest.approx(300 / 4)
    assert steps.tokens_per_batch() == pytest.approx(300 / 4)
    for total in range(progress.WINDOW):
        steps.add(1.0, 300 + 10 * (total + 1), 5 + total, torch.tensor(1.0))
    assert steps.tokens_per_second() == pytest.approx(10.0)
    assert math.isclose(steps.loss() or 0, 1.0, abs_tol=0.1)


def test_log_has_a_line_an_epoch_and_one_every_half_minute(capsys: pytest.CaptureFixture) -> None:
    clock = Clock()
    fit(TrainingBar("val_accuracy", clock), clock, max_epochs=2)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    facts = "loss 0.500  accuracy 0.750  50 tok/s  50/batch"
    assert lines == [
        "epoch 1/2  after 0:17:00  " + facts,
        "epoch 2/2  after 0:34:00  " + facts,
    ]


def test_log_between_epochs(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "PLAIN_EVERY", 8.0)
    clock = Clock()
    fit(TrainingBar(clock=clock), clock, max_epochs=1)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch")]
    assert [line.split("  ")[1] for line in lines] == ["step 4 of 10", "step 8 of 10", "after 0:17:00"]


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Console(force_terminal=True, width=80, record=True, color_system=None, file=io.StringIO())
    monkeypatch.setattr(console, "err", lambda: screen)
    clock = Clock()
    bar = TrainingBar("val_accuracy", clock)
    fit(bar, clock, max_epochs=2)
    shown = screen.export_text()
    assert "epoch 2/2" in shown
    assert "100%" in shown
    assert "loss 0.500  accuracy 0.750  50 tok/s  50/batch" in shown
    assert bar.bar is None


def test_tracking_in_a_log(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    with tracking("predicting", 10) as advance:
        advance(5)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "PLAIN_EVERY", 0.0)
    assert list(progress.progress([1, 2], "predicting")) == [1, 2]
    assert capsys.readouterr().err == "predicting  1 of 2\npredicting  2 of 2\n"


def test_short() -> None:
    assert [short(n) for n in (12.3, 999, 12_345, 2.5e6)] == ["12", "999", "12.3k", "2.5M"]
