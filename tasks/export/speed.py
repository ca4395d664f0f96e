"""How fast exports are beside the run itself, in one process, taking turns."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tasks.data.examples import Batch
from tasks.export.gate import RAGGED, Rows

#: Rounds that are timed, after one that is not. The fastest is taken, as other work on the machine only adds time.
ROUNDS = 5
MOST_BATCHES = 4
OURS = "the run, in PyTorch"


@dataclass(frozen=True)
class Speed:
    """`alone`: median seconds of one row at batch 1. `rows`: rows a second in ragged batches. `bytes`: on disk."""

    alone: float
    rows: float
    bytes: int


def measure(rows: Rows, models: Mapping[str, Any], sizes: Mapping[str, int]) -> dict[str, Speed]:
    """Time the run and its exports on the gate's rows; each round calls every model once.

    Args:
        models: by name, packed call -> logits.
        sizes: bytes on disk, by name, OURS included.
    """
    sides = {OURS: rows.answer, **models}
    single, ragged = rows.single, rows.ragged[:MOST_BATCHES]
    alone: dict[str, list[float]] = {name: [float("inf")] * len(single) for name in sides}
    together: dict[str, float] = dict.fromkeys(sides, float("inf"))
    for turn in range(ROUNDS + 1):
        for name, model in sides.items():
            spent = [seconds(model, batch) for batch in single]
            whole = sum(seconds(model, batch) for batch in ragged)
            if turn:
                alone[name] = [min(a, b) for a, b in zip(alone[name], spent, strict=True)]
                together[name] = min(together[name], whole)
    count = sum(len(batch) for batch in ragged)
    return {name: Speed(median(alone[name]), count / together[name], sizes[name]) for name in sides}


def seconds(model: Any, batch: Batch) -> float:
    start = time.perf_counter()
    model(batch.packed)
    return time.perf_counter() - start


def bytes_of(folder: Path) -> int:
    """Of the weights: the largest files of a format are those."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix in (".onnx", ".data", ".safetensors"))


def describe(rows: Rows) -> str:
    """The shapes and the machine of a measurement, in a line."""
    lengths = [int(batch.packed.max_seqlen) for batch in rows.ragged[:MOST_BATCHES]]
    return (
        f"batch 1: median of {len(rows.single)} rows; batch {RAGGED}: {len(lengths)} batches, their longest rows "
        f"{min(lengths)} to {max(lengths)} tokens; best of {ROUNDS} rounds in turns, {torch.get_num_threads()} threads"
    )
