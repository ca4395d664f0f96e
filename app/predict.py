"""`modernbert predict`: a file of any size in, the same rows in the same order with predictions out."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from app import console
from app.compose import plain
from app.progress import tracking
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.data.writers import open_writer, with_columns
from tasks.run import Run

#: Rows read, scored and written at a time: enough for like lengths to meet, small enough for any memory.
CHUNK = 4096


def main(cfg: DictConfig) -> int:
    """Score `cfg.input` with `cfg.run` into `cfg.output`; returns the exit status."""
    use_threads(cfg.threads)
    output = Path(cfg.output)
    if output.resolve() == Path(cfg.input).resolve():
        raise ConfigError(f"output={cfg.output} is the input file: name another file, nothing is overwritten.")
    run = Run.load(cfg.run, cfg.device)
    settings = plain(cfg.data)
    budget = None if settings["tokens_per_batch"] == "auto" else int(settings["tokens_per_batch"])
    rows, cut, empty = 0, 0, []
    output.parent.mkdir(parents=True, exist_ok=True)
    count, tables = run.schema.stream(cfg.input, settings["columns"], CHUNK)
    with open_writer(output) as writer, tracking("predicting", count) as advance:
        for table in tables:
            outputs = run.outputs(run.column_map(table, settings["columns"]), budget)
            found = run.task.to_columns(outputs)
            writer.write(with_columns(table, found))
            rows += len(table)
            cut += sum(map(bool, found.get("cut", ())))
            empty += [row for row, output in zip(table.rows, outputs, strict=True) if output is None]
            advance(len(table))
    say_what_was_left_out(run, cfg.input, rows, cut, empty)
    console.out().print(f"{rows:,} rows scored, in {output}")
    return 0


def say_what_was_left_out(run: Run, source: str, rows: int, cut: int, empty: list[int]) -> None:
    """Truncation and empty rows are never silent."""
    if cut:
        console.warn(
            f"{cut:,} of {rows:,} texts are longer than {run.schema.max_length} tokens: only their beginning was "
            "read (column cut)."
        )
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (" …" if len(empty) > 10 else "")
        console.warn(f"{len(empty):,} rows of {source} have no text and no prediction: rows {shown}.")
