"""Stages in a folder: each is done once, and again only where something that it is made of has changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from app import console, origin
from tasks.run import write_json

FILE = "stages.json"


class Unfinished(Exception):  # noqa: N818 (nothing has gone wrong: it was asked to stop)
    """A stage was stopped before its end; `status` is the exit status that says so."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class Stages:
    """The stages of a folder, by name; `stages.json` has what each was made of and what it left.

    Args:
        folder: where each stage leaves a file or a folder of its name.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / FILE
        self.done: dict[str, dict[str, Any]] = json.loads(self.path.read_text("utf-8")) if self.path.is_file() else {}

    def run(
        self, name: str, about: str, settings: Any, sources: Sequence[str | Path], work: Callable[[Path], None]
    ) -> Path:
        """Do a stage, unless it was done with the same settings from the same sources and its result is still there.

        Args:
            name: of the stage and of its file or folder.
            about: what it does, in words.
            settings: all that it depends on beside its sources, as JSON.
            sources: files, folders and saved runs, which count by what is in them; of a set on the hub its name.
            work: does it, into the place that it is given. That is empty, or has what an interrupted try with the same
                settings and sources left.

        Returns:
            The place.

        Raises:
            Unfinished: `work` was stopped.
        """
        place = self.folder / name
        made_of = digest_of(settings, [fingerprint(source) for source in sources])
        held = self.done.get(name, {})
        same = held.get("made_of") == made_of
        if same and held.get("left") == fingerprint(place):
            console.note(f"{name}: done, unchanged")
            return place
        if not same or "left" in held:
            remove(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        before = held.get("seconds", 0.0) if same and "left" not in held else 0.0
        self.keep(name, {"made_of": made_of, "seconds": before})
        console.note(f"{name}: {about}")
        start = time.perf_counter()
        try:
            work(place)
        finally:
            seconds = before + time.perf_counter() - start
            self.keep(name, {"made_of": made_of, "seconds": round(seconds, 1)})
        self.keep(name, self.done[name] | {"left": fingerprint(place)})
        return place

    def keep(self, name: str, record: dict[str, Any]) -> None:
        """Write what is known of a stage."""
        self.done[name] = record
        write_json(self.path, self.done)


def digest_of(*values: Any) -> str:
    """SHA-256 of values as JSON."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def fingerprint(source: str | Path) -> str:
    """SHA-256 of a file or folder, of a saved run that of its model; of what is not here its name.

    `folder:split` is the folder and the name.
    """
    path = Path(source).expanduser()
    if (path / "task.json").is_file():
        return origin.digest(path / "model")
    if path.exists():
        return origin.digest(path)
    folder = Path(str(source).rpartition(":")[0]).expanduser()
    known = ":" in str(source) and folder.exists()
    return f"{origin.digest(folder)} {source}" if known else str(source)


def remove(place: Path) -> None:
    """Delete what a stage left."""
    if place.is_dir():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
