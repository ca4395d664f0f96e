"""`modernbert bench long`: long texts beside transformers, and what a token costs in a long text over a shorter one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from omegaconf import DictConfig

from app import console
from app.bench import report, shapes, suite
from app.bench.encoder_suite import Cell, Settings, legend, measure_cell, noted, table
from app.bench.sides import Setting
from app.bench.workload import longest
from tasks.data.cost import attention_share

#: The two lengths whose tokens are compared, the shorter one first.
COMPARED = 2048, 8192


def main(cfg: DictConfig) -> int:
    """Measure every cell that is asked for; returns the exit status."""
    settings = suite.settings_of(Settings, cfg)
    device = suite.begin(settings.device, settings.threads)
    rows = noted(measure(settings, device))
    found = {"rows": rows, "token_costs": token_costs(rows)}
    document = report.document("long", device, torch.get_num_threads(), asdict(settings), **found)
    said = tuple(sentence(cost) for cost in found["token_costs"])
    report.emit(cfg.json, document, table(rows), (legend(device), *said))
    return 0


def measure(settings: Settings, device: torch.device) -> Iterator[dict[str, Any]]:
    """One row for each cell. A shape has the same layers at every length, so that its lengths can be compared."""
    setting = Setting(device, settings.adamw)
    most = max(longest(length) for length in settings.lengths)
    for name in settings.shapes:
        layers = shapes.layers_at(name, most, device)
        pair = shapes.build(name, layers, settings.attention, device)
        if most > pair.config.max_positions:
            console.note(f"{name}: left out, its limit is {pair.config.max_positions} tokens")
            continue
        factor = (1 + attention_share(COMPARED[1], pair.config)) / (1 + attention_share(COMPARED[0], pair.config))
        for mode in settings.modes:
            for length in settings.lengths:
                row = measure_cell(Cell(name, layers, length, mode), pair, settings, setting)
                yield row | {"operations_ratio": round(factor, 3)}


def token_costs(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Seconds of a token at 8,192 over those at 2,048, for each shape, mode and side that has both."""
    by = {(row["shape"], row["mode"], row["length"]): row for row in rows}
    found = []
    for (shape, mode, length), row in by.items():
        short = by.get((shape, mode, COMPARED[0]))
        if length != COMPARED[1] or short is None:
            continue
        sides = {
            name: round(short["sides"][name]["tokens_per_s"] / side["tokens_per_s"], 3)
            for name, side in row["sides"].items()
            if name in short["sides"]
        }
        found.append({"shape": shape, "mode": mode, "operations": row["operations_ratio"], "sides": sides})
    return found


def sentence(cost: dict[str, Any]) -> str:
    """A line under the table."""
    sides = ", ".join(f"{name} {ratio:.2f}" for name, ratio in cost["sides"].items())
    return (
        f"{cost['shape']} {cost['mode']}: a token of a text of {COMPARED[1]:,} tokens takes so many times the time of "
        f"one of {COMPARED[0]:,}: {sides}; of operations {cost['operations']:.2f}"
    )
