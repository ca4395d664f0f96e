"""The loop of a long training on a stream: steps, a schedule by tokens or minutes, checkpoints, resuming.

Not Lightning's: a stream has no epochs, the budget may be a time, and a checkpoint is two files without pickle.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn

from modernbert.errors import ConfigError, DataError
from tasks import state
from tasks.optim import Optim, schedule
from tasks.pretraining.stream import Cursor, Step

T = TypeVar("T")
#: Resolution of the schedule: progress is rounded to so many parts.
PARTS = 100_000
#: Checkpoints that stay.
KEPT = 2


class Objective(Protocol[T]):  # type: ignore[misc]
    """What is learned from one micro-batch of examples."""

    def loss_sum(self, batch: list[T]) -> tuple[Tensor, float]:
        """Loss summed over the batch's units, and how many there are; (0, 0) for a batch with none."""


@dataclass(frozen=True)
class Budget:
    """How long: tokens, or minutes of training, or whichever comes first.

    With minutes the schedule follows the clock, so a run is not repeatable bit by bit; with tokens it is.

    Raises:
        ConfigError: neither is given, or one is not above 0.
    """

    tokens: int | None = None
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.tokens is None and self.minutes is None:
            raise ConfigError("budget: give budget.tokens or budget.minutes")
        for name, value in asdict(self).items():
            if value is not None and value <= 0:
                raise ConfigError(f"budget.{name}={value}: allowed is a number above 0, or null for no limit")

    def progress(self, now: State) -> float:
        """Share of the budget that is spent, at most 1."""
        tokens = now.tokens / self.tokens if self.tokens else 0.0
        minutes = now.seconds / 60 / self.minutes if self.minutes else 0.0
        return min(1.0, max(tokens, minutes))


@dataclass
class State:
    """How far a training is."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    loss: float = 0.0  # exponential mean
    cursor: Cursor = field(default_factory=Cursor)


class Loop(Generic[T]):
    """Trains `modules` by `objective`.

    Args:
        modules: name -> what is trained and saved in a checkpoint.
        optimizer: its groups hold the peak rates.
        optim: warm-up, schedule and clipping.
        budget: when it ends.
        folder: of the checkpoints.
        every_minutes: time between two checkpoints.
        bf16: compute in bf16 under fp32 weights.
        settings: what must be equal to resume; stands in the checkpoint.
    """

    def __init__(
        self,
        modules: dict[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        optim: Optim,
        budget: Budget,
        folder: Path,
        every_minutes: float,
        bf16: bool,
        settings: dict[str, Any],
    ) -> None:
        self.modules, self.optimizer, self.optim, self.budget = modules, optimizer, optim, budget
        self.folder, self.every, self.bf16, self.settings = folder, every_minutes * 60, bf16, settings
        self.state = State()
        self.factor = schedule(optim, PARTS)
        self.peaks = [group["lr"] for group in optimizer.param_groups]
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def run(self, objective: Objective[T], steps: Iterable[Step[T]], tell: Callable[[State], bool]) -> bool:  # type: ignore[type-var]
        """Train to the end of the budget; a checkpoint stands at the end and every few minutes.

        Args:
            tell: called after each step; whether to stop there.

        Returns:
            whether the budget is spent.

        Raises:
            DataError: a gradient is not a number.
        """
        clock = time.monotonic()
        saved = clock
        for step in steps:
            if self.budget.progress(self.state) >= 1:
                break
            self._step(objective, step)
            now = time.monotonic()
            self.state.seconds += now - clock
            clock = now
            if tell(self.state):
                break
            if now - saved >= self.every:
                self.save()
                saved = clock = time.monotonic()
        self.save()
        return self.budget.progress(self.state) >= 1

    def _step(self, objective: Objective[T], step: Step[T]) -> None:  # type: ignore[type-var]
        rate = self.factor(round(self.budget.progress(self.state) * PARTS))
        for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
            group["lr"] = peak * rate
        device = self.parameters[0].device.type
        total, units = 0.0, 0.0
        for batch in step.batches:
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16):
                loss, count = objective.loss_sum(batch)
            if count:
                loss.backward()  # type: ignore[no-untyped-call]
                total, units = total + float(loss.detach()), units + count
        if units:
            # The units of a step are known only when all its batches are masked or aligned: divide afterwards.
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.div_(units)
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.optim.clip or float("inf"))
            if not torch.isfinite(norm):
                raise DataError(
                    f"the gradient is {float(norm)} at step {self.state.step}: resume from the last checkpoint with "
                    "a lower optim.lr"
                )
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            before = self.state.loss if self.state.step else total / units
            self.state.loss = 0.98 * before + 0.02 * total / units
        self.state.step += 1
        self.state.tokens += step.tokens
        self.state.cursor = step.after

    # -- checkpoints ---------------------------------------------------------------------------------------

    def save(self) -> None:
        """Weights, moments, random numbers and the place in the stream; the last two checkpoints stay."""
        held = {
            "modules": {name: module.state_dict() for name, module in self.modules.items()},
            "optimizer": self.optimizer.state_dict()["state"],
            "random": torch.get_rng_state(),
            "state": asdict(self.state),
        }
        state.write(self.folder / f"step-{self.state.step:08d}{state.SUFFIX}", held, self.settings)
        for old in _checkpoints(self.folder)[:-KEPT]:
            state.remove(old)

    def resume(self) -> bool:
        """Take back the last whole checkpoint of the folder; False if there is none.

        Raises:
            ConfigError: it is of a training with other settings; the message names them.
        """
        whole = [path for path in _checkpoints(self.folder) if state.torn(path) is None]
        if not whole:
            return False
        before = state.read_about(whole[-1])
        changed = [key for key in self.settings if self.settings[key] != before.get(key)]
        if changed:
            was = "; ".join(f"{key} was {before.get(key)!r}, is {self.settings[key]!r}" for key in changed)
            raise ConfigError(f"resume: this training began with other settings: {was}")
        held = state.read(whole[-1])
        for name, module in self.modules.items():
            module.load_state_dict(held["modules"][name])
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": held["optimizer"]})
        torch.set_rng_state(held["random"])
        self.state = State(**{**held["state"], "cursor": Cursor(**held["state"]["cursor"])})
        return True


def _checkpoints(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(folder.glob(f"step-*{state.SUFFIX}"))
