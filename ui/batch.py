"""The tab that scores a file: upload, choose the column, watch, download."""

from __future__ import annotations

import tempfile
import threading
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


class FileTab:
    """Scores uploaded files with a run.

    Args:
        lock: held while the model computes; the tabs share the machine.
    """

    def __init__(self, run: Run, lock: threading.Lock) -> None:
        self.run, self.lock = run, lock
        used = run.schema.columns
        self.roles = [role for role in run.schema.roles if role.for_prediction and used.get(role.name)]

    def build(self) -> None:
        """The components and their events, where the page stands."""
        gr.Markdown(
            "Upload a table (CSV, TSV, JSONL, Excel or Parquet) with one text a row. "
            "You get it back with all its columns and the predictions beside them."
        )
        upload = gr.File(label="Table", file_types=FILES, height=140)
        about = gr.Markdown()
        preview = gr.HTML(visible=False, apply_default_css=False)
        columns = [
            # A value that is not among the choices gets our message, not Gradio's.
            gr.Dropdown(
                [], label=f"Column of the {spoken(role)}", info=role.help, visible=False, allow_custom_value=True
            )
            for role in self.roles
        ]
        with gr.Row():
            start = gr.Button("Score the file", variant="primary", interactive=False)
            stop = gr.Button("Stop", visible=False, variant="stop")
        done = gr.Markdown(elem_id="batch-done")
        result = gr.File(label="Scored table", interactive=False, visible=False)

        seen = [about, preview, start, done, result, *columns]
        looking = upload.change(self.look, upload, seen, api_name="columns", show_progress="minimal")
        looking.failure(lambda: self.look(None), None, seen, api_visibility="private")
        scoring = start.click(
            self.score, [upload, *columns], [done, result, stop], api_name="score", show_progress_on=done
        )
        scoring.failure(lambda: gr.update(visible=False), None, stop, api_visibility="private")
        stop.click(self.stopped, None, [done, stop], cancels=[scoring], api_visibility="private")

    @staticmethod
    def stopped() -> tuple[str, Any]:
        return "Stopped; nothing was kept.", gr.update(visible=False)

    def look(self, upload: str | None) -> list[Any]:
        """What an uploaded file has: notes, first rows, its columns to choose from, the likely one chosen."""
        cleared = [gr.update(value=""), gr.update(value=None, visible=False)]
        if upload is None:
            hidden = [gr.update(choices=[], value=None, visible=False) for _ in self.roles]
            return ["", gr.update(value=None, visible=False), gr.update(interactive=False), *cleared, *hidden]
        path = Path(upload)
        with as_message(path):
            table = next(readers.stream(upload, GUESSED))
        guessed = self.guess(table)
        total = readers.count(upload)
        notes = [counted(total, "row") if total is not None else "", *table.notes]
        choices = [
            gr.update(choices=list(table.columns), value=guessed.get(role.name), visible=True) for role in self.roles
        ]
        return [
            ", ".join(filter(None, notes)),
            gr.update(value=preview_of(table), visible=True),
            gr.update(interactive=True),
            *cleared,
            *choices,
        ]

    def guess(self, table: Table) -> dict[str, str]:
        """Role -> column: that of training where the file has it, else a likely one; missing where unclear."""
        own = {role.name: self.run.schema.columns[role.name] for role in self.roles}
        given = {name: column for name, column in own.items() if column in table.columns}
        try:
            return map_columns(table, self.roles, given, predict=True)[0]
        except ConfigError:
            return given  # the person chooses the others

    def score(self, upload: str | None, *chosen: str | None, progress: gr.Progress = PROGRESS) -> Iterator[Any]:
        """The file with predictions: rows in order, every column kept.

        Gradio stops a generator between two of its values; what was written is then removed.
        """
        path = Path(upload or "")
        with as_message(path), tempfile.TemporaryDirectory(prefix="modernbert-") as folder:
            if upload is None:
                raise DataError("There is no table yet: upload one.")
            given = dict(zip((role.name for role in self.roles), chosen, strict=True))
            for role in self.roles:
                if not given[role.name]:
                    raise DataError(f"Choose the column of the {spoken(role)} ({role.help}).")
            target = Path(folder) / result_name(path)
            scoring = Scoring(self.run, self.lock)
            total = readers.count(upload)
            # Closed, so that the writer ends before its folder goes.
            with closing(scoring.write(readers.stream(upload, CHUNK), target, given)) as steps:
                for _ in steps:
                    progress((scoring.rows, total), desc="Scoring", unit="rows")
                    so_far = f"{counted(scoring.rows, 'row')} scored …"
                    yield so_far, gr.update(value=None, visible=False), gr.update(visible=True)
            # Gradio copies the file into its cache before it asks for the next value; then the folder goes.
            yield in_words(scoring), gr.update(value=str(target), visible=True), gr.update(visible=False)


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
