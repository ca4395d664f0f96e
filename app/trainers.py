"""Lightning's trainer, as the `trainer` and `logger` groups of the configuration want it."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy
from omegaconf import DictConfig

from app.checkpoints import Checkpoints
from app.progress import TrainingBar
from app.signals import Signals
from modernbert.errors import ConfigError
from modernbert.hardware import bf16_pays
from tasks.base import Task
from tasks.optim import require
from tasks.sharding import Sharded


def build_trainer(
    cfg: DictConfig, task: Task, folder: Path, validate: bool, signals: Signals, resumed_at: int | None = None
) -> L.Trainer:
    """One bar, checkpoints with the best epoch's weights, early stopping on request.

    Args:
        folder: of the run.
        validate: whether there are validation rows.
        signals: what the process is asked to do.
        resumed_at: the step that a resumed training goes on from.
    """
    name, mode = monitored(task, cfg.trainer.monitor)
    best = (name, mode) if validate else None
    kept = Checkpoints(folder, cfg.trainer.checkpoint_every, best, signals, cfg.seed)
    callbacks: list[L.Callback] = [TrainingBar(monitor=f"val_{name}"), kept]
    if cfg.trainer.patience is not None:
        if not validate:
            raise ConfigError(
                "trainer.patience needs validation rows: data.validation, or data.validation_share above 0."
            )
        # After validations alone: steps may end the training before there was one.
        patience = {"patience": cfg.trainer.patience, "check_on_train_epoch_end": False}
        callbacks.append(EarlyStopping(f"val_{name}", mode=mode, **patience))
    return L.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=cfg.trainer.devices,
        strategy=strategy(cfg.trainer.strategy, cfg.trainer.precision),
        precision=precision(cfg.trainer.precision, cfg.trainer.accelerator),
        max_epochs=cfg.trainer.max_epochs,
        max_steps=cfg.trainer.max_steps,
        val_check_interval=None if cfg.trainer.validate_every == 1 else float(cfg.trainer.validate_every),
        limit_val_batches=None if validate else 0,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        plugins=[kept.files],
        logger=build_logger(cfg.logger.name, folder, resumed_at),
        default_root_dir=folder,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=10,
    )


#: Precisions that the tasks are tried in.
PRECISIONS = ("auto", "32", "bf16-mixed", "16-mixed")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")


#: Tasks that answer without a training of ours, so that trainer.max_steps=0 makes a run of what was published: encoders
#: compare vectors as they are, and a reranker may bring its head (`app.train.require_head`).
READY = ("retrieval", "reranking")


def require_settings(trainer: DictConfig, task: str) -> None:
    """Refuse what no training of this task can be done with, before anything is read.

    Raises:
        ConfigError: by the key, with what is allowed.
    """
    require_end(trainer.max_epochs, trainer.max_steps, least=0 if task in READY else 1)
    each, patience = trainer.validate_every, trainer.patience
    require("trainer.accelerator", trainer.accelerator, trainer.accelerator in ACCELERATORS, " | ".join(ACCELERATORS))
    require("trainer.precision", trainer.precision, str(trainer.precision) in PRECISIONS, " | ".join(PRECISIONS))
    require("trainer.validate_every", each, 0 < each <= 1, "1, or a share of an epoch such as 0.25")
    counted = patience is None or (isinstance(patience, int) and not isinstance(patience, bool) and patience > 0)
    require("trainer.patience", patience, counted, "null, or 1 or more validations")
    require_devices(trainer.accelerator, trainer.devices)


def require_end(epochs: Any, steps: Any, least: int = 1) -> None:
    """Refuse a training of less than `least` steps, or without an end.

    Raises:
        ConfigError: no whole number of epochs from 1 (or -1 beside steps), or of steps.
    """
    if not isinstance(steps, int) or isinstance(steps, bool) or (steps < least and steps != -1):
        head = "; a head that has not learned tells nothing" if steps == 0 else ""
        raise ConfigError(
            f"trainer.max_steps={steps}: allowed is {least} or more, or -1 to end by trainer.max_epochs{head}."
        )
    endless = epochs in (None, -1) and steps != -1
    if not endless and (not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 1):
        raise ConfigError(
            f"trainer.max_epochs={epochs}: allowed is 1 or more whole epochs, or -1 beside trainer.max_steps=<steps>."
        )


def require_devices(accelerator: str, devices: Any) -> None:
    """Refuse GPUs that are not here, before anything is read.

    Raises:
        ConfigError: accelerator=gpu without one that torch sees, or more `devices` of them than there are.
    """
    if accelerator not in ("gpu", "cuda"):
        return
    there = torch.cuda.device_count()
    if not there and not (accelerator == "gpu" and torch.backends.mps.is_available()):
        build = "this torch is a build for CPUs" if torch.version.cuda is None else "its driver may be missing"
        raise ConfigError(
            f"trainer.accelerator={accelerator}: torch {torch.__version__} sees no GPU here ({build}). Use "
            "trainer=cpu, or trainer.accelerator=cpu for processes that share the work of a CPU."
        )
    if isinstance(devices, int) and not isinstance(devices, bool) and devices > max(there, 1):
        raise ConfigError(f"trainer.devices={devices}: there are {max(there, 1)} GPUs here; -1 takes all of them.")


def checkpoints_of(trainer: L.Trainer) -> Checkpoints:
    """The callback that keeps the checkpoints of a trainer of ours."""
    return next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))  # type: ignore[attr-defined]


def monitored(task: Task, asked: str | None) -> tuple[str, str]:
    """The validation metric that chooses the best epoch, and whether more of it is better."""
    report = task.new_report("validation")
    return (report.headline, report.mode) if asked is None else (asked, report.direction(asked))


def strategy(asked: str, precision: str | int = "auto") -> Any:
    """How processes share the work, by Lightning's name, or `fsdp` for ours.

    Our only buffers are constants (positions): sending them at each forward pass is waste, and processes that
    validate unequal numbers of batches would wait for each other for ever.

    Raises:
        ConfigError: fsdp with a precision whose loss scale it cannot share.
    """
    if asked == "fsdp":
        if str(precision) not in ("auto", "32", "bf16-mixed"):
            raise ConfigError(f"trainer.precision={precision}: allowed with trainer=fsdp is auto, 32 or bf16-mixed.")
        return Sharded()
    return DDPStrategy(forward_sync_buffers=False) if asked == "ddp" else asked


def precision(asked: str, accelerator: str) -> Any:
    """auto: bf16 autocast over fp32 weights where the device multiplies much faster in it, else fp32."""
    if str(asked) != "auto":
        return {"32": "32-true"}.get(str(asked), str(asked))
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if bf16_pays("cuda" if on_gpu else "cpu")[0] else "32-true"


def build_logger(name: str, folder: Path, resumed_at: int | None) -> Any:
    """Lightning's logger for the curves of a run; what a resumed run logged before that step is kept."""
    from lightning.pytorch import loggers

    if name == "csv":
        before = set_aside(folder) if resumed_at is not None else None
        logger = loggers.CSVLogger(folder, name="", version="logs")
        if before is not None and resumed_at is not None:
            put_back(logger, before, resumed_at)
        return logger
    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="", version="logs", purge_step=resumed_at)
    if name != "none":
        raise ConfigError(f"logger.name={name}: allowed is none, csv or tensorboard.")
    return False


def set_aside(folder: Path) -> Path | None:
    """Move the curves of a run out of the way of Lightning, which begins by deleting them."""
    curves, aside = folder / "logs" / "metrics.csv", folder / "logs.before.csv"
    if curves.is_file() and not aside.is_file():  # a resume that was killed here has left the fuller one aside
        curves.replace(aside)
    return aside if aside.is_file() else None


def put_back(logger: Any, aside: Path, step: int) -> None:
    """The lines logged before `step`, as the first of the new file; later ones come again."""
    with aside.open(newline="", encoding="utf-8") as file:
        lines = [{key: value for key, value in row.items() if value} for row in csv.DictReader(file)]
    writer = logger.experiment  # of other processes a dummy that takes everything
    for line in lines:
        if int(line["step"]) < step:
            writer.log_metrics({key: value for key, value in line.items() if key != "step"}, int(line["step"]))
    logger.save()
    aside.unlink(missing_ok=True)
