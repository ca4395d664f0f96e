"""`modernbert bench folds`: k-fold cross-validation of a recipe, for files too small to spare a test set.

Each row is tested once, by a `modernbert train` in a process of its own that has not seen it.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table as Drawn

from app import console
from app.bench import report
from app.bench.train_suite import train_ours
from app.compose import plain
from app.threads import use_threads
from modernbert.config import read_config
from modernbert.errors import ConfigError
from modernbert.sources import resolve
from tasks.classification import SHOWN
from tasks.data.module import Checked, DataSettings, check, grouping
from tasks.data.readers import Table
from tasks.data.split import IntArray, folds
from tasks.data.writers import open_writer
from tasks.run import choose_device, task_class


def main(cfg: DictConfig) -> int:
    """Train once for each part of the rows; returns the exit status."""
    config = plain(cfg)
    count, target, seed = config["folds"], config["json"], config.pop("seed")
    require(config)
    report.check_target(target)
    checked = read_rows(config, seed)
    for note in checked.notes:
        console.note(note)
    rows = checked.tables["train"]
    groups, _ = grouping(rows, checked.schema, config["data"]["group"])
    parts = folds(checked.schema.strata(rows), count, seed, groups)
    metrics = SHOWN[checked.schema.labels.kind]
    found = []
    for run in trainings(config, rows, parts, seed, metrics):
        console.note(f"fold {run['fold']} of {count}: {run['rows']} rows, {scores(run['quality'])}")
        found.append(run)
    use_threads(config["trainer"]["threads"])  # so that the number reported is the number used
    device = choose_device("cpu" if config["trainer"]["accelerator"] == "cpu" else "auto")
    document = report.document(
        "folds", device, torch.get_num_threads(), config | {"seed": seed}, folds=found, summary=summary(found)
    )
    report.emit(target, document, table(found), (verdict(found),))
    return 0


def require(config: Mapping[str, Any]) -> None:
    """Refuse what has no folds, before anything is read.

    Raises:
        ConfigError: another task than classification; files beside the one that is parted.
    """
    if config["task"]["name"] != "classification":
        raise ConfigError(f"task={config['task']['name']}: bench folds parts the rows of a classification only.")
    for key in ("validation", "test"):
        if config["data"][key]:
            raise ConfigError(f"data.{key} is given: bench folds tests on parts of data.train, leave it out.")


def read_rows(config: Mapping[str, Any], seed: int) -> Checked:
    """The rows as `modernbert train` reads them, none parted off.

    Raises:
        DataError: the doctor found errors in them.
    """
    settings, task = DataSettings(**{**config["data"], "validation_share": 0.0}), config["task"]
    base = resolve(config["encoder"]["source"], config["encoder"]["revision"])
    limit = settings.token_limit(read_config(base).max_positions)
    checked = check(task_class(task["_target_"]).schema_type, settings, task, limit, seed)
    checked.report.raise_if_errors()
    return checked


def trainings(
    config: Mapping[str, Any], rows: Table, parts: Sequence[IntArray], seed: int, metrics: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The result of each training as a JSON object, as it finishes."""
    for number, part in enumerate(parts):
        held = set(part.tolist())
        with tempfile.TemporaryDirectory(prefix="modernbert-folds-") as folder:
            train, test = Path(folder) / "train.jsonl", Path(folder) / "test.jsonl"
            write(train, rows.select([i for i in range(len(rows)) if i not in held]))
            write(test, rows.select(part.tolist()))
            given = {**config, "data": {**config["data"], "train": str(train), "test": str(test)}}
            result = train_ours(given, seed, Path(folder) / "run", metrics)
        yield {"fold": number + 1, "rows": len(part), **asdict(result)}


def write(path: Path, rows: Table) -> None:
    """JSON lines: a list stays a list, and what is missing stays missing."""
    with open_writer(path) as writer:
        writer.write(rows.columns)


def summary(found: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Of each metric that all folds have: the mean, weighted by their rows, and how far folds lie apart."""
    weights = [run["rows"] for run in found]
    told = {}
    for name in found[0]["quality"]:
        values = [run["quality"].get(name) for run in found]
        if None not in values:  # as the area under a curve is where a fold has one class
            told[name] = {"mean": statistics.fmean(values, weights), "deviation": statistics.stdev(values)}
    return told


def scores(quality: Mapping[str, float | None]) -> str:
    """Metrics as a sentence has them, but for what is not defined."""
    return ", ".join(f"{name} {value:.4f}" for name, value in quality.items() if value is not None)


def table(found: Sequence[dict[str, Any]]) -> Drawn:
    """A line a fold, then the mean and the standard deviation."""
    told = summary(found)
    columns = ["fold", "rows", "CPU s", *told]
    lines = []
    for run in found:
        values = [f"{run['quality'][name]:.4f}" for name in told]
        lines.append([str(run["fold"]), f"{run['rows']:,}", f"{run['cpu_seconds']:.1f}", *values])
    for name in ("mean", "deviation"):
        lines.append([name, "", "", *(f"{one[name]:.4f}" for one in told.values())])
    return console.table(columns, lines, right=columns[1:])


def verdict(found: Sequence[dict[str, Any]]) -> str:
    """What mean and deviation are."""
    rows = sum(run["rows"] for run in found)
    return (
        f"\nEach of {rows:,} rows was tested once, by a training without it. mean: over folds, weighted by their rows; "
        "deviation: standard deviation of a fold."
    )
