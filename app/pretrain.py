"""`modernbert pretrain`: masked language modelling on raw text, from scratch or from an encoder's weights."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import nn
from transformers import PreTrainedTokenizerFast

from app import console, longrun
from app.signals import Signals
from app.threads import use_threads
from modernbert import weights
from modernbert.config import parse_config
from modernbert.weights import Encoder, build_encoder
from tasks.data.tokenise import load_tokenizer
from tasks.optim import build_optimizer, parameter_groups
from tasks.pretraining.begin import new_tokenizer
from tasks.pretraining.context import ContextDecoder, MaskedContext, neighbours
from tasks.pretraining.loop import Loop
from tasks.pretraining.masked import MaskedHead, MaskedLanguage, sequences, word_vectors
from tasks.pretraining.save import save_encoder
from tasks.pretraining.shapes import shape_config
from tasks.pretraining.stream import Stream, hold_out
from tasks.run import choose_device, copy_tokenizer, write_json

#: Documents kept from training, and sequences of them that are measured.
HELD_OUT, MEASURED = 100, 64
#: Peak rate of a new encoder where none is given: ModernBERT's is 8e-4 at 150M parameters, smaller ones bear more.
SCRATCH_LR = 1e-3


def main(cfg: DictConfig) -> int:
    """Pretrain as configured; returns the exit status."""
    use_threads(cfg.threads)
    device = choose_device(cfg.device)
    files = longrun.text_files(cfg)
    torch.manual_seed(cfg.seed)
    folder = longrun.run_folder(cfg, "pretrain", files[0])
    encoder, head = begin(cfg, folder / "model", files)
    tokenizer = load_tokenizer(folder / "model")
    longest = longrun.limit(cfg.data.max_length, encoder)
    encoder, head = encoder.to(device).train(), head.to(device).train()
    objective, make, heads = learned(cfg, encoder, head, tokenizer, longest)
    held = hold_out(files, HELD_OUT)
    measured = make(held, np.random.default_rng(0))[:MEASURED]
    if not measured:
        console.note("fewer than ten documents: none is held out, so nothing is measured but the loss")
    scratch = SCRATCH_LR if cfg.shape is not None else cfg.encoder.default_lr
    optim = longrun.optim_of(cfg, scratch if cfg.optim.lr is None else None)
    bf16 = longrun.in_bf16(cfg.precision, device)
    groups = parameter_groups(encoder, nn.ModuleDict(heads), optim)
    loop: Loop[Any] = Loop(
        {"encoder": encoder, **heads}, build_optimizer(groups, optim), optim, longrun.budget_of(cfg),
        folder / "checkpoints", cfg.checkpoint_minutes, bf16, longrun.stream_settings(cfg, device, files),
    )  # fmt: skip
    console.note(f"masked language modelling in {'bf16' if bf16 else 'fp32'}; the run is {folder}")
    measure = partial(objective.measure, [measured[i : i + 8] for i in range(0, len(measured), 8)])
    with Signals() as signals:
        stream = Stream(files, make, *longrun.token_budgets(cfg, device), cfg.seed, len(held))
        if not longrun.learn(loop, objective, stream, folder, measure, cfg.checkpoint_minutes, signals):
            return longrun.stopped(signals, folder)
    save_encoder(folder / "model", encoder, cfg.half, head.to_hf())
    write_json(folder / "metrics.json", {"held_out": measure()})
    return longrun.finished(folder)


def learned(
    cfg: DictConfig, encoder: Encoder, head: MaskedHead, tokenizer: PreTrainedTokenizerFast, longest: int
) -> tuple[MaskedLanguage | MaskedContext, Callable[..., list[Any]], dict[str, nn.Module]]:
    """What is learned, what makes its examples, and what is trained beside the encoder."""
    own = MaskedLanguage(encoder, head, tokenizer, cfg.mask)
    if cfg.context is None:
        return own, sequences(tokenizer, longest), {"head": head}
    decoder = ContextDecoder(encoder).to(word_vectors(encoder).device)
    return MaskedContext(own, decoder, cfg.context), neighbours(tokenizer, longest), {"head": head, "decoder": decoder}


def begin(cfg: DictConfig, folder: Path, files: list[Path]) -> tuple[Encoder, MaskedHead]:
    """The encoder and its head; `folder` holds both and the tokenizer afterwards, so that a resumed run finds them."""
    if not (folder / "model.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        if cfg.shape is None:
            source = weights.resolve(cfg.encoder.source, cfg.encoder.revision)
            encoder = weights.load_encoder(source)
            copy_tokenizer(source, folder, encoder.config.max_positions)
        else:
            source = None
            config = shape_config(str(cfg.shape))
            console.note(f"training a tokenizer of {config['vocab_size']:,} entries")
            size = new_tokenizer(files, config, folder).get_vocab_size()
            # The text may be too short for the vocabulary that was asked for.
            encoder = build_encoder(parse_config(config | {"vocab_size": size}))
        head = MaskedHead(encoder)
        if source is not None and not head.load(weights.read_tensors(source), word_vectors(encoder)):
            console.note(
                f"{cfg.encoder.source} has no masked-language head: it gets a new one, whose decoder is its word table"
            )
        save_encoder(folder, encoder, half=False, head=head.to_hf())
    encoder = weights.load_encoder(folder, dropout=cfg.encoder.dropout)
    head = MaskedHead(encoder)
    head.load(weights.read_tensors(folder), word_vectors(encoder))
    return encoder, head
