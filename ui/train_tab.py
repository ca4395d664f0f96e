"""The tab that trains: a task, a file, the doctor's report, a start, live curves, a stop, and the result to try."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
        # Apart: what a person unfolded must not fold up when something else changes.
        state = gr.HTML("", label="State", apply_default_css=False)
        curves = gr.HTML("", label="Curves", apply_default_css=False)
        with gr.Column(visible=False) as more:
            with gr.Accordion("All metrics", open=False):
                metrics = gr.HTML("", label="All metrics", apply_default_css=False)
            with gr.Accordion("What it says", open=False) as saying:
                said = gr.HTML("", label="What it says", apply_default_css=False)
            command = gr.HTML("", label="Command", apply_default_css=False)
        try_it = gr.Button("Open the trained run", variant="primary", visible=False)
        timer = gr.Timer(LOOK, active=False)

        seen = [state, curves, metrics, said, command, more, saying, stop, try_it, timer]
        wish = [task, train, test, encoder, epochs, *columns]
        task.change(self.for_task, [task, train], [about, *columns], api_visibility="private")
        train.change(self.headers, [train, task], [report, *columns], api_name="headers", show_progress="minimal")
        check.click(self.check, wish, report, api_name="check", show_progress_on=report)
        start.click(self.start, wish, seen, api_name="train", show_progress_on=state)
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
            hidden = gr.update(visible=False)
            return ["", "", "", "", "", hidden, gr.update(), hidden, hidden, gr.Timer(active=False)]
        running, trained = training.running, training.succeeded
        if trained:
            self.shelf.add(training.folder)
        found = read_curves(training.curves)
        failed = not running and not trained
        return [
            frame(state_of(training)),
            frame(panels(found), live=False) if found else "",
            frame(values_of(found), live=False),
            frame(f"<pre>{escape(self.said(training))}</pre>", live=False),
            frame(command_of(training), live=False),
            gr.update(visible=True),
            gr.Accordion(open=True) if failed else gr.update(),
            gr.update(visible=running, value="Stop now" if training.asked_to_stop else "Stop"),
            gr.update(visible=trained),
            gr.Timer(active=running),
        ]

    def said(self, training: Training) -> str:
        """The last lines of a training's output, the files by their names."""
        wish = self.trainings.wish
        return wish.named(training.said()) if wish else training.said()

    def try_it(self) -> list[Any]:
        """Choose the trained run, and lead to what it can do."""
        with as_message():
            training = self.trainings.last
            if training is None or not training.succeeded:
                raise DataError("Nothing is trained yet.")
            name = self.shelf.add(training.folder)
        return [gr.update(choices=self.shelf.choices(), value=name), gr.Tabs(selected=RunTab.title), RunTab.title]


def state_of(training: Training) -> str:
    """One line: what goes on, or how it ended."""
    if training.running:
        said = "Stopping after this step …" if training.asked_to_stop else "Training …"
    elif training.succeeded:
        said = f"Trained. The run is in {escape(training.folder)}."
    else:
        said = "Stopped." if training.asked_to_stop else "The training ended with an error."
    return f'<p class="verdict small">{said}</p>'


def values_of(curves: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """The last value of every metric, and the step of the last one."""
    last = {name.replace("val_", "validation "): points[-1] for name, points in sorted(curves.items())}
    rows = [(name, step, f"{value:.4g}") for name, (step, value) in last.items()]
    return table("All metrics", ["metric", "step", "last value"], rows)


def command_of(training: Training) -> str:
    """The command that this page runs."""
    return (
        f"<h3>The command</h3><pre>{escape(training.shown)}</pre>"
        '<p class="quiet">What you uploaded is removed when the page closes: to train again in a terminal, name your '
        "own file.</p>"
    )


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
