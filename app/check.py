"""`modernbert check`: what the doctor says of the data, before any training."""

from __future__ import annotations

import json

from omegaconf import DictConfig

from app import console
from app.compose import plain
from modernbert import weights
from modernbert.config import read_config
from tasks import run as runs
from tasks.data.module import DataSettings, check, prepare
from tasks.data.tokenise import load_tokenizer


def main(cfg: DictConfig) -> int:
    """Read, map and examine the rows; exit status 1 where training would refuse them."""
    settings = DataSettings(**plain(cfg.data))
    base = weights.resolve(cfg.encoder.source, cfg.encoder.revision)
    limit = settings.token_limit(read_config(base).max_positions)
    checked = check(runs.task_class(cfg.task._target_).schema_type, settings, plain(cfg.task), limit, cfg.seed)
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
    if report.errors:
        console.error(f"{report.count('error'):,} errors: training would stop here.")
        return 1
    rows = ", ".join(f"{len(table):,} {split}" for split, table in checked.tables.items())
    warnings = f"{report.count('warning'):,} warnings" if report.warnings else "nothing to mend"
    console.out().print(f"{checked.schema.describe()}; rows: {rows}; {warnings}. Ready to train.")
    return 0
