"""The alarm: rings for models that learned nothing, is quiet for those that learned a little."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from modernbert.errors import ConfigError
from modernbert.weights import load_encoder
from tasks.collapse import FIRST, WINDOW, CollapseWatch, Setting, constant_loss
from tasks.data.module import DataModule
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.optim import Optim
from tasks.platt import fit_platt
from tasks.reranking import Reranking
from tasks.reranking_schema import RerankingSchema


def setting(loss: str = "bce", lr: float = 1e-4, weight: float = 1.0, positives: int = 20) -> Setting:
    return Setting(loss, lr, positives, 100 - positives, weight)


def run(
    watch: CollapseWatch, signal: float, noise: float, steps: int = 400, weight: float = 1.0, size: int = 32
) -> None:
    """Steps of a model whose logits are the base rate, `signal` times the label, and noise."""
    source = torch.Generator().manual_seed(0)
    for number in range(1, steps + 1):
        targets = (torch.rand(size, generator=source) < 0.2).float()
        base = math.log(0.2 * weight / 0.8)
        scores = base + signal * (targets - 0.2) + noise * torch.randn(size, generator=source)
        loss = F.binary_cross_entropy_with_logits(scores, targets, pos_weight=torch.tensor(weight), reduction="sum")
        watch.add(loss, scores, targets, None)
        watch.step(number, steps, lambda value: value)


@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_one_score_for_all_is_told(weight: float) -> None:
    with pytest.raises(ConfigError, match=rf"stopped at step {FIRST}: every pair gets nearly the same score"):
        run(CollapseWatch(setting(weight=weight)), signal=0.0, noise=0.001, weight=weight)


def test_scores_by_chance_are_told() -> None:
    with pytest.raises(ConfigError, match="no better than one score for all"):
        run(CollapseWatch(setting()), signal=0.0, noise=1.0)


@pytest.mark.parametrize(("signal", "noise"), [(0.3, 0.1), (3.0, 1.0)])
def test_a_model_that_learned_a_little_is_left_alone(signal: float, noise: float) -> None:
    run(CollapseWatch(setting()), signal, noise)


def test_an_alarm_that_is_off_stops_nothing() -> None:
    run(CollapseWatch(setting(), alarm=False), signal=0.0, noise=0.0)


def test_short_trainings_are_left_alone() -> None:
    run(CollapseWatch(setting()), signal=0.0, noise=0.0, steps=FIRST - 1)


@pytest.mark.parametrize(
    ("case", "cause"),
    [
        (setting(lr=1e-2), r"Likely cause: optim\.lr is too high: try a tenth"),
        (setting(lr=1e-7), r"Likely cause: optim\.lr is too low"),
        (setting(positives=1), r"Likely cause: few pairs are relevant \(1\.0%\): try task\.positive_weight=balanced"),
        (setting(), r"Likely cause: the labels do not depend on the texts"),
    ],
)
def test_the_likely_cause_comes_first(case: Setting, cause: str) -> None:
    with pytest.raises(ConfigError, match=cause):
        run(CollapseWatch(case), signal=0.0, noise=0.0)


def test_lists_are_judged_by_equal_scores() -> None:
    watch = CollapseWatch(setting("margin"))
    for number in range(1, FIRST):
        watch.add(torch.tensor(8.0), torch.zeros(32), torch.zeros(32), torch.tensor(8.0))
        watch.step(number, 2 * FIRST, lambda value: value)
    watch.add(torch.tensor(8.0), torch.zeros(32), torch.zeros(32), torch.tensor(8.0))
    with pytest.raises(ConfigError, match=r"1\.000 times that of a constant.*try task\.loss=bce"):
        watch.step(FIRST, 2 * FIRST, lambda value: value)


def test_the_window_must_be_full() -> None:
    watch = CollapseWatch(setting("margin"))
    for number in range(FIRST, FIRST + WINDOW - 1):  # as after a training was resumed
        watch.add(torch.tensor(8.0), torch.zeros(32), torch.zeros(32), torch.tensor(8.0))
        watch.step(number, FIRST, lambda value: value)


def test_the_best_constant() -> None:
    targets = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    for weight in (1.0, 3.0):
        grid = torch.linspace(-4, 4, 4001)
        losses = [
            F.binary_cross_entropy_with_logits(c.expand(5), targets, pos_weight=torch.tensor(weight), reduction="sum")
            for c in grid
        ]
        found = constant_loss(setting(weight=weight), 5, 2.0, 2.0)
        assert found == pytest.approx(float(min(losses)), abs=1e-5)
    assert constant_loss(setting("mse"), 5, 2.0, 2.0) == pytest.approx(float(((targets - 0.4) ** 2).sum()))
    assert constant_loss(setting(), 5, 0.0, 0.0) == 0.0


def test_platt_finds_the_slope_that_made_the_labels() -> None:
    source = np.random.default_rng(0)
    scores = source.normal(3.0, 2.0, 20_000)
    labels = source.random(20_000) < 1 / (1 + np.exp(-(1.7 * scores - 4.0)))
    slope, offset = fit_platt(scores, labels)
    assert slope == pytest.approx(1.7, abs=0.06)
    assert offset == pytest.approx(-4.0, abs=0.15)


def test_platt_is_the_least_loss_and_stays_finite() -> None:
    scores = np.array([-2.0, -1.0, 1.0, 2.0])
    slope, offset = fit_platt(scores, scores > 0)  # perfectly parted
    assert 0 < slope < 5
    targets = np.array([1 / 4, 1 / 4, 3 / 4, 3 / 4])

    def loss(a: float, b: float) -> float:
        z = a * scores + b
        return float((np.logaddexp(0, z) - targets * z).sum())

    best = loss(slope, offset)
    assert all(best <= loss(slope + da, offset + db) for da in (-0.01, 0, 0.01) for db in (-0.01, 0, 0.01))


class Tight(Reranking):
    """In a memory of `room` tokens."""

    room = 10**9

    def loss_sum(self, outputs: torch.Tensor, batch: Any, reduce: bool = True) -> torch.Tensor:
        loss = super().loss_sum(outputs, batch, reduce)  # the watch has seen it
        if batch.packed.num_tokens > self.room:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes.")
        return loss


@pytest.mark.slow
def test_a_step_that_is_begun_again_counts_once(tiny_encoder: Callable[..., Path]) -> None:
    columns = {"query": ["refund please"] * 3 + ["map"] * 3, "document": ["money back", "good", "bad"] * 2}
    table = Table("rows.csv", columns | {"label": [1, 0, 0, 0, 1, 0]}, list(range(2, 8)))
    seen, base = [], tiny_encoder("bert")  # made here: that sets the seed
    for room in (10**9, 15):
        torch.manual_seed(3)
        schema = RerankingSchema.fit(table, {}, {}, 60)
        task = Tight(load_encoder(base, dropout=0.0), schema, Optim(lr=1e-4), head_dropout=0.0).train()
        task.room = room
        trainer = L.Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(task, DataModule({"train": schema.examples(table, load_tokenizer(base))}, 6, 99, 0))
        seen.append((task.memory.budget, list(task.watch.window)))
    (free, (once,)), (tight, (again,)) = seen
    assert free is None
    assert tight is not None
    torch.testing.assert_close(again, once, atol=1e-5, rtol=1e-5)
    assert once[2] == 6  # pairs
