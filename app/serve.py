"""`modernbert ui`: saved runs as a page in the browser, until Ctrl-C."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from app import console
from app.catalog import Catalog
from app.cli import quoted
from app.compose import plain
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.run import read_info
from ui.page import serving
from ui.ports import LOOPBACK, require_port
from ui.shelf import Shelf
from ui.training import Setup, TaskChoice, Trainings

#: Where runs are looked for and put where nothing else is said, as `modernbert train` does.
RUNS = Path("runs")
ROLE = "data.columns."
#: Texts that need no quotes, and words among them that mean something else.
PLAIN, OTHERWISE = re.compile(r"/?[A-Za-z_][\w./-]*"), ("null", "true", "false", "nan", "inf")


def main(cfg: DictConfig) -> int:
    """Serve the page of `cfg.run`; returns the exit status when a person stops it."""
    use_threads(cfg.threads)
    require_port(cfg.host, cfg.port)  # before the model is loaded: nobody waits for a bad port
    shelf = Shelf(find_runs(plain(cfg)["run"]), cfg.device)
    if not shelf.names and not cfg.train:
        raise ConfigError(f"run=null: there is no saved run in {RUNS}, and train=false: the page would be empty.")
    # As Ctrl-C, so that uploads are removed and a training is stopped.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with serving(shelf, cfg.host, cfg.port, Trainings(setup()) if cfg.train else None) as address:
            if cfg.host not in LOOPBACK:
                console.warn(f"host={cfg.host}: whoever reaches this machine can use the page, without a password.")
            console.out().print(f"{told(shelf)} at {address}  (Ctrl-C stops)", soft_wrap=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        console.note("stopped")
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def find_runs(given: str | Sequence[str] | None) -> list[Path]:
    """The folders of the runs that were named; of a folder of runs all that are in it, the newest first.

    Raises:
        ConfigError: a folder that neither is a run nor has one.
    """
    if given is None:
        return runs_in(RUNS)
    found: list[Path] = []
    for each in [given] if isinstance(given, str) else given:
        folder = Path(str(each))
        inside = [] if (folder / "task.json").is_file() else runs_in(folder)
        if not inside:
            read_info(folder)  # says that it is no run
        found += inside or [folder]
    return found


def runs_in(folder: Path) -> list[Path]:
    """The runs in a folder, or in the folders of tasks in it."""
    infos = [info for pattern in ("*/task.json", "*/*/task.json") for info in folder.glob(pattern)]
    return [info.parent for info in sorted(infos, key=lambda info: -info.stat().st_mtime)]


def told(shelf: Shelf) -> str:
    """What the page is of, as the first words of a line."""
    folders = list(shelf.folders.values())
    if not folders:
        return "the page is"
    return f"{folders[0]} is" if len(folders) == 1 else f"{len(folders)} runs are"


def setup() -> Setup:
    """How the page starts a training: this same program, with the tasks and encoders of conf/."""
    catalog = Catalog()
    tasks = {
        card.name: TaskChoice(
            card.about,
            {
                key.path.removeprefix(ROLE): key.comment
                for key in catalog.keys("", {"task": card.name})
                if key.path.startswith(ROLE)
            },
        )
        for card in catalog.cards("task")
    }
    default = str(catalog.defaults("train")["encoder"])
    encoders: dict[str, Any] = {card.name: card.about for card in catalog.cards("encoder")}
    first = {default: encoders.pop(default)}
    command = (sys.executable, "-m", "app.cli")
    return Setup(command, word, tasks, first | encoders, RUNS)


def word(key: str, value: str | int) -> str:
    """A key with its value as a word of the command line: texts quoted where they could be taken for something else."""
    plain = isinstance(value, int) or (PLAIN.fullmatch(value) and value.lower() not in OTHERWISE)
    return f"{key}={value if plain else quoted(str(value))}"
