"""Timing side by side: the sides take turns, and a ratio is taken inside each turn.

What slows the machine for a while then slows every side, and a median over rounds drops what hit only one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import torch

T = TypeVar("T")
Work = Callable[[], object]


def nothing() -> None:
    """A CPU has nothing to wait for."""


@dataclass(frozen=True)
class Clock:
    """What time is read from; `settle` waits until a device has finished what was queued."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time  # user and system time of every thread of this process
    settle: Work = nothing


def device_clock(device: torch.device) -> Clock:
    """The clock for work on a device: CUDA returns before the work is done, so it is waited for."""
    return Clock(settle=torch.cuda.synchronize) if device.type == "cuda" else Clock()


@dataclass(frozen=True)
class Sample:
    """One timed call, in seconds."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Ratio:
    """A ratio of paired samples: the median of the rounds, and the smallest and largest."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}-{self.high:.2f})"

    def to_json(self) -> dict[str, float]:
        return {name: round(value, 4) for name, value in asdict(self).items()}


Timings = dict[str, list[Sample]]


def paired(sides: Mapping[str, Work], rounds: int, clock: Clock | None = None, warmup: int = 1) -> Timings:
    """Call every side once a round, in an order that moves on by one each round; `rounds` samples a side.

    Args:
        sides: name -> what to time; called `warmup` times untimed before the first round.
    """
    clock = clock or Clock()
    names = list(sides)
    for name in names * warmup:
        sides[name]()
    samples: Timings = {name: [] for name in names}
    for number in range(rounds):
        for name in rotated(names, number):
            samples[name].append(timed(sides[name], clock))
    return samples


def rotated(items: Sequence[T], by: int) -> list[T]:
    """The items in order, begun `by` places later: nobody is always first, or always after a cache-filler."""
    by %= len(items)
    return [*items[by:], *items[:by]]


def timed(work: Work, clock: Clock) -> Sample:
    """The seconds of one call."""
    clock.settle()
    wall, cpu = clock.wall(), clock.cpu()
    work()
    clock.settle()
    return Sample(clock.wall() - wall, clock.cpu() - cpu)


def ratio(slow: Sequence[float], fast: Sequence[float]) -> Ratio:
    """How many times `fast` is faster, round by round. What the clock is too coarse to see counts as a tick."""
    tick = time.get_clock_info("perf_counter").resolution
    rounds = [a / max(b, tick) for a, b in zip(slow, fast, strict=True)]
    return Ratio(statistics.median(rounds), min(rounds), max(rounds))


def walls(samples: Sequence[Sample]) -> list[float]:
    return [sample.wall for sample in samples]


def cpus(samples: Sequence[Sample]) -> list[float]:
    return [sample.cpu for sample in samples]
