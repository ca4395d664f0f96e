"""`modernbert bench export`: saved runs beside their exports, which the gate has proven equal, on a CPU.

Every side answers the same rows in the same batches. Sizes and speeds are of a run's side in the same process; rows
come as they do in the file, short ones beside long ones, so the padded sides compute padding that the run does not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from app import console
from app.bench import report, suite, turns
from app.bench.measure import ratio
from app.compose import plain
from app.export import require_drop
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.export import Exporter, Parity, ParityError, Rows, choose_formats, open_export
from tasks.export.formats import bytes_of, require_fit
from tasks.run import Run

#: What int8 should gain over fp32 in ONNX Runtime.
WANTED = 1.5
FLOAT, INT8 = "onnx", "onnx-int8"


@dataclass(frozen=True)
class Settings:
    """The keys of conf/bench_export.yaml but `json`.

    Raises:
        ConfigError: for a value outside its range.
    """

    run: list[str]
    formats: list[str]
    max_metric_drop: float
    rounds: int
    threads: int | None

    def __post_init__(self) -> None:
        suite.require_least_one(self, "rounds")
        if not self.run:
            raise ConfigError("run=[]: give the folder of at least one saved run.")
        require_drop(self.max_metric_drop)


def main(cfg: DictConfig) -> int:
    """Export, prove and time every run; returns the exit status."""
    given = {key: value for key, value in plain(cfg).items() if key != "json"}
    given["run"] = [given["run"]] if isinstance(given["run"], str) else given["run"]
    settings = Settings(**given)
    report.check_target(cfg.json)
    names = choose_formats(settings.formats)
    use_threads(settings.threads)
    runs = [Run.load(folder, "cpu") for folder in settings.run]
    for run in runs:
        for name in names:
            require_fit(run, name)
    measured = []
    for run in runs:
        console.note(f"{run.folder}: exporting {', '.join(names)}")
        measured.append(measure(run, names, settings))
    found = report.document("export", torch.device("cpu"), torch.get_num_threads(), asdict(settings), runs=measured)
    report.emit(cfg.json, found, table(measured), tuple(remark(one) for one in measured))
    return 0


def measure(run: Run, names: Sequence[str], settings: Settings) -> dict[str, Any]:
    """One run and its exports as a JSON object; `sides` begins with the run itself."""
    rows, refused = Rows(run), {}
    proofs: dict[str, Parity] = {}
    with (
        tempfile.TemporaryDirectory(prefix="modernbert-bench-") as scratch,
        Exporter(run, rows, settings.max_metric_drop) as exporter,
    ):
        folders = {name: Path(scratch) / "export" / name for name in names}
        for name, folder in folders.items():
            try:
                proofs[name] = exporter.export(name, folder)
            except ParityError as error:
                refused[name] = str(error)
        models = {name: open_export(run, name, folders[name]) for name in proofs}
        times = turns.measure(rows, models, settings.rounds)
        sizes = {turns.OURS: bytes_of(run.folder / "model")} | {name: bytes_of(folders[name]) for name in proofs}
    sides = {turns.OURS: {"metric": rows.score} | size_and_speed(turns.OURS, sizes, times)}
    for name, proof in proofs.items():
        sides[name] = proven(proof) | size_and_speed(name, sizes, times)
    return {
        "run": str(run.folder),
        "task": run.name,
        "family": run.task.encoder.config.family,
        "rows": len(rows),
        "metric": rows.headline,
        "how": turns.describe(rows, settings.rounds),
        "sides": sides,
        "refused": refused,
        "int8_over_float": gain(times),
    }


def size_and_speed(name: str, sizes: Mapping[str, int], times: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {"megabytes": round(sizes[name] / 1e6, 1), **times[name]}


def proven(parity: Parity) -> dict[str, Any]:
    """What the gate found: the metric, the largest difference of an output, layers that are not in int8."""
    worst = [c.value for c in parity.checks if c.name.startswith(("logits", "vectors"))]
    return {
        "metric": parity.metric["export"],
        "largest_difference": max(worst),
        "kept_in_float": list(parity.kept_in_float),
    }


def gain(times: Mapping[str, Mapping[str, Any]]) -> dict[str, float] | None:
    """How many times the rows of fp32 int8 does at batch 32; None where one of the two is not there."""
    if FLOAT not in times or INT8 not in times:
        return None
    return ratio(times[FLOAT]["rounds"], times[INT8]["rounds"]).to_json()


def table(measured: Sequence[Mapping[str, Any]]) -> Table:
    """A line a run and side; a side that the gate refused has no figures."""
    columns = ["task", "encoder", "side", "MB", "metric", "difference", "batch 1, ms", "rows/s at 32", "speed"]
    lines = []
    for one in measured:
        label = [one["task"], one["family"]]
        for name, side in one["sides"].items():
            worst = f"{side['largest_difference']:.1g}" if "largest_difference" in side else ""
            lines.append([
                *label, name, f"{side['megabytes']:.1f}", f"{one['metric']} {side['metric']:.4f}", worst,
                f"{side['alone_ms']:.2f}", f"{side['rows_per_s']:.0f}", f"{side['speed']:.2f}x",
            ])  # fmt: skip
        lines += [[*label, name, "refused", *[""] * 5] for name in one["refused"]]
    return console.table(columns, lines, right=columns[3:])


def remark(one: Mapping[str, Any]) -> str:
    """What a table cannot hold of one run: shapes, layers in float, whether int8 pays, why a format was refused."""
    lines = [f"\n{one['run']}: {one['rows']} rows; {one['how']}"]
    for name, side in one["sides"].items():
        if side.get("kept_in_float"):
            lines.append(f"{name}: left in float: {', '.join(side['kept_in_float'])}")
    if (found := one["int8_over_float"]) is not None:
        short = "" if found["median"] >= WANTED else f", less than the {WANTED} that were wanted"
        spread = f"{found['median']:.2f} ({found['low']:.2f}-{found['high']:.2f})"
        lines.append(f"int8 does {spread} times the rows of ONNX fp32 at batch 32{short}")
    lines += [f"{name} was refused: {why}" for name, why in one["refused"].items()]
    return "\n".join(lines)
