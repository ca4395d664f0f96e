"""Checkpoints of a training: what it needs to go on bit by bit, and the best weights so far.

A checkpoint is the state between two steps, with every validation that was due behind it: Lightning's own state
(weights, optimiser, schedule, loops, early stopping) and ours (random numbers of each process, the task's history,
seconds spent). They are `checkpoints/step-<batches>.safetensors`, the last two kept; `best-<batches>.safetensors` are
weights alone, kept as long as a checkpoint speaks of them.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from app import console
from app.checkpoint_files import FOLDER, SPOILT, StateFiles, checkpoints, done, random_states, restore
from app.signals import Signals, Stopped
from modernbert.errors import ConfigError, ModernBertError
from tasks import state
from tasks.base import Task
from tasks.row_adamw import RowAdamW

KEPT = 2
#: checkpoint_every=auto: none in the first minute, and from then on they take at most a thirtieth of the time.
FIRST_AFTER = 60.0
SHARE = 30


class Checkpoints(L.Callback):
    """Writes checkpoints and best weights, answers signals between steps, and restores what Lightning does not.

    Args:
        folder: of the run.
        every: steps between two checkpoints; auto = as often as costs little time.
        best: the validation metric to watch and "min" or "max"; None keeps no best weights.
        signals: what the process was asked to do.
        seed: of the run.
        clock: seconds, monotonic; replaced in tests.

    Raises:
        ConfigError: a bad `every`.
    """

    def __init__(
        self,
        folder: Path,
        every: int | Literal["auto"],
        best: tuple[str, str] | None,
        signals: Signals,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if every != "auto" and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
            raise ConfigError(f"trainer.checkpoint_every={every}: allowed is auto, or a number of steps, at least 1.")
        self.folder, self.every, self.best, self.signals = folder / FOLDER, every, best, signals
        self.seed, self.clock = seed, clock
        self.files = StateFiles()
        self.best_score = math.nan
        self.best_name: str | None = None
        self.restored: dict[str, Any] | None = None
        #: What the last checkpoint of a finished training holds.
        self.ended: dict[str, Any] = {}
        self._random: list[Any] = []
        self.spent = {"seconds": 0.0, "cpu_seconds": 0.0}
        self.begun = self.begun_cpu = self.last = 0.0
        self.cost, self.tokens = 0.0, 0

    # -- what Lightning calls ------------------------------------------------------------------------------

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # The first process named the folder, perhaps by the clock.
        run = Path(trainer.strategy.broadcast(str(self.folder.parent)))
        self.folder = run / FOLDER
        if isinstance(pl_module, Task):
            pl_module.numbers.folder = run / SPOILT

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # Now, as Lightning has put a handler of its own before ours, one that speaks to other processes.
        self.signals.listen()
        self.signals.between_steps = True
        self.begun = self.last = self.clock()
        self.begun_cpu = time.process_time()
        if self.restored is not None:
            # Lightning has made the loader before it reads the checkpoint, to count the steps of the schedule.
            trainer.train_dataloader.load_state_dict(self.restored["loader"])  # type: ignore[union-attr]
        elif trainer.world_size > 1:
            torch.manual_seed(self.seed + trainer.global_rank)  # else each process would drop the same units

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.restored is not None:
            restore(trainer, self.restored)
            self.restored = None
        number, due = self._agree(trainer, self._due(trainer, batch_idx))
        if number or due:
            self.save(trainer)
        if number:
            self.signals.between_steps = False
            raise Stopped(number)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if self.best is None or trainer.sanity_checking:
            return
        name, mode = self.best
        value = float(trainer.callback_metrics.get(f"val_{name}", math.nan))
        better = value > self.best_score if mode == "max" else value < self.best_score
        if self.best_name is None or better or (math.isnan(self.best_score) and not math.isnan(value)):
            path = self.folder / f"best-{done(trainer):08d}{state.SUFFIX}"
            self._write(trainer, path, {"score": value}, weights_only=True)
            self._raise_failure(trainer)
            self.best_score, self.best_name = value, path.name

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """What is left to do is scoring: it needs the weights, not the optimiser."""
        self.signals.between_steps = False
        self._count_time()
        tokens = pl_module.throughput.tokens  # type: ignore[union-attr]
        self.tokens = int(pl_module.all_ranks(tokens))  # type: ignore[operator]
        held: dict[str, Any] = {"training": self.facts(trainer)}
        pl_module.on_save_checkpoint(held)
        if self.best_name is None:
            held["weights"] = dict(trainer.strategy.lightning_module_state_dict())
        self.ended = held
        if trainer.is_global_zero:
            steps = trainer.fit_loop.epoch_loop._batches_that_stepped
            about = {"step": done(trainer), "best": self.best_name, "logged_steps": steps + 1, "finished": True}
            try:
                state.write(self.folder / f"step-{done(trainer):08d}{state.SUFFIX}", held, about)
            except OSError as error:
                console.warn(f"no checkpoint of the finished training: {error}")
        number, _ = self._agree(trainer, False)
        if number:
            raise Stopped(number)

    def facts(self, trainer: L.Trainer) -> dict[str, Any]:
        """What training took so far, for task.json."""
        return self.spent | {"epochs": trainer.current_epoch, "steps": trainer.global_step, "tokens": self.tokens}

    # -- saving --------------------------------------------------------------------------------------------

    def save(self, trainer: L.Trainer) -> None:
        """Write a checkpoint and let go of old ones; a warning where the disk refuses."""
        began = self.clock()
        self._count_time()
        path = self.folder / f"step-{done(trainer):08d}{state.SUFFIX}"
        about = {"best": self.best_name, "logged_steps": trainer.fit_loop.epoch_loop._batches_that_stepped}
        optimizer = trainer.optimizers[0]
        with optimizer.as_it_is() if isinstance(optimizer, RowAdamW) else contextlib.nullcontext():
            self._write(trainer, path, about)
        failure = trainer.strategy.broadcast(str(self.files.failure) if self.files.failure else None)
        if failure is not None:
            kept = [kept.name for kept in checkpoints(self.folder)]
            console.warn(f"no checkpoint at step {done(trainer)}: {failure}. Kept: {', '.join(kept) or 'none yet'}.")
        elif trainer.is_global_zero:
            self.prune()
        for logger in trainer.loggers:
            logger.save()  # else a kill would take lines that the resumed training does not write again
        self.last = self.clock()
        self.cost = self.last - began

    def prune(self) -> None:
        """Delete all but the last checkpoints, and best weights that neither they nor the training speak of."""
        found = checkpoints(self.folder)
        spoken_of = {self.best_name} | {state.read_about(path).get("best") for path in found[-KEPT:]}
        for path in found[:-KEPT]:
            state.remove(path)
        for path in self.folder.glob(f"best-*{state.SUFFIX}"):
            if path.name not in spoken_of:
                state.remove(path)

    def best_path(self) -> Path | None:
        """The file of the best weights; None where no validation chose any."""
        return self.folder / self.best_name if self.best_name else None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        # This step's batch is drawn but not learned from.
        begun = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        loader = trainer.train_dataloader.state_dict() | {"step": begun}  # type: ignore[union-attr]
        checkpoint["loops"]["fit_loop"]["state_dict"]["combined_loader"] = [loader]
        checkpoint["modernbert"] = {
            "loader": loader,
            "random": self._random,
            "world_size": trainer.world_size,
            "logged_steps": trainer.fit_loop.epoch_loop._batches_that_stepped,
            "begun": begun,
            "spent": dict(self.spent),
            "best": [self.best_score, self.best_name],
        }

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        held = self.restored = checkpoint["modernbert"]
        if held["world_size"] != trainer.world_size:
            raise ConfigError(
                f"the checkpoint was written by {held['world_size']} processes, these are {trainer.world_size}: "
                f"resume with as many as before."
            )
        self.spent = dict(held["spent"])
        self.best_score, self.best_name = held["best"]

    def _write(self, trainer: L.Trainer, path: Path, about: dict[str, Any], weights_only: bool = False) -> None:
        """On every process: they give their parts, the first one writes."""
        if not weights_only:
            self._random = random_states(trainer)
        self.files.about = {"step": done(trainer)} | about
        trainer.save_checkpoint(path, weights_only=weights_only)

    def _raise_failure(self, trainer: L.Trainer) -> None:
        failure = trainer.strategy.broadcast(str(self.files.failure) if self.files.failure else None)
        if self.files.failure is not None:
            raise self.files.failure
        if failure is not None:
            raise ModernBertError(f"the best weights cannot be kept: {failure}")

    # -- when ----------------------------------------------------------------------------------------------

    def _agree(self, trainer: L.Trainer, due: bool) -> tuple[int, bool]:
        """The signal that any process got (0: none), and whether the first one says that a checkpoint is due."""
        number = self.signals.received or 0
        if trainer.world_size == 1:
            return number, due
        said = torch.tensor([number, due and trainer.is_global_zero], device=trainer.strategy.root_device)
        said = trainer.strategy.reduce(said, reduce_op="max")
        return int(said[0]), bool(said[1])

    def _due(self, trainer: L.Trainer, batch_idx: int) -> bool:
        steps = done(trainer)
        if self.every == "auto":
            wait = max(FIRST_AFTER, SHARE * self.cost)
            return self.clock() - self.last >= wait
        return steps > 0 and (steps % self.every == 0 or batch_idx == 0)

    def _count_time(self) -> None:
        now, cpu = self.clock(), time.process_time()
        self.spent["seconds"] += now - self.begun
        self.spent["cpu_seconds"] += cpu - self.begun_cpu
        self.begun, self.begun_cpu = now, cpu
