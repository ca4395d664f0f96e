"""`modernbert compare`: whether one run is better than another, over the rows that both were scored on."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from app import console
from modernbert.errors import ConfigError
from tasks.comparison import compare
from tasks.run import write_json
from tasks.verdict import HEADERS, difference_rows, verdict


def main(cfg: DictConfig) -> int:
    """Compare `cfg.run` with `cfg.other`; returns the exit status."""
    first, second = Path(cfg.run), Path(cfg.other)
    if first.resolve() == second.resolve():
        raise ConfigError(f"run={cfg.run} and other={cfg.other} are one run: name two.")
    if cfg.output is not None and not Path(cfg.output).absolute().parent.is_dir():
        raise ConfigError(f"output={cfg.output}: the folder is not there.")
    found = compare(first, second, cfg.evaluation)
    columns = ["", "run", "other", *HEADERS]
    console.out().print(console.table(columns, difference_rows(found), right=columns[1:]))
    console.out().print()
    console.out().print(verdict(str(first), str(second), found), soft_wrap=True)
    if cfg.output is not None:
        plain = {name: vars(one) for name, one in found.items()}
        write_json(Path(cfg.output), {"run": str(first), "other": str(second), "metrics": plain})
    return 0
