"""`modernbert train resume=<run>`: the configuration of a training that was cut short. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from app.usage import UsageError

CONFIG = "config.yaml"
#: Verbs that resume, and keys that tell the configuration of one from another's.
KEYS = {
    "train": {"task", "data", "trainer", "seed"},
    "pretrain": {"shape", "mask", "data", "budget"},
    "distil": {"teacher", "student", "data", "budget"},
    "circle": {"recipe", "rounds", "data", "retrieval"},
}


def asked(words: Sequence[str]) -> bool:
    """Whether the command line resumes a run."""
    return any(word.startswith("resume=") and word not in ("resume=null", "resume=") for word in words)


def configuration(words: Sequence[str], verb: str = "train") -> DictConfig:
    """That of the run, whole: a training goes on as it began, or what comes out is neither one nor the other.

    Raises:
        UsageError: other words beside `resume`, or a folder that is no run.
    """
    given = [word.partition("=")[2].strip("'\"") for word in words if word.startswith("resume=")]
    others = [word for word in words if not word.startswith("resume=")]
    if others or len(given) > 1:
        raise UsageError(
            f"'{(others or words)[-1]}': resume=<run> takes every key from the run's {CONFIG}, as a training whose "
            "settings change half-way gives neither model. Leave it out, or train a new run."
        )
    folder = Path(given[0]).expanduser()
    if not (folder / CONFIG).is_file():
        raise UsageError(f"resume={given[0]}: there is no {CONFIG}, so nothing to resume. Train a new run.")
    cfg = OmegaConf.load(folder / CONFIG)
    if not isinstance(cfg, DictConfig) or not KEYS[verb] <= cfg.keys():
        raise UsageError(f"resume={given[0]}: {folder / CONFIG} is not the configuration of modernbert {verb}.")
    cfg.resume, cfg.run_dir = str(folder), str(folder)
    return cfg


def is_complete(folder: Path) -> bool:
    """Whether a run has been scored and saved: nothing is left to do."""
    return (folder / "task.json").is_file() and (folder / "metrics.json").is_file()
