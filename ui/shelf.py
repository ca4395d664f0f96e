"""The runs that a page can show, by name; each is loaded when it is first asked for."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from modernbert.errors import ConfigError
from tasks.run import Run, read_info

#: Runs that stay in memory; of a folder of fifty a person looks at a few.
LOADED = 4


class Shelf:
    """Runs by name.

    Args:
        folders: of saved runs; one is called by its folder's name, and by that of the folder above too where two would
            be called alike.
        device: that they are loaded to.
        loaded: runs that are in memory already, and stay there.

    Attributes:
        lock: held while a model computes; the tabs share the machine.

    Raises:
        ConfigError: a folder that is no run.
    """

    def __init__(
        self, folders: Iterable[Path] = (), device: str = "auto", loaded: Mapping[str, Run] | None = None
    ) -> None:
        self.device, self.lock = device, threading.Lock()
        self.folders: dict[str, Path] = {}
        self.infos: dict[str, Mapping[str, Any]] = {}
        self.given = dict(loaded or {})
        self.recent: OrderedDict[str, Run] = OrderedDict()
        self.loading = threading.Lock()
        for name, run in self.given.items():
            self.folders[name], self.infos[name] = run.folder, run.info
        for folder in folders:
            self.add(folder)

    @property
    def names(self) -> list[str]:
        return list(self.folders)

    def add(self, folder: Path) -> str:
        """Put a saved run on the shelf; returns its name."""
        resolved = folder.resolve()
        for name, known in self.folders.items():
            if known.resolve() == resolved:
                return name
        info = read_info(folder)
        parts = resolved.parts
        taken = (name for name in ("/".join(parts[-n:]) for n in range(1, len(parts))) if name not in self.folders)
        name = next(taken, str(resolved))
        self.folders[name], self.infos[name] = folder, info
        return name

    def get(self, name: str | None) -> Run:
        """The run of a name, loaded.

        Raises:
            ConfigError: there is none of that name, or it cannot be loaded.
        """
        if name in self.given:
            return self.given[name]
        if name is None or name not in self.folders:
            raise ConfigError(f"There is no run {name!r} here: choose one of the list.")
        with self.loading:
            if name not in self.recent:
                self.recent[name] = Run.load(self.folders[name], self.device)
            self.recent.move_to_end(name)
            while len(self.recent) > LOADED:
                self.recent.popitem(last=False)
            return self.recent[name]

    def task_of(self, name: str) -> str:
        return str(self.infos[name]["task"])

    def choices(self, task: str | None = None, but: str | None = None) -> list[tuple[str, str]]:
        """(what a person reads, name) of the runs, or of those of one task."""
        names = [name for name in self.names if task in (None, self.task_of(name)) and name != but]
        return [(f"{name} · {self.task_of(name)}" if task is None else name, name) for name in names]

    def name_of(self, run: Run) -> str:
        """What a run is called here."""
        return next(name for name, folder in self.folders.items() if folder == run.folder)
