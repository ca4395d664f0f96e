"""`modernbert evaluate`: a saved run on labelled rows it has not seen."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from app import console
from app.compose import plain
from app.doctor import Doctor
from app.progress import tracking
from app.rundir import data_name
from app.summary import summarise
from app.threads import use_threads
from modernbert.errors import ConfigError, DataError
from tasks.data.module import require_columns
from tasks.data.schema import Report
from tasks.evaluation import evaluate
from tasks.run import Run, write_json


def main(cfg: DictConfig) -> int:
    """Score `cfg.run` on `cfg.data.test`; returns the exit status."""
    use_threads(cfg.threads)
    settings, names = plain(cfg.data), [str(name) for name in cfg.mteb]
    if bool(settings["test"]) == bool(names):
        raise ConfigError("give either data.test=<labelled rows>, or mteb=[SciFact,…] for tasks of MTEB.")
    run = Run.load(cfg.run, cfg.device, cfg.precision)
    budget = None if settings["tokens_per_batch"] == "auto" else int(settings["tokens_per_batch"])
    if names:
        from app import mteb_tasks

        return mteb_tasks.main(run, names, cfg.output, budget)
    report = Report()
    reading = {"split": "test", "corpus": settings["corpus"]}
    read = run.schema.read(settings["test"], settings["columns"], report, reading)
    if not len(read):
        raise DataError(f"data.test={settings['test']} has no rows.")
    table = run.column_map(read, settings["columns"])
    require_columns(table, run.schema.columns)
    run.schema.check(report, {"test": table})
    Doctor().show(report)
    folder = Path(cfg.output) if cfg.output else run.folder / "evaluations" / data_name(settings["test"])
    examples = run.schema.examples(table, run.tokenizer, "evaluate")
    with tracking("scoring", len(table)) as advance:
        found = evaluate(run.task, examples, table, "test", folder, budget, advance)
    write_json(folder / "metrics.json", {"test": found.compute()})
    facts = dict(run.info) | {"data": {"test": {"source": settings["test"], "rows": len(table)}}}
    console.out().print(console.summary(summarise(folder, run.task, facts, {"test": found}, run.folder)))
    return 0
