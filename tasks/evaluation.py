"""Score a task on labelled rows in one streaming pass: report, predictions in the order of the file, errors, plots."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from tasks import plots
from tasks.base import Task
from tasks.data.readers import Table
from tasks.data.writers import open_writer
from tasks.metrics import WorstErrors
from tasks.run import forward

#: Rows whose outputs wait to be put back in order; bounds memory at any file size.
WINDOW = 4096


def evaluate(
    task: Task,
    examples: Any,
    table: Table,
    split: str,
    folder: Path,
    tokens_per_batch: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Any:
    """One pass over a split; writes predictions.csv, worst_errors.csv and the plots of the task into `folder`.

    Returns:
        The report, computed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if task.ranks:
        return task.measure_ranking(examples, table, split, folder, tokens_per_batch, advance)
    report, worst = task.new_report(split).to(task.device), WorstErrors()
    with open_writer(folder / "predictions.csv") as writer:
        start = 0
        waiting: dict[int, Any] = {}
        for batch, outputs in forward(task, examples, tokens_per_batch, WINDOW):
            task.measure(report, worst, outputs, batch)
            index = batch.index.tolist()
            waiting.update(zip(index, task.decode(outputs, batch, examples.cut[index].tolist()), strict=True))
            if advance:
                advance(len(index))
            full = min(start + WINDOW, len(examples)) - start
            if len(waiting) == full:
                rows = list(range(start, start + full))
                writer.write(task.readable(table.select(rows), [waiting[i] for i in rows]))
                start, waiting = start + full, {}
    write_errors(folder / "worst_errors.csv", worst.rows(), table, task)
    task.plot(report, folder)
    return report


def write_errors(path: Path, rows: list[dict[str, Any]], table: Table, task: Task) -> None:
    """The worst errors, the worst first, with the row they stand in."""
    with open_writer(path) as writer:
        writer.write(task.error_columns(rows, table.select([row["index"] for row in rows])))


def learning_curves(task: Task, folder: Path) -> None:
    """learning_curves.png of a training: losses and headline metrics at each validation."""
    wanted = {"train_loss": "train/loss", "val_log_loss": "validation/loss"}
    wanted |= {f"val_{name}": f"validation/{name}" for name in task.shown}
    curves = {
        shown: [(row["step"], row[key]) for row in task.history if key in row] for key, shown in wanted.items()
    }
    if curves := {name: points for name, points in curves.items() if points}:
        plots.learning_curves(folder / "learning_curves.png", curves)
