"""One training of a peer: what it is told, what it answers, and the settings that transformers' Trainer takes."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from modernbert.errors import ConfigError
from tasks.data.module import Checked, DataSettings, check
from tasks.run import task_class


@dataclass(frozen=True)
class Job:
    """One training of a peer: the configuration of `modernbert train` as a plain dict, and what it settles."""

    config: dict[str, Any]
    base: str  # folder of the pretrained weights
    max_length: int
    seed: int
    folder: str  # for whatever the peer writes


@dataclass(frozen=True)
class Result:
    """What one training took and reached, whoever ran it."""

    seconds: float
    cpu_seconds: float
    steps: int
    quality: dict[str, float]


def read_rows(job: Job) -> Checked:
    """The training and test rows as `modernbert train` reads them: same files, same checks, same labels."""
    task = job.config["task"]
    schema = task_class(task["_target_"]).schema_type
    checked = check(schema, DataSettings(**job.config["data"]), task, job.max_length, job.seed)
    checked.report.raise_if_errors()
    return checked


def arguments(job: Job, rows: int, kind: Any = None) -> Any:
    """TrainingArguments, or another `kind` of them, with our optimiser settings and defaults for all the rest."""
    import torch
    from transformers import TrainingArguments

    optim, trainer = job.config["optim"], job.config["trainer"]
    on_cpu = trainer["accelerator"] == "cpu" or not torch.cuda.is_available()
    steps = -(-rows // optim["batch_size"]) * trainer["max_epochs"]
    total = steps if trainer["max_steps"] < 0 else min(steps, trainer["max_steps"])
    return (kind or TrainingArguments)(
        output_dir=job.folder,
        per_device_train_batch_size=optim["batch_size"],
        learning_rate=optim["lr"],
        weight_decay=optim["weight_decay"],
        adam_beta1=optim["betas"][0],
        adam_beta2=optim["betas"][1],
        adam_epsilon=optim["eps"],
        max_grad_norm=optim["clip"] or 0.0,
        lr_scheduler_type=optim["schedule"],
        warmup_steps=round(optim["warmup"] * total),
        num_train_epochs=trainer["max_epochs"],
        max_steps=total,
        label_smoothing_factor=job.config["task"].get("label_smoothing", 0.0),
        # precision=auto is each side's own choice: Trainer's is fp32 on every device.
        bf16=trainer["precision"] == "bf16-mixed",
        use_cpu=on_cpu,  # without it Trainer refuses bf16 there
        seed=job.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def timed(train: Callable[[], Any]) -> tuple[float, float]:
    """Wall and CPU seconds of a training, without loading and scoring."""
    wall, cpu = time.perf_counter(), time.process_time()
    train()
    return time.perf_counter() - wall, time.process_time() - cpu


def require_packages(what: str, *names: str) -> None:
    """Refuse a peer whose packages are not there, before anything is trained.

    Raises:
        ConfigError: one is missing.
    """
    if missing := [name for name in names if importlib.util.find_spec(name) is None]:
        raise ConfigError(f"{what} needs {' and '.join(missing)}: pip install 'modernbert[peers,hub]'.")
