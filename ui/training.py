"""Trainings that the page starts: `modernbert train` as a process of its own, which can be stopped and cannot take the
page down."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from modernbert.errors import ConfigError, DataError
from ui.uploads import UPLOADS

#: Seconds that a training has to save a checkpoint when the page closes.
GRACE = 20.0
#: Seconds that the doctor may take.
PATIENCE = 900.0
#: Last lines of a training's output that are shown, and bytes read for them.
LINES, TAIL = 12, 20_000


@dataclass(frozen=True)
class TaskChoice:
    """A task that can be trained: what it does, and role -> what its column holds."""

    about: str
    roles: Mapping[str, str]


@dataclass(frozen=True)
class Setup:
    """What the application gives: how it is called, what can be chosen, where runs go.

    Args:
        command: that starts it, such as (python, -m, app.cli).
        word: a key and its value as one word of the command line.
        tasks: name -> choice.
        encoders: name -> a sentence.
        folder: of runs.
    """

    command: tuple[str, ...]
    word: Callable[[str, str | int], str]
    tasks: Mapping[str, TaskChoice]
    encoders: Mapping[str, str]
    folder: Path


@dataclass(frozen=True)
class Wish:
    """What a person chose.

    Args:
        train, test: uploaded files; `test` may be missing.
        columns: role -> column, where it is not to be guessed.
    """

    task: str
    train: str | None
    test: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    encoder: str = "minilm"
    epochs: int = 3

    def keys(self, setup: Setup) -> dict[str, str]:
        """Keys of the configuration that both doctor and training take.

        Raises:
            ConfigError, DataError: something that is not offered, or no file.
        """
        if self.task not in setup.tasks:
            raise ConfigError(f"There is no task {self.task!r}: choose {', '.join(setup.tasks)}.")
        if self.encoder not in setup.encoders:
            raise ConfigError(f"There is no encoder {self.encoder!r}: choose one of the list.")
        if self.train is None:
            raise DataError("There are no rows yet: upload a file to learn from.")
        found = {"task": self.task, "encoder": self.encoder, "data.train": self.train}
        if self.test is not None:
            found["data.test"] = self.test
        chosen = {role: column for role, column in self.columns.items() if column}
        return found | {f"data.columns.{role}": column for role, column in chosen.items()}

    def named(self, text: str) -> str:
        """A message with the names of the files in place of where they were uploaded to."""
        for path in filter(None, (self.train, self.test)):
            text = text.replace(path, Path(path).name)
        return text


class Training:
    """One `modernbert train` under way.

    Args:
        command: the words of the process.
        shown: the same as a person would type it.
        folder: of the run.
        log: takes what the process says.
    """

    def __init__(self, command: Sequence[str], shown: str, folder: Path, log: Path, epochs: int) -> None:
        self.shown, self.folder, self.log, self.epochs = shown, folder, log, epochs
        self.asked_to_stop = False
        with log.open("wb") as file:
            # A session of its own: Ctrl-C at the page's terminal is for the page, which then stops the training itself.
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    @property
    def succeeded(self) -> bool:
        return self.process.poll() == 0

    @property
    def curves(self) -> Path:
        return self.folder / "logs" / "metrics.csv"

    def stop(self) -> None:
        """As Ctrl-C: the step is finished and saved; a second time it ends at once."""
        self.asked_to_stop = True
        if self.running:
            self.process.send_signal(signal.SIGINT)

    def close(self) -> None:
        """Stop, and wait until the process is gone."""
        self.stop()
        try:
            self.process.wait(GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def said(self) -> str:
        """The last lines of its output."""
        with self.log.open("rb") as file:
            with contextlib.suppress(OSError):  # shorter than that
                file.seek(-TAIL, 2)
            lines = file.read().decode("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines[-LINES:] if line.strip())


class Trainings:
    """Starts trainings, one at a time: two on one machine would each take more than twice as long."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.last: Training | None = None
        self.wish: Wish | None = None
        self.lock = threading.Lock()

    def check(self, wish: Wish) -> dict[str, Any]:
        """The doctor's report (`modernbert check --json`).

        Raises:
            ConfigError, DataError: what the doctor refused to look at, in its words.
        """
        words = [self.setup.word(key, value) for key, value in wish.keys(self.setup).items()]
        command = [*self.setup.command, "check", *words, "--json"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            minutes = PATIENCE / 60
            raise DataError(f"The doctor took more than {minutes:.0f} minutes: check a part of the file.") from None
        try:
            return dict(json.loads(wish.named(found.stdout)))
        except ValueError:
            raise DataError(in_a_line(wish.named(found.stderr), found.returncode)) from None

    def start(self, wish: Wish) -> Training:
        """Begin.

        Raises:
            ConfigError, DataError: a training is under way; what `Wish.keys` raises.
        """
        keys = wish.keys(self.setup)
        if isinstance(wish.epochs, bool) or not 1 <= wish.epochs <= 1000:
            raise ConfigError(f"{wish.epochs} epochs: choose 1 to 1000.")
        with self.lock:
            if self.last is not None and self.last.running:
                raise ConfigError("A training is under way: stop it first, or wait for its end.")
            folder = self.new_run(wish)
            more: dict[str, str | int] = {"trainer.max_epochs": wish.epochs, "run_dir": str(folder)}
            words = [self.setup.word(key, value) for key, value in (keys | more).items()]
            # Uploads are removed when the page closes, so no copy of their texts stays in the cache of tokens.
            words.append("data.cache=false")
            shown = wish.named(shlex.join(["modernbert", "train", *words]))
            log = UPLOADS.new_folder("training") / "log.txt"
            self.last = Training([*self.setup.command, "train", *words], shown, folder, log, wish.epochs)
            self.wish = wish
            return self.last

    def new_run(self, wish: Wish) -> Path:
        """A folder for a run, as `modernbert train` would name it; it is not created."""
        name = re.sub(r"[^\w.-]+", "-", Path(wish.train or "").stem).strip("-.")[:40] or "data"
        base = self.setup.folder / wish.task / f"{datetime.now():%Y%m%d-%H%M%S}-{name}"
        folder, number = base, 2
        while folder.exists():
            folder, number = base.with_name(f"{base.name}-{number}"), number + 1
        return folder

    def close(self) -> None:
        """Stop what is under way."""
        if self.last is not None and self.last.running:
            self.last.close()


def in_a_line(said: str, status: int) -> str:
    """What a command said when it failed, without its mark of an error."""
    text = " ".join(said.split()).removeprefix("error ")
    return text or f"The command ended with status {status} and said nothing."
