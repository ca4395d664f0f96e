"""The end of a training: scores with intervals, the saved run, its card and the summary."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from app import console
from app.checkpoint_files import FOLDER
from app.compose import plain
from app.progress import tracking
from app.summary import summarise
from tasks import run as runs
from tasks.base import Task
from tasks.card import write_card
from tasks.data.module import DataSettings, Prepared
from tasks.evaluation import evaluate, learning_curves


@dataclass(frozen=True)
class Plan:
    """What a run is made of beside its task: settings, rows, base weights, its folder, and where they came from."""

    cfg: DictConfig
    settings: DataSettings
    prepared: Prepared
    base: Path
    folder: Path
    made: Mapping[str, Any]


def finish(plan: Plan, task: Task, training: Mapping[str, Any]) -> None:
    """Scores with intervals, the saved run, its card and the summary.

    Args:
        training: what it took, for task.json.
    """
    folder = plan.folder
    reports = score(task, plan.prepared, folder, plan.settings.budget(task.device.type))
    facts = gather_facts(plan.cfg, plan.prepared, task, {**plan.made, "training": training})
    runs.save_run(folder, task, plan.base, task_settings(plan.cfg), facts)
    metrics = {split: report.compute() for split, report in reports.items()}
    runs.write_json(folder / "metrics.json", metrics)
    learning_curves(task, folder)
    write_card(folder, task, facts, metrics)
    # The saved model holds the best weights; checkpoints are for a training that was cut short.
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    console.out().print(console.summary(summarise(folder, task, facts, reports)))


def score(task: Task, prepared: Prepared, folder: Path, budget: int) -> Mapping[str, Any]:
    """Validation first (thresholds are fitted on it), then test; the last one leaves the tables and plots."""
    reports: dict[str, Any] = {}
    splits: list[str] = [split for split in ("validation", "test") if split in prepared.examples]
    for split in splits or ["train"]:
        table, examples = prepared.tables[split], prepared.examples[split]
        with tracking(f"scoring {split}", len(table)) as advance:
            reports[split] = evaluate(task, examples, table, split, folder, budget, advance)
        if split == "validation" and task.fit(reports[split]):
            # The fitted thresholds change the predictions, so they are written again.
            reports[split] = evaluate(task, examples, table, split, folder, budget)
    return reports


def task_settings(cfg: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in plain(cfg.task).items() if key != "_target_"}


def gather_facts(cfg: DictConfig, prepared: Prepared, task: Task, made: Mapping[str, Any]) -> dict[str, Any]:
    """Where everything came from, for task.json and the card."""
    hashes = {file["source"]: {"sha256": file["sha256"]} for file in made["files"].values()}
    data = {
        split: {"source": table.source, "rows": len(table)} | hashes.get(table.source, {})
        for split, table in prepared.tables.items()
    }
    training = {key: round(value, 2) if isinstance(value, float) else value for key, value in made["training"].items()}
    return {
        "encoder": {
            "source": cfg.encoder.source,
            "revision": cfg.encoder.revision,
            "sha256": made["base"],
            "parameters": sum(p.numel() for p in task.encoder.parameters()),
        },
        "data": data,
        "seed": cfg.seed,
        "packages": made["packages"],
        "git": made["git"],
        "training": training | {"steps_left_out": task.numbers.skipped},
    }
