"""`modernbert predict`: a file of any size in, the same rows in the same order with predictions out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from app import console
from app.compose import plain
from app.progress import tracking
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.export.heads import Heads
from tasks.run import Run
from tasks.scoring import Scoring

#: Rows read, scored and written at a time: enough for like lengths to meet, small enough for any memory.
CHUNK = 4096


def main(cfg: DictConfig) -> int:
    """Score `cfg.input` with `cfg.run`, or with `cfg.heads` in one pass, into `cfg.output`; returns the exit status."""
    use_threads(cfg.threads)
    output = Path(cfg.output)
    if output.resolve() == Path(cfg.input).resolve():
        raise ConfigError(f"output={cfg.output} is the input file: name another file, nothing is overwritten.")
    run = load(plain(cfg))
    settings = plain(cfg.data)
    budget = None if settings["tokens_per_batch"] == "auto" else int(settings["tokens_per_batch"])
    scoring = Scoring(run)
    output.parent.mkdir(parents=True, exist_ok=True)
    count, tables = run.schema.stream(cfg.input, settings["columns"], CHUNK)
    with tracking("predicting", count) as advance:
        for rows in scoring.write(tables, output, settings["columns"], budget):
            advance(rows)
    say_what_was_left_out(scoring, cfg.input)
    if isinstance(run, Heads):
        console.note(
            f"{len(run.tasks)} heads read {run.asked:,} sequences; {run.passed:,} different ones passed the encoder"
        )
    console.out().print(f"{scoring.rows:,} rows scored, in {output}")
    return 0


def load(settings: dict[str, Any]) -> Any:
    """The run, or the heads that stand in its place (see `Heads`).

    Raises:
        ConfigError: neither or both are given, or `encoder.source` without heads.
    """
    if (settings["run"] is None) == (not settings["heads"]):
        raise ConfigError("give run=<folder of a saved run>, or heads=[a,b] of folders from export format=head.")
    if settings["run"] is None:
        return Heads.load(settings["heads"], settings["encoder"]["source"], settings["device"], settings["precision"])
    if settings["encoder"]["source"] is not None:
        raise ConfigError("encoder.source= is the one under heads=[…]; a run has its own.")
    return Run.load(settings["run"], settings["device"], settings["precision"])


def say_what_was_left_out(scoring: Scoring, source: str) -> None:
    """Truncation and empty rows are never silent."""
    if scoring.cut:
        console.warn(
            f"{scoring.cut:,} of {scoring.rows:,} texts are longer than {scoring.run.schema.max_length} tokens: "
            "only their beginning was read (column cut)."
        )
    if empty := scoring.empty:
        shown = ", ".join(map(str, empty[:10])) + (" …" if len(empty) > 10 else "")
        console.warn(f"{len(empty):,} rows of {source} have no text and no prediction: rows {shown}.")
