"""A run and its exports timed on the gate's rows, in one process, taking turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from app.bench.measure import Timings, paired, ratio, walls
from modernbert.packing import Packed
from tasks.data.examples import Batch
from tasks.export import Rows
from tasks.export.rows import RAGGED

OURS = "the run, in PyTorch"
MOST_BATCHES = 4
ROUNDS = 5


def measure(rows: Rows, models: Mapping[str, Any], rounds: int = ROUNDS) -> dict[str, dict[str, Any]]:
    """Latency and throughput of the run and its exports, medians over rounds.

    Args:
        models: by name, packed call -> outputs.

    Returns:
        By name, OURS first: `alone_ms` of one row, `rows_per_s` in ragged batches, `speed` against the run, and as
        `rounds` the seconds of each round in ragged batches.
    """
    sides = {OURS: rows.answer, **models}
    alone, together = (
        paired({name: over(model, batches) for name, model in sides.items()}, rounds)
        for batches in (rows.single, rows.ragged[:MOST_BATCHES])
    )
    count = sum(len(batch) for batch in rows.ragged[:MOST_BATCHES])
    return {name: figures(name, alone, together, len(rows.single), count) for name in sides}


def over(model: Callable[[Packed], Any], batches: Sequence[Batch]) -> Callable[[], None]:
    """A round: each batch once."""

    def work() -> None:
        for batch in batches:
            model(batch.packed)

    return work


def figures(name: str, alone: Timings, together: Timings, singles: int, count: int) -> dict[str, Any]:
    """The figures of one side."""
    seconds = walls(together[name])
    return {
        "alone_ms": round(statistics.median(walls(alone[name])) / singles * 1e3, 3),
        "rows_per_s": round(count / statistics.median(seconds), 1),
        "speed": round(ratio(walls(together[OURS]), seconds).median, 3),
        "rounds": [round(value, 5) for value in seconds],
    }


def describe(rows: Rows, rounds: int = ROUNDS) -> str:
    """The shapes of a measurement, in a line."""
    lengths = [int(batch.packed.max_seqlen) for batch in rows.ragged[:MOST_BATCHES]]
    return (
        f"batch 1: mean of {len(rows.single)} rows; batch {RAGGED}: {len(lengths)} batches, their longest rows "
        f"{min(lengths)} to {max(lengths)} tokens; median of {rounds} rounds in turns, "
        f"{torch.get_num_threads()} threads"
    )
