"""The summary that ends a training or an evaluation, from what was found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.console import Confusion, Score, Summary
from tasks.base import Task

#: Most pairs of confused labels to show.
CONFUSIONS = 5


def summarise(
    folder: Path, task: Task, facts: Mapping[str, Any], reports: Mapping[str, Any], run: Path | None = None
) -> Summary:
    """Facts in words, headline metrics with intervals, the worst confusions, the next commands.

    Args:
        run: the run's own folder where the summary's `folder` is another (an evaluation); then no training is told.
    """
    scores = {
        split: [
            Score(metric, values[metric], values.get(f"{metric}_low"), values.get(f"{metric}_high"))
            for metric in task.shown
            if values.get(metric) is not None
        ]
        for split, report in reports.items()
        for values in [report.compute()]
    }
    last = reports[list(reports)[-1]]
    where = run or folder
    return Summary(
        title=f"{task.name}: {task.schema.describe()}",
        facts=in_words(facts, trained=run is None),
        scores=scores,
        run=folder,
        confusions=[Confusion(**row) for row in task.confusions(last, CONFUSIONS)],
        commands={purpose: f"modernbert {words.format(run=where)}" for purpose, words in task.next_steps.items()},
    )


def in_words(facts: Mapping[str, Any], trained: bool) -> dict[str, str]:
    """What was trained on what, as lines of name and value."""
    encoder = facts["encoder"]
    words = {"encoder": f"{encoder['source']}, {encoder['parameters'] / 1e6:.0f}M parameters"}
    for split, data in facts["data"].items():
        words[split] = f"{data['rows']:,} rows of {data['source']}"
    if trained and not facts["training"]["steps"]:
        words["training"] = f"none (trainer.max_steps=0): the encoder as it is, seed {facts['seed']}"
    elif trained:
        training = facts["training"]
        rate = training["tokens"] / max(training["seconds"], 1e-9)
        words["training"] = (
            f"{training['epochs']} epochs, {training['steps']:,} steps, {training['seconds']:.0f} s, "
            f"{rate:,.0f} tokens/s, seed {facts['seed']}"
        )
        if "budget_use" in training:
            words["training"] += f", {training['budget_use']:.0%} of data.tokens_per_batch used"
    return words
