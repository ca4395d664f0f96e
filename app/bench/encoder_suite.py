"""`modernbert bench encoder`: the packed encoder beside transformers, by shape, length and mode."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from app import console
from app.bench import flops, memory, report, shapes, sides, suite
from app.bench.measure import Ratio, Timings, cpus, device_clock, paired, ratio, walls
from app.bench.sides import MODES, OURS, Mode, Setting
from app.bench.workload import Workload, longest, workload
from modernbert.errors import BackendError, ConfigError

CEILING = "matrix product"
#: A GPU works on a cell of so many tokens, about what fills it without any waiting for the host.
CUDA_TOKENS = 131_072


@dataclass(frozen=True)
class Settings:
    """The keys of conf/bench_encoder.yaml but `json`.

    Raises:
        ConfigError: for a value outside its range.
    """

    shapes: list[str]
    lengths: list[str | int]
    modes: list[Mode]
    rounds: int
    tokens: int | str
    batch_size: int | str
    memory: list[str | int]
    attention: str
    adamw: str
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        shapes.check_names(self.shapes)
        for name in [*self.lengths, *self.memory]:
            longest(name)
        for mode in self.modes:
            _require("modes", mode, mode in MODES, " and ".join(MODES))
        _require("rounds", self.rounds, self.rounds >= 1, "1 or more (5 gives a median worth the name)")
        for key in ("tokens", "batch_size"):
            value = getattr(self, key)
            _require(key, value, value == "auto" or (isinstance(value, int) and value >= 1), "auto, or 1 or more")
        _require("adamw", self.adamw, self.adamw in ("fused", "default"), "fused or default")

    def cell_tokens(self, shape: str, device: torch.device) -> int:
        """About how many tokens a cell of this shape has."""
        if isinstance(self.tokens, int):
            return self.tokens
        return CUDA_TOKENS if device.type == "cuda" else shapes.usual_tokens(shape)

    @property
    def padded_batch(self) -> int | None:
        return self.batch_size if isinstance(self.batch_size, int) else None


@dataclass(frozen=True)
class Cell:
    """One line of the comparison."""

    shape: str
    layers: int | None  # None: all of them
    length: str | int
    mode: Mode


def main(cfg: DictConfig) -> int:
    """Measure every cell that is asked for; returns the exit status."""
    settings = suite.settings_of(Settings, cfg)
    device = suite.begin(settings.device, settings.threads)
    rows = noted(measure(settings, device))
    found = report.document("encoder", device, torch.get_num_threads(), asdict(settings), rows=rows)
    report.emit(cfg.json, found, table(rows), (legend(device),))
    return 0


def noted(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """All rows, each said as soon as it is measured."""
    found = []
    for row in rows:
        console.note(line(row))
        found.append(row)
    return found


def measure(settings: Settings, device: torch.device) -> Iterator[dict[str, Any]]:
    """One row (a JSON object) for each cell, in order of the settings."""
    setting = Setting(device, settings.adamw)
    for name in settings.shapes:
        built: dict[int | None, shapes.Pair] = {}
        for length in settings.lengths:
            layers = shapes.layers_at(name, longest(length), device)
            if layers not in built:
                built = {layers: shapes.build(name, layers, settings.attention, device)}
            pair = built[layers]
            if longest(length) > pair.config.max_positions:
                console.note(f"{name} {length}: left out, its limit is {pair.config.max_positions} tokens")
                continue
            for mode in settings.modes:
                yield measure_cell(Cell(name, layers, length, mode), pair, settings, setting)


def measure_cell(cell: Cell, pair: shapes.Pair, settings: Settings, setting: Setting) -> dict[str, Any]:
    """Time every side of a cell and the ceiling in turns."""
    tokens = settings.cell_tokens(cell.shape, setting.device)
    work = workload(cell.length, tokens, setting.budget, settings.padded_batch)
    todo = {}
    for name in sides.names(work, pair, setting):
        try:
            todo[name] = sides.side(name, pair, work, cell.mode, setting)
        except BackendError as error:
            console.note(f"{cell.shape}: {error}")
    multiply, operations = flops.ceiling(setting.device, setting.dtype)
    timings = paired({**todo, CEILING: multiply}, settings.rounds, device_clock(setting.device))
    for model in (pair.ours, pair.theirs):
        model.zero_grad(set_to_none=True)
    row = describe(cell, pair, work, timings, operations)
    if cell.length in settings.memory:
        add_memory(row, cell, tokens, settings, setting.device)
    return row


def describe(cell: Cell, pair: shapes.Pair, work: Workload, timings: Timings, operations: int) -> dict[str, Any]:
    """A cell's samples as speeds, ratios over each peer, and the share of the ceiling."""
    useful = flops.forward_flops(pair.config, work.lengths)
    useful *= flops.STEP_OVER_FORWARD if cell.mode == "training" else 1
    ours, limit = walls(timings[OURS]), walls(timings[CEILING])
    share = statistics.median((useful / own) / (operations / bound) for own, bound in zip(ours, limit, strict=True))
    found: dict[str, dict[str, Any]] = {
        name: suite.speed(samples, work.tokens, "tokens") for name, samples in timings.items() if name != CEILING
    }
    for name in found:
        if name != OURS:
            found[name]["ratio"] = ratio(walls(timings[name]), ours).to_json()
            found[name]["cpu_ratio"] = ratio(cpus(timings[name]), cpus(timings[OURS])).to_json()
    return {
        "shape": cell.shape,
        "layers": pair.config.num_layers,
        "mode": cell.mode,
        "length": cell.length,
        "sequences": len(work.rows),
        "tokens": work.tokens,
        "padded_batch": work.batch_size,
        "useful_gflop": round(useful / 1e9, 3),
        "ceiling_gflops": round(operations / statistics.median(limit) / 1e9, 1),
        "ceiling_share": round(share, 4),
        "sides": found,
    }


def add_memory(row: dict[str, Any], cell: Cell, tokens: int, settings: Settings, device: torch.device) -> None:
    """Peak memory of each side, each in a process of its own."""
    for name, found in row["sides"].items():
        job = memory.Job(
            shape=cell.shape,
            layers=cell.layers,
            length=cell.length,
            tokens=tokens,
            batch_size=settings.padded_batch,
            mode=cell.mode,
            side=name,
            device=str(device),
            attention=settings.attention,
            adamw=settings.adamw,
            threads=settings.threads,
        )
        found["peak_bytes"] = memory.peak(job)


def line(row: dict[str, Any]) -> str:
    """One row as a sentence, said when it is measured."""
    against = ", ".join(f"{found['ratio']['median']:.2f} x {name}" for name, found in peers(row))
    speed = row["sides"][OURS]["tokens_per_s"]
    return f"{row['shape']} {row['mode']} {row['length']}: {speed:,.0f} tokens/s, {against}"


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each cell and peer; what is the same as in the line above is left blank."""
    columns = ["shape", "mode", "length", "tokens/s", "ceiling", "against", "ratio", "CPU time", "memory"]
    drawn = []
    for row in rows:
        ours = row["sides"][OURS]
        layers = f" ({row['layers']} layers)" if row["shape"] in shapes.SHAPES and _capped(row) else ""
        head = [
            row["shape"] + layers,
            row["mode"],
            str(row["length"]),
            f"{ours['tokens_per_s']:,.0f}",
            f"{row['ceiling_share']:.0%}",
        ]
        for name, found in peers(row):
            cpu = f"{found['cpu_ratio']['median']:.2f}"
            drawn.append([*head, name, str(Ratio(**found["ratio"])), cpu, _less(ours, found)])
            head = [""] * len(head)
    return console.table(columns, drawn, right=["tokens/s", "ceiling", "CPU time", "memory"])


def legend(device: torch.device) -> str:
    """How to read the table."""
    precision = "bf16 autocast" if device.type == "cuda" else "fp32"
    return (
        f"\n{precision}. ratio: theirs over our wall time, median of rounds (smallest-largest). CPU time: "
        "the same of CPU time; with threads=1 it is what other guests of the machine disturb least.\nceiling: "
        "our useful operations a second as a share of a matrix product's, timed in turns with it.\nmemory: "
        "their peak over ours, above weights and optimiser state."
    )


def peers(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, found) for name, found in row["sides"].items() if name != OURS]


def _less(ours: dict[str, Any], found: dict[str, Any]) -> str:
    if not ours.get("peak_bytes") or not found.get("peak_bytes"):
        return ""
    return f"{found['peak_bytes'] / ours['peak_bytes']:.2f} x {ours['peak_bytes'] / 2**20:,.0f} MB"


def _capped(row: dict[str, Any]) -> bool:
    return bool(row["layers"] != shapes.SHAPES[row["shape"]].layers)


def _require(key: str, value: object, ok: bool, allowed: str) -> None:
    if not ok:
        raise ConfigError(f"{key}={value}: allowed is {allowed}.")
