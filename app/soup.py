"""`modernbert soup`: several saved runs averaged into one."""

from __future__ import annotations

import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from app import console, evaluate
from app.failures import OK
from app.threads import use_threads
from modernbert import weights
from modernbert.errors import ConfigError
from tasks.merging import Model, average, read_model, require_mergeable
from tasks.run import write_json


def main(cfg: DictConfig) -> int:
    """Average `cfg.runs`; with `data.test` the average and each of its parts are scored. Returns the exit status."""
    use_threads(cfg.threads)
    models = [read_model(Path(str(run)).expanduser()) for run in cfg.runs]
    require_mergeable(models)
    folder = output_folder(cfg.output, models)
    write_run(folder, models[0], average([model.tensors for model in models]), {"soup": recipe(models)})
    if any(model.info["fitted"] != models[0].info["fitted"] for model in models if model.info and models[0].info):
        console.warn(f"thresholds and the like were fitted for each run; the average has those of {models[0].name}")
    console.out().print(f"{len(models)} runs averaged: {folder}", soft_wrap=True)
    if cfg.data.test is not None:
        for run in (*(model.name for model in models), str(folder)):
            console.out().print(f"\n{run}", soft_wrap=True)
            evaluate.main(scoring(cfg, run, folder))
    return OK


def output_folder(given: str | None, models: list[Model]) -> Path:
    """A new folder beside the first run, or the one that was asked for.

    Raises:
        ConfigError: it holds files already.
    """
    beside = Path(models[0].name).resolve().parent / f"{datetime.now():%Y%m%d-%H%M%S}-merged"
    folder = beside if given is None else Path(given).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"output={folder} is there and not empty; name a new folder, or delete it.")
    return folder


def write_run(folder: Path, model: Model, tensors: dict[str, Any], more: dict[str, Any]) -> None:
    """A run like `model`'s with other weights and without its scores; `more` goes into its task.json."""
    assert model.info is not None
    shutil.copytree(model.folder, folder / "model", ignore=shutil.ignore_patterns("*.safetensors", "*.index.json"))
    weights.save_checkpoint(folder / "model", tensors, model.config)
    info = {key: value for key, value in model.info.items() if key != "training"}
    write_json(folder / "task.json", info | more)


def recipe(models: list[Model]) -> dict[str, Any]:
    """What was put in, for task.json."""
    return {"runs": [{"run": model.name, "sha256": model.weights} for model in models]}


def scoring(cfg: DictConfig, run: str, folder: Path) -> DictConfig:
    """The configuration of `modernbert evaluate` for one run; its files go below the new run."""
    output = folder / "evaluations" / Path(run).name
    keys = {"run": run, "data": cfg.data, "device": cfg.device, "threads": cfg.threads, "output": str(output)}
    return OmegaConf.create(keys | {"precision": "auto", "mteb": []})
