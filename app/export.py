"""`modernbert export`: a saved run's model where other software looks for it."""

from __future__ import annotations

import shutil
from pathlib import Path

from omegaconf import DictConfig

from app import console
from modernbert.errors import ConfigError
from tasks.run import Run

FORMATS = ("transformers",)


def main(cfg: DictConfig) -> int:
    """Write `cfg.run` as `cfg.format`; returns the exit status."""
    if cfg.format not in FORMATS:
        raise ConfigError(f"format={cfg.format}: allowed is {', '.join(FORMATS)}.")
    run = Run.load(cfg.run, "cpu")
    folder = Path(cfg.output) if cfg.output else run.folder / "export" / cfg.format
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"output={folder} is there already and not empty: name a new folder, or delete it.")
    # The saved model is already in the layout of transformers; the card and task.json go along.
    shutil.copytree(run.folder / "model", folder, dirs_exist_ok=True)
    for name in ("README.md", "task.json"):
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, folder / name)
    console.out().print(f"{cfg.format}: {folder}")
    console.out().print(f'load it: transformers.pipeline("{run.task.pipeline}", model="{folder}")')
    return 0
