"""`modernbert check`: what the doctor says of the data, before any training."""

from __future__ import annotations

import json

from omegaconf import DictConfig

from app import console
from app.compose import plain
from modernbert import weights
from modernbert.config import read_config
from modernbert.errors import DataError
from tasks import run as runs
from tasks.data.module import DataSettings, check, prepare
from tasks.data.schema import Problem, Report
from tasks.data.tokenise import load_tokenizer


def main(cfg: DictConfig) -> int:
    """Read, map and examine the rows; exit status 1 where training would refuse them."""
    settings = DataSettings(**plain(cfg.data))
    base = weights.resolve(cfg.encoder.source, cfg.encoder.revision)
    limit = settings.token_limit(read_config(base).max_positions)
    try:
        checked = check(runs.task_class(cfg.task._target_).schema_type, settings, plain(cfg.task), limit, cfg.seed)
    except DataError as error:
        if not cfg.json:
            raise
        # A file that cannot be read at all has no rows to report on, but a program that asked for JSON gets JSON.
        problem = Problem("error", "unusable", settings.train, None, None, str(error), "")
        print(json.dumps({"notes": []} | single(problem).to_json(), indent=2, ensure_ascii=False))
        return 1
    report = checked.report
    if not report.errors:
        prepare(checked, load_tokenizer(base), None)
    if cfg.json:
        print(json.dumps({"notes": checked.notes} | report.to_json(), indent=2, ensure_ascii=False))
        return 1 if report.errors else 0
    for note in checked.notes:
        console.note(note)
    for line in report.lines():
        console.out().print(line, soft_wrap=True)
    if errors := report.count("error"):
        console.error(f"{errors:,} {'error' if errors == 1 else 'errors'}: training would stop here.")
        return 1
    rows = ", ".join(f"{len(table):,} {split}" for split, table in checked.tables.items())
    warned = report.count("warning")
    warnings = f"{warned:,} {'warning' if warned == 1 else 'warnings'}" if warned else "nothing to mend"
    console.out().print(f"{checked.schema.describe()}; rows: {rows}; {warnings}. Ready to train.")
    return 0


def single(problem: Problem) -> Report:
    """A report of one problem."""
    report = Report()
    report.add(problem)
    return report
