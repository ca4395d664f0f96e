"""The tab about the run itself: scores with intervals, plots, worst errors and the card, from its folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from tasks.card import interval
from tasks.run import Run
from ui.examples import own_rows
from ui.markup import table

#: File -> its name for people, in the order of the page.
PLOTS = {
    "confusion_matrix.png": "Confusion matrix",
    "reliability.png": "Reliability",
    "learning_curves.png": "Learning curves",
}


def build(run: Run) -> None:
    """Everything a run's folder has to show; what is not there is left out."""
    folder = run.folder
    headers, rows = score_rows(read_metrics(folder), run.task.shown)
    if rows:
        gr.Markdown("### Scores\nWith 95% intervals over the rows of each split.")
        gr.HTML(table("Scores", headers, rows), apply_default_css=False)
    show_plots([folder / name for name in PLOTS if (folder / name).is_file()])
    errors = own_rows(folder / "worst_errors.csv")
    if errors:
        gr.Markdown("### Worst errors\nThe rows the run was most wrong about, with their place in the file.")
        gr.HTML(table("Worst errors", list(errors[0]), [list(row.values()) for row in errors]), apply_default_css=False)
    if (folder / "README.md").is_file():
        with gr.Accordion("Model card", open=not rows):
            gr.Markdown(card(folder / "README.md"))


def show_plots(paths: Sequence[Path]) -> None:
    """The plots with their names above, side by side where there is room."""
    with gr.Row():
        for path in paths:
            with gr.Column(min_width=300):
                gr.Markdown(f"### {PLOTS[path.name]}")
                gr.Image(
                    str(path),
                    label=PLOTS[path.name],
                    show_label=False,  # it would lie on the plot
                    alt_text=PLOTS[path.name],
                    format="png",
                    interactive=False,
                    buttons=["fullscreen"],
                )


def read_metrics(folder: Path) -> dict[str, dict[str, Any]]:
    """metrics.json; empty where a run has none."""
    path = folder / "metrics.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def score_rows(
    metrics: Mapping[str, Mapping[str, Any]], first: Sequence[str] = ()
) -> tuple[list[str], list[list[str]]]:
    """Headers and rows: a row a metric, a column a split; the `first` metrics lead."""
    names = dict.fromkeys(name for values in metrics.values() for name in values)
    bounds = {f"{name}{end}" for name in names for end in ("_low", "_high")}
    order = [name for name in first if name in names]
    order += [name for name in names if name not in order and name not in bounds]
    rows = [[name, *(said(values, name) for values in metrics.values())] for name in order]
    return ["metric", *metrics], [row for row in rows if any(row[1:])]


def said(values: Mapping[str, Any], name: str) -> str:
    """A score with its interval; a count is a whole number."""
    value = values.get(name)
    return f"{value:,}" if isinstance(value, int) else interval(values, name)


def card(path: Path) -> str:
    """The model card without the block that is for the hub."""
    text = path.read_text(encoding="utf-8")
    if text.startswith("---\n"):
        text = text.partition("\n---\n")[2]
    return text.strip()
