"""Where a run is kept."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from modernbert.errors import ConfigError

# A file called train.csv says nothing: its folder's name does.
NAMELESS = {"train", "training", "data", "dataset"}


def new_run_dir(cfg: DictConfig, now: datetime | None = None) -> Path:
    """The folder of a new run: `cfg.run_dir`, or `runs/<task>/<date>-<time>-<data name>`. It is not created.

    Raises:
        ConfigError: `cfg.run_dir` already holds files.
    """
    if cfg.run_dir is not None:
        folder = Path(str(cfg.run_dir)).expanduser()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            unfinished = (folder / "config.yaml").is_file() and not (folder / "task.json").is_file()
            go_on = f" To go on with the training in it: modernbert train resume={folder}." if unfinished else ""
            raise ConfigError(f"run_dir={folder} is there and not empty; name a new folder, or delete it.{go_on}")
        return folder
    stamp = (now or datetime.now()).strftime("%Y%m%d-%H%M%S")
    base = Path("runs") / str(cfg.task.name) / f"{stamp}-{data_name(str(cfg.data.train))}"
    folder, number = base, 2
    while folder.exists():  # two runs of a sweep can start within a second
        folder, number = base.with_name(f"{base.name}-{number}"), number + 1
    return folder


def data_name(source: str) -> str:
    """A short name of a data source that is safe in a path: `trec6/train.csv` -> `trec6`."""
    path = Path(source.replace("\\", "/"))
    parts = [path.stem, *(parent.name for parent in path.absolute().parents)]
    name = next((part for part in parts if part and part.lower() not in NAMELESS), "data")
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")[:40] or "data"
