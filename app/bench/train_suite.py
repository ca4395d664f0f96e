"""`modernbert bench train`: a whole `modernbert train` beside transformers' Trainer, same rows, same settings.

Each training runs in a process of its own, ours and theirs in turns. Timed is the training alone, from the call
of the trainer to its return: reading, tokenising, loading and scoring are left out on both sides.
"""

from __future__ import annotations

import json
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from app import console
from app.bench import child, peers, report
from app.bench.job import Job, Result
from app.bench.measure import Ratio, ratio, rotated
from app.compose import plain
from app.threads import use_threads
from modernbert.config import read_config
from modernbert.errors import ConfigError
from modernbert.sources import resolve
from tasks.data.module import DataSettings
from tasks.run import choose_device

OURS, THEIRS = "ours", "Trainer"
#: Keys of conf/bench_train.yaml and conf/bench_folds.yaml that `modernbert train` has not.
OWN_KEYS = ("seeds", "folds", "json")
#: Every row trains and the last weights are kept on both sides, as Trainer does by default.
SAME_ROWS = {"data.validation": None, "data.validation_share": 0.0, "trainer.patience": None, "logger.name": "none"}


def main(cfg: DictConfig) -> int:
    """Train with every seed on both sides; returns the exit status."""
    config = plain(cfg)
    seeds, target = config["seeds"], config["json"]
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise ConfigError(f"seeds={seeds}: allowed is a list of whole numbers, such as [0,1,2].")
    peers.require(config)
    report.check_target(target)
    if config["data"]["validation"]:
        console.note("data.validation is left out: Trainer's default does not choose an epoch by it.")
    settle(config)
    base = resolve(config["encoder"]["source"], config["encoder"]["revision"])
    length = DataSettings(**config["data"]).token_limit(read_config(base).max_positions)
    runs = []
    for run in trainings(config, base, length, seeds):
        console.note(line(run))
        runs.append(run)
    use_threads(config["trainer"]["threads"])  # so that the number reported is the number used
    device = choose_device("cpu" if config["trainer"]["accelerator"] == "cpu" else "auto")
    found = report.document(
        "train", device, torch.get_num_threads(), config, runs=runs, means=means(runs), ratios=ratios(runs)
    )
    report.emit(target, found, table(runs), (verdict(runs),))
    return 0


def settle(config: dict[str, Any]) -> None:
    """Set what must be the same on both sides, in place."""
    for key, value in SAME_ROWS.items():
        section, _, last = key.partition(".")
        config[section][last] = value


def trainings(config: dict[str, Any], base: Path, max_length: int, seeds: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The result of each training as a JSON object, as it finishes; who begins changes from seed to seed."""
    for number, seed in enumerate(seeds):
        for side in rotated([OURS, THEIRS], number):
            with tempfile.TemporaryDirectory(prefix="modernbert-bench-") as folder:
                if side == OURS:
                    result = train_ours(config, seed, Path(folder) / "run")
                else:
                    result = train_theirs(Job(config, str(base), max_length, seed, folder), Path(folder))
            yield {"side": side, "seed": seed, **asdict(result)}


def train_ours(config: Mapping[str, Any], seed: int, folder: Path, metrics: Sequence[str] | None = None) -> Result:
    """`modernbert train` itself, read off the run that it saves; the metrics are those of the task's peer or given."""
    words = [*overrides(config), f"seed={seed}", f"run_dir={quoted(str(folder))}"]
    child.run("app.cli", ["train", *words])
    training = json.loads((folder / "task.json").read_text(encoding="utf-8"))["training"]
    scores = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    wanted = peers.PEERS[config["task"]["name"]].metrics if metrics is None else metrics
    quality = {name: scores[name] for name in wanted if name in scores}
    return Result(training["seconds"], training["cpu_seconds"], training["steps"], quality)


def train_theirs(job: Job, folder: Path) -> Result:
    """The peer of the task, in a process of its own."""
    asked, answer = folder / "job.json", folder / "result.json"
    asked.write_text(json.dumps(asdict(job)), encoding="utf-8")
    child.run("app.bench.peers", [str(asked), str(answer)])
    return Result(**json.loads(answer.read_text(encoding="utf-8")))


def overrides(config: Mapping[str, Any]) -> list[str]:
    """The composed configuration as `key=value` words of `modernbert train`, every key said."""
    values = {key: value for key, value in config.items() if key not in OWN_KEYS}
    return [f"task={config['task']['name']}", *_words(values, "")]


def _words(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for key, value in values.items():
        path = f"{prefix}{key}"
        if path in ("task._target_", "task.name"):
            continue
        # What is a mapping in itself (class weights by label) is a value, not a section.
        if isinstance(value, Mapping) and (not prefix or path == "data.columns"):
            yield from _words(value, f"{path}.")
        else:
            yield f"{path}={quoted(value)}"


def quoted(value: Any) -> str:
    """A value in Hydra's grammar, such that it comes out as it went in."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        # Keys cannot be quoted, only escaped.
        keys = [re.sub(r"([\\()\[\]{}:=, ])", r"\\\1", str(key)) for key in value]
        return "{" + ",".join(f"{k}:{quoted(v)}" for k, v in zip(keys, value.values(), strict=True)) + "}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ",".join(quoted(item) for item in value) + "]"
    if not isinstance(value, str):
        return repr(value)
    # In quotes every word stays a word ("32", "null"); backslashes count before a quote only: doubled there.
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    closing = len(escaped) - len(escaped.rstrip("\\"))
    return f"'{escaped}{escaped[len(escaped) - closing :]}'"


def means(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The mean over seeds of each side."""
    found = {}
    for side in (OURS, THEIRS):
        mine = [run for run in runs if run["side"] == side]
        names = mine[0]["quality"]
        found[side] = {
            "seconds": statistics.fmean(run["seconds"] for run in mine),
            "cpu_seconds": statistics.fmean(run["cpu_seconds"] for run in mine),
            "steps": mine[0]["steps"],
            "quality": {name: statistics.fmean(run["quality"][name] for run in mine) for name in names},
        }
    return found


def ratios(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Trainer's time over ours, seed by seed: median, smallest, largest."""
    found, by_seed = {}, sorted(runs, key=_seed)
    for key in ("seconds", "cpu_seconds"):
        ours, theirs = ([run[key] for run in by_seed if run["side"] == side] for side in (OURS, THEIRS))
        found[key] = ratio(theirs, ours).to_json()
    return found


def _seed(run: dict[str, Any]) -> int:
    return int(run["seed"])


def line(run: dict[str, Any]) -> str:
    """One training as a sentence, said when it ends."""
    scores = ", ".join(f"{name} {value:.4f}" for name, value in run["quality"].items())
    times = f"{run['seconds']:.1f} s, {run['cpu_seconds']:.1f} CPU s"
    return f"{run['side']}, seed {run['seed']}: {times}, {scores}"


def table(runs: Sequence[dict[str, Any]]) -> Table:
    """Every training, then the means."""
    average = [{"side": side, "seed": "mean", **found} for side, found in means(runs).items()]
    metrics = list(runs[0]["quality"])
    columns = ["side", "seed", "steps", "seconds", "CPU s", *metrics]
    rows = []
    for run in [*sorted(runs, key=_seed), *average]:
        times = [f"{run['seconds']:.1f}", f"{run['cpu_seconds']:.1f}"]
        rows.append([run["side"], str(run["seed"]), str(run["steps"]), *times, *_scores(run, metrics)])
    return console.table(columns, rows, right=columns[1:])


def _scores(run: dict[str, Any], metrics: Sequence[str]) -> list[str]:
    return [f"{run['quality'][name]:.4f}" for name in metrics]


def verdict(runs: Sequence[dict[str, Any]]) -> str:
    """The ratios in words."""
    found = ratios(runs)
    wall, cpu = (Ratio(**found[key]) for key in ("seconds", "cpu_seconds"))
    return f"\nTrainer over ours, median of seeds (smallest-largest): wall time {wall}, CPU time {cpu}"
