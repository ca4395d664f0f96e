"""`modernbert predict`: a file of any size in, the same rows in the same order with predictions out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from app import console
from app.compose import plain
from app.progress import tracking
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.data.readers import Table
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
    if cfg.engine not in ("local", "ray"):
        raise ConfigError(f"engine={cfg.engine}: allowed is local or ray.")
    return by_shards(plain(cfg)) if cfg.engine == "ray" else here(plain(cfg))


def here(settings: dict[str, Any]) -> int:
    """In this process."""
    run, output = load(settings), Path(settings["output"])
    output.parent.mkdir(parents=True, exist_ok=True)
    count, tables = run.schema.stream(settings["input"], settings["data"]["columns"], CHUNK)
    with tracking("predicting", count) as advance:
        scoring = score_tables(run, tables, output, settings["data"], advance)
    say_what_was_left_out(scoring.rows, scoring.cut, scoring.empty, run.schema.max_length, settings["input"])
    if isinstance(run, Heads):
        console.note(
            f"{len(run.tasks)} heads read {run.asked:,} sequences; {run.passed:,} different ones passed the encoder"
        )
    console.out().print(f"{scoring.rows:,} rows scored, in {output}")
    return 0


def by_shards(settings: dict[str, Any]) -> int:
    """By the workers of a cluster, from a folder of shards into another one."""
    from app import bulk

    source = bulk.shards(settings["input"])
    with tracking("predicting", bulk.rows_of(source)) as advance:
        found = bulk.score(settings, advance)
    for part in found:
        say_what_was_left_out(part["rows"], part["cut"], part["empty"], part["limit"], part["shard"])
    rows = sum(part["rows"] for part in found)
    console.out().print(f"{rows:,} rows of {len(found):,} shards scored, in {settings['output']}")
    return 0


def score_tables(
    run: Any, tables: Iterable[Table], output: Path, data: Mapping[str, Any], advance: Callable[[int], None]
) -> Scoring:
    """Score tables into a file; what was met on the way."""
    budget = None if data["tokens_per_batch"] == "auto" else int(data["tokens_per_batch"])
    scoring = Scoring(run)
    for rows in scoring.write(tables, output, data["columns"], budget):
        advance(rows)
    return scoring


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


def say_what_was_left_out(rows: int, cut: int, empty: Sequence[int], limit: int, source: str) -> None:
    """Truncation and empty rows are never silent."""
    if cut:
        console.warn(
            f"{cut:,} of {rows:,} texts are longer than {limit} tokens: only their beginning was read (column cut)."
        )
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (" …" if len(empty) > 10 else "")
        console.warn(f"{len(empty):,} rows of {source} have no text and no prediction: rows {shown}.")
