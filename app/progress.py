"""Progress a person can read: one bar for a whole training, one for each other long piece of work.

On a terminal a bar on stderr; piped, a plain line at each epoch's end and at most every 30 seconds between.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text
from torch import Tensor

from app import console

T = TypeVar("T")

PLAIN_EVERY = 30.0  # seconds between two plain lines
REDRAWS = 4  # a second; each reads the loss, which waits for the GPU
WINDOW = 50  # optimiser steps over which speed is averaged
SMOOTHING = 0.95  # weight of the past in the shown loss: about the mean of the last 20 steps


class TrainingBar(ProgressBar):
    """The progress bar of a training.

    Reads `task.throughput` (running totals `tokens`, `micro_batches` of this rank), the logged `train_loss`
    and the last validation metric. Speed counts training only: the clock stands still while validating.

    Args:
        monitor: the metric to show as it is logged, such as `val_accuracy`; None shows none.
        clock: seconds, monotonic; replaced in tests.
    """

    def __init__(self, monitor: str | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.monitor, self.clock = monitor, clock
        self.enabled = True
        self.bar: Progress | None = None
        self.steps = Steps()
        self.mark = self.started = self.last_plain = self.last_draw = 0.0

    def disable(self) -> None:
        self.enabled = False

    def enable(self) -> None:
        self.enabled = True

    @property
    def is_enabled(self) -> bool:
        """Lightning asks before a task's `print` (it has the property on its own bars alone)."""
        return self.enabled

    # -- what Lightning calls ------------------------------------------------------------------------------

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.started = self.mark = self.last_plain = self.last_draw = self.clock()
        if self.enabled and console.err().is_terminal:
            self.bar = _bar(transient=False)
            total = trainer.estimated_stepping_batches
            self.bar.add_task("training", facts="", total=None if total == float("inf") else total)
            self.bar.update(self.bar.task_ids[0], completed=trainer.global_step)
            self.bar.start()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = self.clock()
        done: Any = pl_module.throughput
        self.steps.add(now - self.mark, done.tokens, done.micro_batches, trainer.callback_metrics.get("train_loss"))
        self.mark = now
        if not self.enabled:
            return
        if self.bar is not None and now - self.last_draw >= 1 / REDRAWS:
            self.last_draw = now
            self._draw(trainer)
        elif self.bar is None and now - self.last_plain >= PLAIN_EVERY:
            self.last_plain = now
            self._say(trainer, f"step {trainer.global_step:,} of {trainer.estimated_stepping_batches:,}")

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.bar is not None:
            self._draw(trainer, doing="validating")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.mark = self.clock()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.mark = self.clock()
        if self.bar is not None:
            self._draw(trainer)
        elif self.enabled:
            self.last_plain = self.mark
            took = timedelta(seconds=round(self.mark - self.started))
            self._say(trainer, f"after {took}")

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self._close()

    def print(self, *args: Any, **kwargs: Any) -> None:
        console.note(" ".join(map(str, args)))

    # -- what is shown -------------------------------------------------------------------------------------

    def facts(self, trainer: L.Trainer) -> list[str]:
        """Loss, last validation metric, tokens a second and a forward pass: whatever is known by now."""
        shown = []
        if (loss := self.steps.loss()) is not None:
            shown.append(f"loss {loss:.3f}")
        if self.monitor is not None and self.monitor in trainer.callback_metrics:
            value = float(trainer.callback_metrics[self.monitor])
            shown.append(f"{self.monitor.removeprefix('val_')} {value:.3f}")
        if (speed := self.steps.tokens_per_second()) is not None:
            shown.append(f"{short(speed * trainer.world_size)} tok/s")
        if (filled := self.steps.tokens_per_batch()) is not None:
            shown.append(f"{short(filled)}/batch")
        return shown

    def _epoch(self, trainer: L.Trainer) -> str:
        last = trainer.max_epochs
        return f"epoch {trainer.current_epoch + 1}" + (f"/{last}" if last and last > 0 else "")

    def _draw(self, trainer: L.Trainer, doing: str | None = None) -> None:
        assert self.bar is not None
        facts = "  ".join([doing] if doing else self.facts(trainer))
        self.bar.update(
            self.bar.task_ids[0],
            completed=trainer.global_step,
            description=self._epoch(trainer),
            facts=facts,
        )

    def _say(self, trainer: L.Trainer, where: str) -> None:
        console.note("  ".join([self._epoch(trainer), where, *self.facts(trainer)]))

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


class Steps:
    """The last optimiser steps: smoothed loss, tokens a second, tokens a forward pass."""

    def __init__(self) -> None:
        self.seconds = 0.0
        # (training seconds, tokens, forward passes) after each step
        self.window: deque[tuple[float, int, int]] = deque([(0.0, 0, 0)], maxlen=WINDOW + 1)
        self.smoothed: Tensor | float = 0.0
        self.weight = 0.0

    def add(self, seconds: float, tokens: int, micro_batches: int, loss: Tensor | None) -> None:
        """Note a step that took `seconds` and brought the totals to `tokens` and `micro_batches`."""
        self.seconds += seconds
        self.window.append((self.seconds, tokens, micro_batches))
        if loss is not None:
            # Stays a tensor on its device: reading it at each step would wait for the GPU.
            self.smoothed = SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss.detach()
            self.weight = SMOOTHING * self.weight + (1 - SMOOTHING)

    def loss(self) -> float | None:
        """Exponential mean, corrected for its start at zero (Kingma & Ba 2015, section 3)."""
        return float(self.smoothed) / self.weight if self.weight else None

    def tokens_per_second(self) -> float | None:
        (t0, tokens0, _), (t1, tokens1, _) = self.window[0], self.window[-1]
        return (tokens1 - tokens0) / (t1 - t0) if t1 > t0 else None

    def tokens_per_batch(self) -> float | None:
        (_, tokens0, n0), (_, tokens1, n1) = self.window[0], self.window[-1]
        return (tokens1 - tokens0) / (n1 - n0) if n1 > n0 else None


def progress(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` under a bar; `total` defaults to their length where they have one."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with tracking(description, total) as advance:
        for item in items:
            yield item
            advance(1)


@contextmanager
def tracking(description: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar for work that is not a loop: `with tracking("tokenising", n) as advance: …; advance(1000)`."""
    if console.err().is_terminal and console.is_main():
        with _bar(transient=True) as bar:
            row = bar.add_task(description, total=total)
            yield lambda amount: bar.update(row, advance=amount)
        return
    done, last = 0, time.monotonic()

    def advance(amount: int) -> None:
        nonlocal done, last
        done += amount
        if time.monotonic() - last >= PLAIN_EVERY:
            last = time.monotonic()
            console.note(f"{description}  {done:,}" + (f" of {total:,}" if total else ""))

    yield advance


def short(number: float) -> str:
    """12.3k for 12,345."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.1f}{letter}"
    return f"{number:.0f}"


class Facts(ProgressColumn):
    """What is known by now, cut at the edge of a narrow terminal."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("facts", ""), no_wrap=True, overflow="ellipsis")


def _bar(transient: bool) -> Progress:
    wide = console.err().width >= 110
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24 if wide else 6),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True),
        Facts(),
        console=console.err(),
        transient=transient,
        refresh_per_second=REDRAWS,
    )
