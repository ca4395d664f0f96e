"""The tab that scores a file: upload, choose the column, watch, download."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import gradio as gr

from modernbert.errors import ConfigError, DataError
from tasks.data import readers
from tasks.data.readers import Table
from tasks.data.schema import Role, map_columns
from tasks.run import Run
from tasks.scoring import Scoring
from ui import markup
from ui.messages import as_message
from ui.tab import State, Tab

#: What the readers take; a browser offers these files alone.
FILES = [".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".gz", ".parquet", ".xlsx", ".xlsm"]
#: What is written for files that can only be read.
WRITTEN = {".json": ".jsonl", ".ndjson": ".jsonl", ".xlsm": ".xlsx"}
#: Rows scored at a time: seconds on two cores, so the bar moves and a typed text waits no longer than that.
CHUNK = 256
#: Rows read to guess the column, and rows shown.
GUESSED, SHOWN = 1000, 5
#: Characters of a cell in the preview.
CELL = 120
#: Gradio finds a function's progress bar among its default values, and gives each call one of its own.
PROGRESS = gr.Progress()


class FileTab(Tab):
    """Scores uploaded files with a run."""

    title = "Score a file"

    def state(self, run: Run) -> State:
        roles = roles_of(run)
        return {
            "upload": {"value": None},
            "first": {"visible": False, "value": None, **described(roles, 0)},
            "second": {"visible": False, "value": None, **described(roles, 1)},
            "done": {"value": ""},
            "result": {"value": None, "visible": False},
        }

    def compose(self, chosen: gr.Dropdown) -> None:
        gr.Markdown(
            "Upload a table (CSV, TSV, JSONL, Excel or Parquet) with one text a row. "
            "You get it back with all its columns and the predictions beside them."
        )
        upload = self.part("upload", gr.File, label="Table", file_types=FILES, height=140)
        about = gr.Markdown()
        preview = gr.HTML(visible=False, apply_default_css=False)
        # A value that is not among the choices gets our message, not Gradio's.
        box: dict[str, Any] = {"choices": [], "value": None, "visible": False, "allow_custom_value": True}
        columns = [self.part(name, gr.Dropdown, **box) for name in ("first", "second")]
        with gr.Row():
            start = gr.Button("Score the file", variant="primary", interactive=False)
            stop = gr.Button("Stop", visible=False, variant="stop")
        done = self.part("done", gr.Markdown, elem_id="batch-done")
        result = self.part("result", gr.File, label="Scored table", interactive=False, visible=False)

        seen = [about, preview, start, done, result, *columns]
        looking = upload.change(self.look, [upload, chosen], seen, api_name="columns", show_progress="minimal")
        looking.failure(self.nothing, None, seen, api_visibility="private")
        scoring = start.click(
            self.score, [upload, *columns, chosen], [done, result, stop], api_name="score", show_progress_on=done
        )
        scoring.failure(lambda: gr.update(visible=False), None, stop, api_visibility="private")
        stop.click(self.stopped, None, [done, stop], cancels=[scoring], api_visibility="private")

    @staticmethod
    def stopped() -> tuple[str, Any]:
        return "Stopped; nothing was kept.", gr.update(visible=False)

    @staticmethod
    def nothing() -> list[Any]:
        """How the tab looks without a file."""
        hidden = [gr.update(choices=[], value=None, visible=False)] * 2
        blank = [gr.update(value=""), gr.update(value=None, visible=False)]
        return ["", gr.update(value=None, visible=False), gr.update(interactive=False), *blank, *hidden]

    def look(self, upload: str | None, name: str) -> list[Any]:
        """What an uploaded file has: notes, first rows, its columns to choose from, the likely one chosen."""
        if upload is None:
            return self.nothing()
        path = Path(upload)
        with as_message(path):
            run = self.shelf.get(name)
            table = next(readers.stream(upload, GUESSED))
        roles, total = roles_of(run), readers.count(upload)
        guessed = guess(run, roles, table)
        notes = [counted(total, "row") if total is not None else "", *table.notes]
        choices = [
            gr.update(choices=list(table.columns), value=guessed.get(role.name), visible=True) for role in roles
        ]
        return [
            ", ".join(filter(None, notes)),
            gr.update(value=preview_of(table), visible=True),
            gr.update(interactive=True),
            gr.update(value=""),
            gr.update(value=None, visible=False),
            *choices,
            *[gr.update(value=None, visible=False)] * (2 - len(roles)),
        ]

    def score(
        self,
        upload: str | None,
        first: str | None = None,
        second: str | None = None,
        name: str | None = None,
        progress: gr.Progress = PROGRESS,
    ) -> Iterator[Any]:
        """The file with predictions: rows in order, every column kept.

        Gradio stops a generator between two of its values; what was written is then removed.
        """
        path = Path(upload or "")
        with as_message(path), tempfile.TemporaryDirectory(prefix="modernbert-") as folder:
            run = self.shelf.get(name)
            if upload is None:
                raise DataError("There is no table yet: upload one.")
            given = chosen_columns(roles_of(run), (first, second))
            target = Path(folder) / result_name(path)
            scoring = Scoring(run, self.shelf.lock)
            total = readers.count(upload)
            # Closed, so that the writer ends before its folder goes.
            with closing(scoring.write(tables_of(run, upload, given), target, given)) as steps:
                for _ in steps:
                    progress((scoring.rows, total), desc="Scoring", unit="rows")
                    so_far = f"{counted(scoring.rows, 'row')} scored …"
                    yield so_far, gr.update(value=None, visible=False), gr.update(visible=True)
            # Gradio copies the file into its cache before it asks for the next value; then the folder goes.
            yield in_words(scoring), gr.update(value=str(target), visible=True), gr.update(visible=False)


def roles_of(run: Run) -> list[Role]:
    """The roles that a file to score has columns for: at most two.

    A ranking may be of pairs; only retrieval also takes queries alone.
    """
    if run.task.ranks:
        roles = [role for role in run.schema.roles if role.name in ("query", "document", "positive")]
        return [dataclasses.replace(r, for_prediction=True, required=r.name != "positive") for r in roles]
    return [role for role in run.schema.roles if role.for_prediction and run.schema.columns.get(role.name)]


def described(roles: list[Role], number: int) -> dict[str, Any]:
    """What the chooser of a role's column says."""
    if number >= len(roles):
        return {"label": "Column", "info": None}
    return {"label": f"Column of the {spoken(roles[number])}", "info": roles[number].help}


def guess(run: Run, roles: list[Role], table: Table) -> dict[str, str]:
    """Role -> column: that of training where the file has it, else a likely one; missing where unclear."""
    own = {role.name: run.schema.columns.get(role.name, role.name) for role in roles}
    given = {name: column for name, column in own.items() if column in table.columns}
    try:
        return map_columns(table, roles, given, predict=True)[0]
    except ConfigError:
        return given  # the person chooses the others


def chosen_columns(roles: list[Role], columns: tuple[str | None, ...]) -> dict[str, Any]:
    """Role -> column, False where an optional one is left out.

    Raises:
        DataError: a column that is needed was not chosen.
    """
    given: dict[str, Any] = {role.name: column or False for role, column in zip(roles, columns, strict=False)}
    for role in roles:
        if role.required and not given[role.name]:
            raise DataError(f"Choose the column of the {spoken(role)} ({role.help}).")
    return given


def tables_of(run: Run, source: str, given: dict[str, Any]) -> Iterator[Table]:
    """The rows in pieces. Files of rankings have layouts of their own, which the schema knows."""
    return run.schema.stream(source, given, CHUNK)[1] if run.task.ranks else readers.stream(source, CHUNK)


def in_words(scoring: Scoring) -> str:
    """What scoring met: truncation and empty rows are never silent."""
    said = [f"**{counted(scoring.rows, 'row')} scored.**"]
    if scoring.cut:
        long = f"{counted(scoring.cut, 'row')} with a text longer than {scoring.run.schema.max_length} tokens"
        said.append(f"{long}: the end was left out (column cut).")
    if empty := scoring.empty:
        some = ", ".join(map(str, empty[:10])) + (" …" if len(empty) > 10 else "")
        said.append(f"{counted(len(empty), 'row')} without text, so without prediction: {some}.")
    return " ".join(said)


def preview_of(rows: Table) -> str:
    """The first rows, long cells shortened."""
    some = rows.select(range(min(SHOWN, len(rows))))
    cells = [[short(cell) for cell in row] for row in zip(*some.columns.values(), strict=True)]
    return markup.table("First rows", list(some.columns), cells)


def spoken(role: Role) -> str:
    """text_pair -> text pair."""
    return role.name.replace("_", " ")


def counted(number: int, thing: str) -> str:
    """1 row, 1,200 rows."""
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"


def short(cell: Any) -> str:
    text = "" if cell is None else str(cell)
    return text if len(text) <= CELL else text[: CELL - 1] + "…"


def result_name(path: Path) -> str:
    """reviews.csv.gz -> reviews_scored.csv.gz; a format that is only read becomes one that is written."""
    inner = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    suffix = WRITTEN.get(inner.suffix.lower(), inner.suffix.lower())
    return f"{inner.stem}_scored{suffix}{'.gz' if inner is not path else ''}"
