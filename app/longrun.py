"""What `pretrain` and `distil` share: their folder, how long and how they compute, what they say while they run."""

from __future__ import annotations

import csv
import signal
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from app import console
from app.failures import OK, STOPPED, TRY_AGAIN
from app.progress import PLAIN_EVERY, short
from app.rundir import data_name
from app.signals import Signals
from modernbert.errors import ConfigError
from modernbert.hardware import bf16_pays
from modernbert.weights import Encoder
from tasks.optim import Optim
from tasks.pretraining.loop import Budget, Loop, State
from tasks.pretraining.stream import Stream
from tasks.pretraining.text import find_files

#: Tokens of one forward pass where data.tokens_per_batch=auto.
AUTO_TOKENS = {"cpu": 8_192, "cuda": 65_536}
OPTIM_KEYS = ("lr", "weight_decay", "warmup", "schedule", "clip")
CONFIG = "config.yaml"


def text_files(cfg: DictConfig) -> list[Path]:
    """The files behind `data.text`."""
    return find_files(cfg.data.text if isinstance(cfg.data.text, str) else list(cfg.data.text))


def run_folder(cfg: DictConfig, verb: str, text: Path) -> Path:
    """The folder of this run, with its configuration: that of `cfg.resume`, `cfg.run_dir`, or
    runs/<verb>/<date>-<time>-<name of the text>.

    Raises:
        ConfigError: `run_dir` holds files already.
    """
    if cfg.resume is not None:
        return Path(str(cfg.resume)).expanduser()
    if cfg.run_dir is not None:
        folder = Path(str(cfg.run_dir)).expanduser()
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"run_dir={folder} is there and not empty: resume={folder}, or name a new folder.")
    else:
        folder = Path("runs") / verb / f"{datetime.now():%Y%m%d-%H%M%S}-{data_name(str(text))}"
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / CONFIG, resolve=True)
    return folder


def limit(asked: int, *encoders: Encoder) -> int:
    """Most tokens of a text.

    Raises:
        ConfigError: more than one of the encoders reads, or nearly none.
    """
    most = min(encoder.config.max_positions for encoder in encoders)
    if not 8 <= asked <= most:
        who = "both encoders read" if len(encoders) > 1 else "this encoder reads"
        raise ConfigError(f"data.max_length={asked}: allowed is 8 to {most}, what {who}.")
    return asked


def optim_of(cfg: DictConfig, lr: float | None = None) -> Optim:
    """Optimiser settings; the second moment forgets faster than in fine-tuning, as in ModernBERT's recipe."""
    given = {key: cfg.optim[key] for key in OPTIM_KEYS}
    return Optim(**given | ({} if lr is None else {"lr": lr}), betas=(0.9, 0.98), eps=1e-6)


def budget_of(cfg: DictConfig, share: float = 1.0) -> Budget:
    """How long the training goes, or a part of it."""
    tokens, minutes = cfg.budget.tokens, cfg.budget.minutes
    return Budget(None if tokens is None else round(tokens * share), None if minutes is None else minutes * share)


def token_budgets(cfg: DictConfig, device: torch.device) -> tuple[int, int]:
    """Tokens of an optimiser step, and most tokens of one forward pass.

    Raises:
        ConfigError: one is not above 0.
    """
    asked = cfg.data.tokens_per_batch
    step, most = cfg.optim.batch_tokens, AUTO_TOKENS[device.type] if asked == "auto" else asked
    for name, value in (("optim.batch_tokens", step), ("data.tokens_per_batch", most)):
        if not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}={value}: allowed is a number of tokens, 1 or more.")
    return step, most


def stream_settings(cfg: DictConfig, device: torch.device, files: Sequence[Path]) -> dict[str, Any]:
    """What decides which text a step sees: a resumed run must have the same."""
    step, most = token_budgets(cfg, device)
    return {
        "seed": cfg.seed,
        "batch_tokens": step,
        "tokens_per_batch": most,
        "max_length": cfg.data.max_length,
        "files": [str(file) for file in files],
    }


def in_bf16(asked: Any, device: torch.device) -> bool:
    """auto: bf16 where the device multiplies it fast, else fp32.

    Raises:
        ConfigError: an unknown precision.
    """
    if str(asked) not in ("auto", "32", "bf16"):
        raise ConfigError(f"precision={asked}: allowed is auto, 32 or bf16.")
    return bf16_pays(device.type)[0] if asked == "auto" else asked == "bf16"


def learn(
    loop: Loop[Any],
    objective: Any,
    stream: Stream[Any],
    folder: Path,
    measure: Callable[[], dict[str, float]],
    checkpoint_minutes: float,
    signals: Signals,
) -> bool:
    """Train from the last checkpoint, if there is one, to the end of the budget.

    Returns:
        whether it came there; else it was asked to stop, and a checkpoint stands.
    """
    report = Report(folder, loop, checkpoint_minutes, measure, signals)
    if loop.resume():
        console.note(f"resumed at step {loop.state.step:,}, {short(loop.state.tokens)} tokens")
    else:
        report.write(loop.state)
    signals.between_steps = True
    try:
        return loop.run(objective, stream.steps(loop.state.cursor), report)
    finally:
        signals.between_steps = False


def stopped(signals: Signals, folder: Path) -> int:
    """Say how to go on; the exit status of a run that was asked to stop."""
    console.note(f"stopped; go on with resume={folder}")
    return STOPPED if signals.received == signal.SIGINT else TRY_AGAIN


def finished(folder: Path) -> int:
    """Say where the encoder is."""
    console.out().print(f"{folder / 'model'}: train with encoder.source={folder / 'model'}", soft_wrap=True)
    return OK


class Report:
    """Says a line every half minute and keeps every measurement in log.csv.

    Args:
        folder: of the run.
        loop: its budget and optimiser are told of.
        every_minutes: between two measurements.
        measure: figures of the model as it is, name -> value.
        signals: whether the process was asked to stop.
    """

    def __init__(
        self,
        folder: Path,
        loop: Loop[Any],
        every_minutes: float,
        measure: Callable[[], dict[str, float]],
        signals: Signals,
    ) -> None:
        self.folder, self.loop, self.every, self.measure = folder, loop, every_minutes * 60, measure
        self.signals = signals
        self.said = self.measured = time.monotonic()
        self.tokens, self.seconds = 0, 0.0

    def __call__(self, state: State) -> bool:
        """After a step; whether to stop there."""
        now = time.monotonic()
        if now - self.measured >= self.every:
            self.write(state)
            self.measured = now
        if now - self.said >= PLAIN_EVERY:
            self.said = now
            speed = (state.tokens - self.tokens) / max(1e-9, state.seconds - self.seconds)
            self.tokens, self.seconds = state.tokens, state.seconds
            console.note(
                f"{self.loop.budget.progress(state):6.1%}  step {state.step:,}  {short(state.tokens)} tokens  "
                f"loss {state.loss:.4f}  {short(speed)} tok/s"
            )
        return self.signals.received is not None

    def write(self, state: State) -> dict[str, float]:
        """Measure now; add a row to log.csv."""
        figures = {name: round(value, 5) for name, value in self.measure().items()}
        row = {
            "step": state.step, "tokens": state.tokens, "seconds": round(state.seconds, 1),
            "loss": round(state.loss, 5), "lr": self.loop.optimizer.param_groups[0]["lr"], **figures,
        }  # fmt: skip
        path = self.folder / "log.csv"
        new = not path.is_file()
        with path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)
        if figures:
            console.note("held out: " + "  ".join(f"{name} {value:.4f}" for name, value in figures.items()))
        return figures
