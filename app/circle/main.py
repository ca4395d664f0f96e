"""`modernbert circle`: recipes in which a reranker and a retriever teach each other."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from app import console
from app.circle import stages
from app.circle.distil import distil
from app.circle.report import tell
from app.circle.trans_encoder import trans_encoder
from app.circle.workshop import Workshop
from app.compose import plain
from app.failures import OK
from app.resume import CONFIG
from app.rundir import data_name
from app.threads import use_threads
from modernbert.errors import ConfigError

RECIPES = {"distil": distil, "trans_encoder": trans_encoder}


def main(cfg: DictConfig) -> int:
    """Do what is not done yet, and tell what came out; returns the exit status."""
    use_threads(cfg.threads)
    if cfg.recipe not in RECIPES:
        raise ConfigError(f"recipe={cfg.recipe}: allowed is {', '.join(RECIPES)}.")
    folder = run_folder(cfg)
    settings = plain(cfg)
    shop = Workshop(settings, folder)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / CONFIG, resolve=True)
    try:
        outcome = RECIPES[cfg.recipe](shop)
    except stages.Unfinished as stop:
        console.error(f"to go on with all stages: modernbert circle resume={folder}", mark="")
        return stop.status
    except KeyboardInterrupt:
        console.note(f"to go on: modernbert circle resume={folder}")
        raise
    tell(outcome, folder, cfg.recipe)
    return OK


def run_folder(cfg: DictConfig) -> Path:
    """The folder of the stages: a new one, or that of an earlier call.

    Raises:
        ConfigError: `run_dir` holds something else.
    """
    if cfg.run_dir is not None:
        folder = Path(str(cfg.run_dir)).expanduser()
        begun = (folder / stages.FILE).is_file() or (folder / CONFIG).is_file()
        if folder.exists() and not begun and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"run_dir={folder} is there, not empty and no circle: name a new folder, or delete it.")
        return folder
    source = cfg.data.train or cfg.data.queries or cfg.data.test
    return Path("runs") / "circle" / f"{datetime.now():%Y%m%d-%H%M%S}-{data_name(str(source))}"
