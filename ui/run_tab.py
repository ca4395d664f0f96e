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
from ui.messages import as_message
from ui.tab import State, Tab

#: File -> its name for people, in the order of the page.
PLOTS = {
    "confusion_matrix.png": "Confusion matrix",
    "reliability.png": "Reliability",
    "learning_curves.png": "Learning curves",
    "scores.png": "Predicted against right values",
}
ALL = "all"


class RunTab(Tab):
    """Everything a run's folder has to show; what is not there is left out."""

    title = "The run"

    def state(self, run: Run) -> State:
        folder = run.folder
        headers, rows = score_rows(read_metrics(folder), run.task.shown)
        errors, classes = own_rows(folder / "worst_errors.csv"), own_rows(folder / "per_class.csv")
        right = sorted({row["right"] for row in errors if row.get("right")})
        plots = {file: folder / file for file in PLOTS}
        readme = folder / "README.md"
        return {
            "scores": {"visible": bool(rows)},
            "table": {"value": table("Scores", headers, rows)},
            **{file: {"value": str(path) if path.is_file() else None} for file, path in plots.items()},
            **{f"{file} column": {"visible": path.is_file()} for file, path in plots.items()},
            "classes": {"visible": bool(classes)},
            "class table": {"value": rows_table("Scores of each label", classes)},
            "errors": {"visible": bool(errors)},
            "right": {"choices": [(ALL, ""), *right], "value": "", "visible": len(right) > 1},
            "error table": {"value": rows_table("Worst errors", errors)},
            "card": {"visible": readme.is_file(), "open": not rows},
            "card text": {"value": card(readme) if readme.is_file() else ""},
        }

    def compose(self, chosen: gr.Dropdown) -> None:
        with self.part("scores", gr.Column, visible=False):
            gr.Markdown("### Scores\nWith 95% intervals over the rows of each split.")
            self.html("table")
        with gr.Row():
            for file, name in PLOTS.items():
                self.plot(file, name)
        with self.part("classes", gr.Accordion, label="Scores of each label", open=False, visible=False):
            self.html("class table")
        with self.part("errors", gr.Column, visible=False):
            gr.Markdown("### Worst errors\nWhat the run was most wrong about, with its place in the file.")
            right = self.part(
                "right", gr.Dropdown, choices=[(ALL, "")], value="", label="Right answer", visible=False,
                allow_custom_value=True,
            )  # fmt: skip
            errors = self.html("error table")
        with self.part("card", gr.Accordion, label="Model card", open=False, visible=False):
            self.part("card text", gr.Markdown, value="")
        right.input(self.errors, [right, chosen], errors, api_name="errors", show_progress="minimal")

    def html(self, name: str) -> gr.HTML:
        return self.part(name, gr.HTML, value="", apply_default_css=False)

    def plot(self, file: str, name: str) -> None:
        """A plot with its name above, side by side where there is room."""
        with self.part(f"{file} column", gr.Column, min_width=300, visible=False):
            gr.Markdown(f"### {name}")
            self.part(
                file, gr.Image, label=name, show_label=False,  # it would lie on the plot
                alt_text=name, format="png", interactive=False, buttons=["fullscreen"],
            )  # fmt: skip

    def errors(self, right: str | None, name: str) -> str:
        """The worst errors of rows with this right answer; of all for none."""
        with as_message():
            rows = own_rows(self.shelf.get(name).folder / "worst_errors.csv")
        return rows_table("Worst errors", [row for row in rows if not right or row.get("right") == right])


def rows_table(label: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of a file as a table."""
    return table(label, list(rows[0]), [list(row.values()) for row in rows]) if rows else ""


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
