"""What lies in a run's checkpoints/ and what of a training's state Lightning leaves out."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO

from app import console
from modernbert.errors import DataError
from tasks import state

FOLDER, SPOILT = "checkpoints", "spoilt"


class StateFiles(CheckpointIO):
    """How Lightning writes and reads a checkpoint: `tasks.state`, so without pickle.

    A disk that is full is no reason to leave other processes waiting at a barrier: `failure` keeps the error.
    """

    def __init__(self) -> None:
        self.failure: OSError | None = None
        self.about: dict[str, Any] = {}

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        self.failure = None
        try:
            state.write(Path(path), checkpoint, self.about)
        except OSError as error:
            self.failure = error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        return state.read(Path(path))

    def remove_checkpoint(self, path: Any) -> None:
        state.remove(Path(path))


def done(trainer: L.Trainer) -> int:
    """Training steps behind the trainer, those left out included."""
    return int(trainer.fit_loop.epoch_loop.batch_progress.total.completed)


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    return sorted(folder.glob(f"step-*{state.SUFFIX}"))


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, with the best weights it speaks of; each torn one is told of and deleted."""
    for path in reversed(checkpoints(folder)):
        why = state.torn(path)
        if why is None:
            best = state.read_about(path).get("best")
            why = state.torn(folder / best) if best else None
            why = f"the best weights so far, {best}: {why}" if why else None
        if why is None:
            return path
        console.warn(f"{path.name} is torn ({why}): taking the checkpoint before it")
        state.remove(path)
    return None


def random_states(trainer: L.Trainer) -> list[Any]:
    """The states of Python's, numpy's and torch's generators on each process."""
    kind, keys, position, has_gauss, cached = np.random.get_state()
    mine = {
        "python": random.getstate(),
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }
    if trainer.world_size == 1:
        return [mine]
    every: list[Any] = [None] * trainer.world_size
    torch.distributed.all_gather_object(every, mine)
    return every


def restore(trainer: L.Trainer, held: dict[str, Any]) -> None:
    """What must be set when the first resumed step begins, and not before: making a loader draws random numbers too.

    Raises:
        DataError: Lightning stands at another step than the checkpoint.
    """
    loop = trainer.fit_loop.epoch_loop
    if loop.batch_progress.current.completed != held["begun"]:
        raise DataError(
            f"the checkpoint is of step {held['begun']} of its epoch, the training resumed at step "
            f"{loop.batch_progress.current.completed}: the data or optim.batch_size are not those of before"
        )
    loop._batches_that_stepped = held["logged_steps"]  # Lightning counts one for the restart
    mine = held["random"][trainer.global_rank]
    random.setstate(mine["python"])
    kind, keys, position, has_gauss, cached = mine["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(mine["torch"])
    if mine["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(mine["cuda"])
