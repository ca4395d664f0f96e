"""The tab that trains: a task, a file, the doctor's report, a start, live curves, a stop, and the result to try."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from modernbert.errors import DataError
from tasks.data import readers
from ui.batch import FILES, GUESSED, counted
from ui.curves import panels, read_curves
from ui.markup import escape, table
from ui.messages import as_message
from ui.renderers import frame
from ui.run_tab import RunTab
from ui.shelf import Shelf
from ui.training import Training, Trainings, Wish

#: Files of words and tags, which have no table to choose columns of.
TAGGED = [".conll", ".conllu", ".iob", ".iob2", ".bio", ".bioes", ".bilou", ".txt"]
#: Columns that can be chosen: as many as the task with most roles has.
ROLES = 7
#: Seconds between two looks at a training.
LOOK = 1.5
EPOCHS = 3
GUESS = "(guess)"


class TrainTab:
    """Trains on uploaded files. It depends on no run, so that it is no `Tab`."""

    title = "Train"

    def __init__(self, shelf: Shelf, trainings: Trainings) -> None:
        self.shelf, self.trainings, self.setup = shelf, trainings, trainings.setup

    def build(self, page: gr.Blocks, chosen: gr.Dropdown, tabs: gr.Tabs, current: gr.State) -> None:
        """The components and their events; by `chosen`, `tabs` and the title in `current` a person gets to a run."""
        tasks = list(self.setup.tasks)
        with gr.Row():
            with gr.Column(min_width=300):
                task = gr.Radio(tasks, value=tasks[0], label="1. What is to be learned")
                about = gr.Markdown(self.setup.tasks[tasks[0]].about)
                train = gr.File(label="2. Rows to learn from", file_types=[*FILES, *TAGGED], height=140)
                test = gr.File(label="Rows to test with (not needed)", file_types=[*FILES, *TAGGED], height=140)
            with gr.Column(min_width=300):
                encoder = gr.Dropdown(
                    list(self.setup.encoders), value=next(iter(self.setup.encoders)), label="3. Encoder",
                    info="minilm is installed with the package; others are fetched from the hub.",
                    allow_custom_value=True,
                )  # fmt: skip
                epochs = gr.Slider(1, 20, value=EPOCHS, step=1, label="4. Epochs", info="Times that all rows are read.")
                with gr.Accordion("Columns", open=False):
                    gr.Markdown("They are guessed by name and content; choose one where the guess is wrong.")
                    columns = [
                        gr.Dropdown([GUESS], value=GUESS, allow_custom_value=True, **self.role_of(tasks[0], i))
                        for i in range(ROLES)
                    ]
        with gr.Row():
            check = gr.Button("Check the data")
            start = gr.Button("Start training", variant="primary")
            stop = gr.Button("Stop", variant="stop", visible=False)
        report = gr.HTML("", label="The doctor's report", apply_default_css=False)
        live = gr.HTML("", label="Training", apply_default_css=False)
        try_it = gr.Button("Open the trained run", variant="primary", visible=False)
        timer = gr.Timer(LOOK, active=False)

        seen = [live, stop, try_it, timer]
        wish = [task, train, test, encoder, epochs, *columns]
        task.change(self.for_task, [task, train], [about, *columns], api_visibility="private")
        train.change(self.headers, [train, task], [report, *columns], api_name="headers", show_progress="minimal")
        check.click(self.check, wish, report, api_name="check", show_progress_on=report)
        start.click(self.start, wish, seen, api_name="train", show_progress_on=live)
        timer.tick(self.look, None, seen, api_name="training", show_progress="hidden")
        stop.click(self.stop, None, seen, api_name="stop", show_progress="hidden")
        page.load(self.look, None, seen, api_visibility="private", show_progress="hidden")
        try_it.click(self.try_it, None, [chosen, tabs, current], api_name="try")

    # -- what is chosen ------------------------------------------------------------------------------------

    def role_of(self, task: str, number: int) -> dict[str, Any]:
        """What the chooser of a role says."""
        roles = list(self.setup.tasks[task].roles.items())
        if number >= len(roles):
            return {"label": "Column", "info": None, "visible": False}
        name, about = roles[number]
        return {"label": f"Column of the {name.replace('_', ' ')}", "info": about, "visible": True}

    def for_task(self, task: str, train: str | None) -> list[Any]:
        """The words about a task, and its roles."""
        return [self.setup.tasks[task].about, *self.headers(train, task)[1:]]

    def headers(self, train: str | None, task: str) -> list[Any]:
        """What an uploaded file has to choose from; an old report is no longer true."""
        names: list[str] = []
        if train is not None and not Path(train).name.lower().endswith(tuple(TAGGED)):
            with as_message(Path(train)):
                names = list(next(readers.stream(train, GUESSED)).columns)
        choices = [
            gr.update(choices=[GUESS, *names], value=GUESS, **self.role_of(task, number)) for number in range(ROLES)
        ]
        return ["", *choices]

    def wish(
        self, task: str, train: str | None, test: str | None, encoder: str, epochs: float, *columns: str | None
    ) -> Wish:
        roles = self.setup.tasks[task].roles if task in self.setup.tasks else {}
        given = {r: c for r, c in zip(roles, columns, strict=False) if c and c != GUESS}
        return Wish(task, train, test, given, encoder, int(epochs))

    # -- what is done --------------------------------------------------------------------------------------

    def check(self, *chosen: Any) -> str:
        """The doctor's report as HTML."""
        with as_message():
            return report_of(self.trainings.check(self.wish(*chosen)))

    def start(self, *chosen: Any) -> list[Any]:
        """Start the training."""
        with as_message():
            self.trainings.start(self.wish(*chosen))
        return self.look()

    def stop(self) -> list[Any]:
        if self.trainings.last is not None:
            self.trainings.last.stop()
        return self.look()

    def look(self) -> list[Any]:
        """How the last training stands, and what can be done."""
        training = self.trainings.last
        if training is None:
            return ["", gr.update(visible=False), gr.update(visible=False), gr.Timer(active=False)]
        running, trained = training.running, training.succeeded
        if trained:
            self.shelf.add(training.folder)
        said = self.trainings.wish.named(training.said()) if self.trainings.wish else ""
        return [
            progress_of(training, said),
            gr.update(visible=running, value="Stop now" if training.asked_to_stop else "Stop"),
            gr.update(visible=trained),
            gr.Timer(active=running),
        ]

    def try_it(self) -> list[Any]:
        """Choose the trained run, and lead to what it can do."""
        with as_message():
            training = self.trainings.last
            if training is None or not training.succeeded:
                raise DataError("Nothing is trained yet.")
            name = self.shelf.add(training.folder)
        return [gr.update(choices=self.shelf.choices(), value=name), gr.Tabs(selected=RunTab.title), RunTab.title]


def progress_of(training: Training, said: str) -> str:
    """State, curves, last values, command and output of a training."""
    curves = read_curves(training.curves)
    step = max((points[-1][0] for points in curves.values()), default=None)
    parts = [f'<p class="verdict small">{state_of(training)}</p>']
    if step is not None:
        parts.append(f'<p class="quiet">Optimiser step {step:,}; {counted(training.epochs, "epoch")} in all.</p>')
    if curves:
        parts.append(panels(curves))
        rows = [(name.replace("val_", "validation "), f"{points[-1][1]:.4g}") for name, points in curves.items()]
        drawn = table("Last values", ["metric", "last value"], sorted(rows))
        parts.append(f"<details><summary>All metrics</summary>{drawn}</details>")
    parts.append(
        f"<details open><summary>The command</summary><pre>{escape(training.shown)}</pre>"
        '<p class="quiet">What you uploaded is removed when the page closes: to train again in a terminal, name your '
        "own file.</p></details>"
    )
    failed = not training.running and not training.succeeded
    opened = " open" if failed else ""
    parts.append(f"<details{opened}><summary>What it says</summary><pre>{escape(said)}</pre></details>")
    return frame("".join(parts))


def state_of(training: Training) -> str:
    if training.running:
        return "Stopping after this step …" if training.asked_to_stop else "Training …"
    if training.succeeded:
        return f"Trained. The run is in {escape(training.folder)}."
    return "Stopped." if training.asked_to_stop else "The training ended with an error."


def report_of(found: Mapping[str, Any]) -> str:
    """What `modernbert check --json` says, for a person: a verdict, notes, and every kind of problem with its mend."""
    errors, warnings = found.get("errors", 0), found.get("warnings", 0)
    if errors:
        said = f"{counted(errors, 'error')}: training would stop at them."
    else:
        said = f"Ready to train, with {counted(warnings, 'warning')}." if warnings else "Ready to train."
    parts = [f'<p class="verdict small">{said}</p>']
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.get("notes", ()))
    if notes:
        parts.append(f'<ul class="notes">{notes}</ul>')
    problems = found.get("problems", ())
    if problems:
        rows = [
            (each["level"], Path(each["source"]).name, each["row"], each["column"], each["what"], each["mend"])
            for each in problems
        ]
        parts.append(table("Problems", ["level", "file", "row", "column", "what", "mend"], rows))
    kept = len(problems)
    if errors + warnings > kept:
        parts.append(f'<p class="quiet">{errors + warnings - kept:,} more of the same kinds are not listed.</p>')
    return frame("".join(parts))
