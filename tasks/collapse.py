"""An alarm for rerankers that learn nothing: each pair gets the same score, or the loss does not fall.

Both show in one number: the loss, against the loss of the best constant score on the same pairs. A model that has
learned the least thing is below it; one that gives all pairs one score, or any scores by chance, is not. (Of losses
over lists the scores of a list count only among themselves, so there it is the loss of equal scores.)

False alarms are kept few by asking late, and over many steps: after half of the training, but at least FIRST steps
and at most LAST, for the mean of the last WINDOW steps.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from modernbert.errors import ConfigError

FIRST, LAST, WINDOW, EVERY = 200, 2000, 100, 50
#: Share of the constant's loss that must be gained. The constant is fitted to the very pairs it is judged by, which
#: gains it about 1 / (2 * pairs) of the loss; a rate that is too high makes the model worse, not better, than it.
GAIN = 0.002
#: Scores of a spread below this are all one: as probabilities they differ by half a point.
ALIKE = 0.02
#: Learning rates outside of this are unusual for an encoder.
USUAL = (5e-6, 3e-4)


@dataclass(frozen=True)
class Setting:
    """What the message needs to know."""

    loss: str
    lr: float
    positives: int
    negatives: int
    positive_weight: float


class CollapseWatch:
    """Sums over the last steps; `begin` before each step, `add` for each micro-batch, `step` after each step.

    Args:
        alarm: False never stops a training.
    """

    def __init__(self, setting: Setting, alarm: bool = True) -> None:
        self.setting, self.alarm = setting, alarm
        self.current: Tensor | None = None
        self.window: deque[Tensor] = deque(maxlen=WINDOW)

    def begin(self) -> None:
        """Forget the micro-batches of a step that broke off for want of memory: they come again."""
        self.current = None

    def add(self, loss: Tensor, scores: Tensor, targets: Tensor, flat: Tensor | None) -> None:
        """One micro-batch.

        Args:
            loss: summed, as of `scores` (P,).
            targets: (P,) what a pointwise loss compares them with.
            flat: the summed loss of equal scores; None for a pointwise loss, whose best constant is known at the end.
        """
        s, t = scores.detach().double(), targets.detach().double()
        one = torch.ones((), dtype=torch.float64, device=s.device)
        equal = 0 * one if flat is None else flat.detach().double()
        sums = [loss.detach().double(), equal, one * len(s), s.sum(), s.square().sum(), t.sum(), t.square().sum()]
        row = torch.stack(sums)
        self.current = row if self.current is None else self.current + row

    def step(self, number: int, total: int, all_ranks: Callable[[float], float]) -> None:
        """After step `number` (from 1) of `total`.

        Raises:
            ConfigError: nothing was learned; with the likely cause.
        """
        assert self.current is not None
        self.window.append(self.current)
        self.current = None
        early = number < min(max(FIRST, total // 2), LAST)
        if not self.alarm or early or number % EVERY or len(self.window) < WINDOW:
            return
        rows = torch.stack(tuple(self.window))
        rows = rows[rows.isfinite().all(1)]  # a step whose loss was no number is told elsewhere
        sums = [all_ranks(value) for value in rows.sum(0).tolist()]
        loss, flat, pairs, s, squares, t, target_squares = sums
        constant = flat or constant_loss(self.setting, pairs, t, target_squares)
        if constant > 0 and loss >= (1 - GAIN) * constant:
            spread = math.sqrt(max(0.0, squares / pairs - (s / pairs) ** 2))
            raise ConfigError(describe(self.setting, number, loss / constant, s / pairs, spread))


def constant_loss(setting: Setting, pairs: float, total: float, squares: float) -> float:
    """The summed loss of the best constant score, from the sums of targets and of their squares."""
    if setting.loss == "mse":
        return squares - total * total / pairs
    positive, negative = setting.positive_weight * total, pairs - total
    if positive <= 0 or negative <= 0:
        return 0.0  # nothing to tell apart in these steps
    share = positive / (positive + negative)
    return -(positive * math.log(share) + negative * math.log1p(-share))


def describe(setting: Setting, number: int, ratio: float, mean: float, spread: float) -> str:
    """What is wrong, and the likely cause first."""
    what = (
        f"every pair gets nearly the same score ({mean:.3g}, spread {spread:.2g})"
        if spread < ALIKE
        else f"scores (mean {mean:.3g}, spread {spread:.2g}) are no better than one score for all"
    )
    share = setting.positives / max(1, setting.positives + setting.negatives)
    causes = {
        "optim.lr is too high: try a tenth of it": setting.lr > USUAL[1],
        "optim.lr is too low: try 2e-5 to 1e-4": setting.lr < USUAL[0],
        f"few pairs are relevant ({share:.1%}): try task.positive_weight=balanced": (
            setting.loss == "bce" and share < 0.05 and setting.positive_weight <= 1
        ),
        "the labels do not depend on the texts: look at some rows, and at data.columns": setting.lr <= USUAL[1],
        f"task.loss={setting.loss} does not suit them: try task.loss=bce": setting.loss != "bce",
        "optim.lr is too high for this encoder: try a third of it": USUAL[0] <= setting.lr <= USUAL[1],
    }
    likely = [cause for cause, holds in causes.items() if holds]
    return (
        f"Training stopped at step {number}: {what}. Over the last {WINDOW} steps the loss is {ratio:.3f} times that "
        f"of a constant. Likely cause: {likely[0]}. Else: {'; '.join(likely[1:])}. task.alarm=false trains on."
    )
