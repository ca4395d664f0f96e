"""What suites have in common: settings off their configuration, sides that must agree, figures of a side."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from omegaconf import DictConfig

from app.bench import report
from app.bench.measure import Sample, cpus, walls
from app.compose import plain
from app.threads import use_threads
from modernbert.errors import BackendError, ConfigError
from tasks.run import choose_device

S = TypeVar("S")
#: Largest difference between two sides of a probability, or of a coordinate of a vector of length 1: fp32, and bf16's
#: three digits.
AGREEMENT = {"cpu": 1e-5, "cuda": 2e-2}


def settings_of(kind: type[S], cfg: DictConfig) -> S:
    """The keys of a suite's configuration but `json`, which is where the result goes.

    Raises:
        ConfigError: a value outside its range; a result that would have no folder.
    """
    given = plain(cfg)
    target = given.pop("json")
    settings = kind(**given)
    report.check_target(target)
    return settings


def begin(device: str, threads: int | None) -> torch.device:
    """The device to measure on, with so many threads."""
    use_threads(threads)
    return choose_device(device)


def require_least_one(settings: Any, *keys: str) -> None:
    """ConfigError for the first of these keys that is below 1."""
    for key in keys:
        if getattr(settings, key) < 1:
            raise ConfigError(f"{key}={getattr(settings, key)}: allowed is 1 or more.")


def require_sentence_transformers() -> None:
    """ConfigError where the peer is not installed."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ConfigError("sentence-transformers is not installed: pip install 'modernbert[peers]'.")


def require_agreement(what: str, difference: float, device: torch.device, advice: str = "") -> float:
    """The difference of two sides, if it is small.

    Raises:
        BackendError: it is not, so that their times would compare different things.
    """
    allowed = AGREEMENT[device.type]
    if not difference <= allowed:
        raise BackendError(f"{what} differ by {difference:.1e} (allowed {allowed:.0e}): nothing was measured.{advice}")
    return difference


def speed(samples: Sequence[Sample], count: int, unit: str) -> dict[str, float]:
    """Medians over rounds that each worked off `count` of a unit, such as "texts"."""
    wall, cpu = statistics.median(walls(samples)), statistics.median(cpus(samples))
    return {f"{unit}_per_s": round(count / wall, 1), "wall_s": round(wall, 5), "cpu_s": round(cpu, 5)}
