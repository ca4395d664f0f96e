"""The tab about the run itself: scores with intervals, plots, worst errors, the card. Reads the folder alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from tasks.card import interval
from tasks.data import readers
from tasks.run import Run

#: File -> its name for people, in the order of the page.
PLOTS = {
    "confusion_matrix.png": "Confusion matrix",
    "reliability.png": "Reliability",
    "learning_curves.png": "Learning curves",
}


def build(run: Run) -> None:
    """Everything a run's folder has to show; what is not there is left out."""
    folder = run.folder
    scores = score_rows(read_metrics(folder), run.task.shown)
    if scores:
        gr.Markdown("### Scores\nWith 95% intervals, over the rows of each split.")
        gr.Dataframe(
            scores["data"],
            headers=scores["headers"],
            label="Scores",
            show_label=False,
            interactive=False,
            max_height=420,
        )
    plots = [name for name in PLOTS if (folder / name).is_file()]
    if plots:
        gr.Markdown("### Plots")
        with gr.Row():
            for name in plots:
                gr.Image(
                    str(folder / name),
                    label=PLOTS[name],
                    alt_text=PLOTS[name],
                    format="png",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    min_width=300,
                )
    errors = folder / "worst_errors.csv"
    table = next(readers.stream(str(errors))) if errors.is_file() else None
    if table is not None:
        gr.Markdown("### Worst errors\nThe rows the run was most wrong about, with their place in the file.")
        gr.Dataframe(
            [list(row) for row in zip(*table.columns.values(), strict=True)],
            headers=list(table.columns),
            label="Worst errors",
            show_label=False,
            interactive=False,
            wrap=True,
            max_height=480,
            show_search="search",
        )
    if (folder / "README.md").is_file():
        with gr.Accordion("Model card", open=not scores):
            gr.Markdown(card(folder / "README.md"), header_links=False)


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """metrics.json; empty where a run has none."""
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def score_rows(metrics: Mapping[str, Mapping[str, Any]], first: Any = ()) -> dict[str, list]:
    """A row a metric, a column a split; the `first` metrics lead."""
    names = dict.fromkeys(name for values in metrics.values() for name in values)
    bounds = {f"{name}{end}" for name in names for end in ("_low", "_high")}
    order = [name for name in first if name in names]
    order += [name for name in names if name not in order and name not in bounds]
    rows = [[name, *(interval(values, name) for values in metrics.values())] for name in order]
    rows = [row for row in rows if any(row[1:])]
    return {"headers": ["metric", *metrics], "data": rows} if rows else {}


def card(path: Path) -> str:
    """The model card without the block that is for the hub."""
    text = path.read_text(encoding="utf-8")
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    return text.strip()
