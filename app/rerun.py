"""`modernbert rerun`: a saved run trained again from its own configuration, and whether the same comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from app import console, origin, resume
from app import train as training
from app.failures import FAILED, OK
from app.rundir import new_run_dir
from modernbert.errors import ConfigError
from tasks.run import Run, read_info, write_json

FILE = "rerun.json"


def main(cfg: DictConfig) -> int:
    """Train `cfg.run` again; exit status 1 where its metric is not met.

    Raises:
        ConfigError: the run lacks what is needed for it, or its data or base weights are no longer the same.
    """
    if not cfg.tolerance >= 0:
        raise ConfigError(f"tolerance={cfg.tolerance}: allowed is 0 or more.")
    run = Path(cfg.run)
    read_info(run)  # which says what is wrong with a folder that is no finished run
    if origin.read(run) is None:
        raise ConfigError(f"run={run} has no {origin.FILE}: it was trained by a version that kept none. Train it anew.")
    again = resume.configuration([f"resume={run}"])
    again.resume, again.run_dir = None, cfg.run_dir
    again.run_dir = str(new_run_dir(again))
    status = training.main(again, origin_of=run)
    if status != OK:
        return status
    second = Path(again.run_dir)
    headline = headline_of(second)
    found = differences(read_metrics(run), read_metrics(second), headline)
    met = all(abs(row["difference"]) <= cfg.tolerance for row in found if row["metric"] == headline)
    write_json(second / FILE, {"run": str(run), "tolerance": cfg.tolerance, "met": met, "metrics": found})
    show(found, headline, cfg.tolerance, run, met)
    return OK if met else FAILED


def headline_of(run: Path) -> str:
    """The metric that chose the best epoch."""
    asked = resume.configuration([f"resume={run}"]).trainer.monitor
    return str(asked or Run.load(run, "cpu").task.new_report("validation").headline)


def read_metrics(run: Path) -> dict[str, dict[str, float | None]]:
    """metrics.json of a run."""
    found: dict[str, dict[str, float | None]] = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return found


def differences(
    before: Mapping[str, Mapping[str, Any]], now: Mapping[str, Mapping[str, Any]], first: str
) -> list[dict[str, Any]]:
    """Each metric of each split in both runs, the one named `first` before the others; ends of intervals left out."""
    rows = []
    for split, values in before.items():
        names = [name for name in values if not name.endswith(("_low", "_high")) and name in now.get(split, {})]
        for name in sorted(names, key=lambda name: name != first):
            old, new = values[name], now[split][name]
            if old is not None and new is not None:
                rows.append({"split": split, "metric": name, "before": old, "now": new, "difference": new - old})
    return rows


def show(found: list[dict[str, Any]], headline: str, tolerance: float, run: Path, met: bool) -> None:
    """The metrics that changed, and the verdict in words."""
    shown = [row for row in found if row["metric"] == headline or row["difference"]]
    cells = [
        [row["split"], row["metric"], f"{row['before']:.4f}", f"{row['now']:.4f}", f"{row['difference']:+.2g}"]
        for row in shown
    ]
    columns = ["split", "metric", "before", "now", "difference"]
    console.out().print()
    console.out().print(console.table(columns, cells, right=columns[2:]))
    same = len(found) - len([row for row in found if row["difference"]])
    worst = max((abs(row["difference"]) for row in found if row["metric"] == headline), default=0.0)
    verdict = "within" if met else "outside"
    console.out().print(
        f"{run} trained again: {headline} differs by {worst:.2g}, {verdict} the tolerance of {tolerance:g}; "
        f"{same} of {len(found)} metrics are exactly the same.",
        soft_wrap=True,
    )
