"""`modernbert compare`: whether one run is better than another, over the rows that both were scored on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from omegaconf import DictConfig

from app import console
from modernbert.errors import ConfigError
from tasks.comparison import compare
from tasks.metrics.paired import Paired
from tasks.metrics.report import LESS_IS_BETTER
from tasks.run import write_json

#: Of a ranking's many metrics the table has these; the file has all.
OF_RANKINGS = ("ndcg@10", "mrr@10", "map", "recall@10", "recall@100")
#: The usual level of significance; the interval leaves out 0 at about the same.
LEVEL = 0.05


def main(cfg: DictConfig) -> int:
    """Compare `cfg.run` with `cfg.other`; returns the exit status."""
    first, second = Path(cfg.run), Path(cfg.other)
    if first.resolve() == second.resolve():
        raise ConfigError(f"run={cfg.run} and other={cfg.other} are one run: name two.")
    if cfg.output is not None and not Path(cfg.output).absolute().parent.is_dir():
        raise ConfigError(f"output={cfg.output}: the folder is not there.")
    found = compare(first, second, cfg.evaluation)
    rows = [
        [name, f"{one.first:.4f}", f"{one.second:.4f}", f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}",
         p_value(one)]
        for name, one in found.items() if name in OF_RANKINGS or not set(OF_RANKINGS) & set(found)
    ]  # fmt: skip
    columns = ["", "run", "other", "difference", "95% interval", "p"]
    console.out().print(console.table(columns, rows, right=columns[1:]))
    console.out().print()
    console.out().print(verdict(first, second, found), soft_wrap=True)
    if cfg.output is not None:
        plain = {name: vars(one) for name, one in found.items()}
        write_json(Path(cfg.output), {"run": str(first), "other": str(second), "metrics": plain})
    return 0


def p_value(one: Paired) -> str:
    return f"{one.p_value:.4f}" if one.p_value >= 1e-3 else f"{one.p_value:.1e}"


def verdict(first: Path, second: Path, found: Mapping[str, Paired]) -> str:
    """The first metric in words: what a person came for."""
    name, one = next(iter(found.items()))
    if one.p_value >= LEVEL or not one.difference:
        return f"By {name} the two cannot be told apart on these rows (p {p_value(one)})."
    other_is_better = (one.difference > 0) != (name in LESS_IS_BETTER)
    better, worse = (second, first) if other_is_better else (first, second)
    return f"By {name}, {better} is better than {worse} by {abs(one.difference):.4f} (p {p_value(one)})."
