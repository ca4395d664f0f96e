"""`modernbert distil`: a small encoder learns the vectors of a larger one from raw text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from tokenizers import Tokenizer
from torch import nn

from app import console, longrun
from app.signals import Signals
from app.threads import use_threads
from modernbert import weights
from modernbert.errors import DataError
from modernbert.weights import Encoder
from tasks.data.tokenise import load_tokenizer
from tasks.optim import Optim, build_optimizer, parameter_groups, require
from tasks.pretraining.begin import new_student, new_tokenizer
from tasks.pretraining.distil import Distillation, agreement, spread, twice_tokenised
from tasks.pretraining.loop import Loop
from tasks.pretraining.pairs import Contrast, paired
from tasks.pretraining.save import save_encoder
from tasks.pretraining.shapes import shape_config
from tasks.pretraining.stream import Stream, hold_out
from tasks.pretraining.text import read_documents
from tasks.run import choose_device, copy_tokenizer, write_json

#: Documents kept from training, and texts of them on which student and teacher are compared.
HELD_OUT, COMPARED = 40, 256


def main(cfg: DictConfig) -> int:
    """Distil as configured; returns the exit status."""
    use_threads(cfg.threads)
    device = choose_device(cfg.device)
    share = cfg.contrastive.share
    require("contrastive.share", share, 0 <= share < 1, "a share of the budget, 0 up to 1")
    files = longrun.text_files(cfg)
    base = weights.resolve(cfg.teacher)
    teacher = weights.load_encoder(base).requires_grad_(False).to(device)
    theirs = load_tokenizer(base).backend_tokenizer
    torch.manual_seed(cfg.seed)
    folder = longrun.run_folder(cfg, "distil", files[0])
    student, ours = begin(cfg, folder / "model", files, teacher, theirs)
    longest = longrun.limit(cfg.data.max_length, student, teacher)
    make = twice_tokenised(ours, theirs, longest)
    held = hold_out(files, HELD_OUT)
    # A text of fewer than ten documents has none to spare: student and teacher are compared on what they read.
    texts = make(held or list(islice(read_documents(files), 5)), np.random.default_rng(cfg.seed))[:COMPARED]
    if not texts:
        raise DataError(f"data.text: {files[0]} begins with no text that is long enough to compare two encoders on")
    student, project = student.to(device).train(), projection(student, teacher).to(device)
    measure = partial(agreement, student, teacher, project, texts)
    console.note(f"distilling {cfg.teacher} into {cfg.student}; the run is {folder}")
    with Signals() as signals:
        objective = Distillation(student, teacher, project, spread(teacher, texts[:50]))
        distilled = Part("checkpoints", 1 - share, longrun.optim_of(cfg), objective, make)
        contrast = Contrast(student, cfg.contrastive.temperature)
        paired_up = Part(
            "checkpoints-contrastive", share, longrun.optim_of(cfg, cfg.contrastive.lr), contrast,
            paired(ours, longest),
        )  # fmt: skip
        for part in (distilled, paired_up) if share else (distilled,):
            loop = part.loop(cfg, folder, {"student": student, "projection": project}, files)
            stream = Stream(files, part.make, *longrun.token_budgets(cfg, device), cfg.seed, len(held))
            if not longrun.learn(loop, part.objective, stream, folder, measure, cfg.checkpoint_minutes, signals):
                return longrun.stopped(signals, folder)
    save_encoder(folder / "model", student, cfg.half, pooled=True)
    write_json(folder / "metrics.json", {"held_out": measure()})
    return longrun.finished(folder)


@dataclass(frozen=True)
class Part:
    """A part of the training: where its checkpoints lie, its share of the budget, what it learns and from what."""

    checkpoints: str
    share: float
    optim: Optim
    objective: Distillation | Contrast
    make: Callable[..., list[Any]]

    def loop(self, cfg: DictConfig, folder: Path, modules: dict[str, nn.Module], files: list[Path]) -> Loop[Any]:
        """Its loop, with an optimiser of its own."""
        device = next(modules["student"].parameters()).device
        groups = parameter_groups(modules["student"], modules["projection"], self.optim)
        return Loop(
            modules, build_optimizer(groups, self.optim), self.optim, longrun.budget_of(cfg, self.share),
            folder / self.checkpoints, cfg.checkpoint_minutes, longrun.in_bf16(cfg.precision, device),
            longrun.stream_settings(cfg, device, files),
        )  # fmt: skip


def begin(
    cfg: DictConfig, folder: Path, files: list[Path], teacher: Encoder, theirs: Tokenizer
) -> tuple[Encoder, Tokenizer]:
    """The student and its tokenizer; `folder` holds both afterwards, so that a resumed run finds them there."""
    if not (folder / "model.safetensors").is_file():
        source = Path(str(cfg.student)).expanduser()
        folder.mkdir(parents=True, exist_ok=True)
        if (source / "model.safetensors").is_file():
            student = weights.load_encoder(source)
            copy_tokenizer(source, folder, student.config.max_positions)
        else:
            config = shape_config(str(cfg.student))
            console.note(f"a new encoder: {config['vocab_size']:,} words, tokenizer={cfg.tokenizer}, start={cfg.start}")
            require("tokenizer", cfg.tokenizer, cfg.tokenizer in ("teacher", "new"), "teacher or new")
            ours = new_tokenizer(files, config, folder, theirs if cfg.tokenizer == "teacher" else None)
            student = new_student(config, ours, teacher, theirs, files, cfg.start)
        save_encoder(folder, student, half=False)
    return weights.load_encoder(folder), load_tokenizer(folder).backend_tokenizer


def projection(student: Encoder, teacher: Encoder) -> nn.Module:
    """The student's vectors in the teacher's size; is dropped in the end."""
    sizes = student.config.hidden_size, teacher.config.hidden_size
    return nn.Identity() if sizes[0] == sizes[1] else nn.Linear(*sizes, bias=False)
