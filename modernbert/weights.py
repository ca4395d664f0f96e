"""Checkpoints: where they are, what they hold, and their names there against ours. Safetensors only.

Ours differs from Hugging Face's in two places, both undone on save, bit by bit: ModernBERT's query and key rows are
permuted so that rotary pairs are neighbours, and BERT's three attention projections are one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modernbert.bert import BertEncoder
from modernbert.config import EncoderConfig, read_config
from modernbert.encoder import ModernBertEncoder
from modernbert.errors import EncoderError
from modernbert.sources import resolve

__all__ = [
    "Encoder",
    "build_encoder",
    "encoder_to_hf",
    "load_encoder",
    "read_tensors",
    "resolve",
    "save_checkpoint",
]

Encoder: TypeAlias = ModernBertEncoder | BertEncoder

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def build_encoder(config: EncoderConfig, dropout: float | None = None) -> Encoder:
    """An encoder with random weights drawn from torch's global generator, on the default device.

    Args:
        config: what to build.
        dropout: every hidden dropout, in [0, 1); None for those of the configuration.
    """
    kind = ModernBertEncoder if config.family == "modernbert" else BertEncoder
    encoder = kind(config, dropout)
    encoder.reset_parameters()
    return encoder


def load_encoder(folder: Path | str, dropout: float | None = None) -> Encoder:
    """The encoder of a checkpoint folder, on the CPU, in float32, in evaluation mode.

    Half-precision checkpoints are widened: training keeps float32 master weights.

    Args:
        folder: holds config.json and model.safetensors (or a sharded index), with or without the family's prefix.
        dropout: every hidden dropout, in [0, 1); None for those of the configuration.

    Raises:
        EncoderError: the folder, its configuration or its tensors do not fit; the message names what.
    """
    folder = Path(folder)
    config = read_config(folder)
    kind = ModernBertEncoder if config.family == "modernbert" else BertEncoder
    with torch.device("meta"):  # no time for random values that are overwritten at once
        encoder = kind(config, dropout)
    tensors = _strip_prefix(read_tensors(folder), encoder.hf_prefix)
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    expected = {name: tuple(value.shape) for name, value in encoder.to_hf(encoder.state_dict()).items()}
    _check_tensors(folder, tensors, expected, encoder.hf_buffers)
    state = encoder.from_hf({name: tensors[name].to(torch.float32) for name in expected})
    if {name: tuple(value.shape) for name, value in state.items()} != shapes:
        raise EncoderError(f"{folder}: the tensors do not map to the encoder's; this is a bug of the name mapping")
    encoder.load_state_dict(state, assign=True)
    return encoder.requires_grad_(True).eval()


def encoder_to_hf(encoder: Encoder) -> dict[str, Tensor]:
    """The encoder's tensors under their Hugging Face names, prefix included, on the CPU, bitwise as loaded or
    trained."""
    state = {name: value.detach().cpu() for name, value in encoder.state_dict().items()}
    return {encoder.hf_prefix + name: value.clone() for name, value in encoder.to_hf(state).items()}


def read_tensors(folder: Path | str) -> dict[str, Tensor]:
    """Every tensor of a checkpoint folder under its Hugging Face name, on the CPU, in the stored dtype.

    Old TensorFlow names of norms (`LayerNorm.gamma`, `.beta`, still in google-bert/bert-base-uncased) come out
    as `weight` and `bias`.

    Raises:
        EncoderError: no safetensors file, a pickle instead of one, a damaged file, or a shard that is missing.
    """
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    for name in _files(folder):
        try:
            with safe_open(folder / name, framework="pt") as file:
                tensors.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 (no mapping)
        except (OSError, SafetensorError) as error:
            raise EncoderError(f"{folder / name} cannot be read: {error}; download or copy it again") from error
    return {_modern_name(name): value for name, value in tensors.items()}


def save_checkpoint(folder: Path | str, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write model.safetensors and config.json; each appears complete or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    partial = folder / (WEIGHTS + ".partial")
    save_file(whole, partial, metadata={"format": "pt"})
    os.replace(partial, folder / WEIGHTS)
    partial = folder / "config.json.partial"
    partial.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, folder / "config.json")


def _files(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise EncoderError(f"{folder} is not a folder; an encoder folder holds config.json and {WEIGHTS}")
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    if (folder / INDEX).is_file():
        return _shards(folder)
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    held = f"; it holds {pickles[0]}, a pickle, which can run code and is never loaded" if pickles else ""
    raise EncoderError(
        f"{folder} has no {WEIGHTS}{held}. Convert a checkpoint you trust once: "
        "transformers.AutoModel.from_pretrained(source).save_pretrained(folder)"
    )


def _shards(folder: Path) -> list[str]:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        names = sorted(set(index["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(f"{folder / INDEX} is no index of shards: {error!r}") from error
    for name in names:
        # A name from a file must not lead out of the folder, and never to a pickle.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise EncoderError(f"{folder / INDEX} names {name!r}; a shard is a .safetensors file of the same folder")
        if not (folder / name).is_file():
            raise EncoderError(f"{folder} lacks the shard {name} that its index names; download it again")
    return names


def _modern_name(name: str) -> str:
    if name.endswith("LayerNorm.gamma"):
        return name.removesuffix("gamma") + "weight"
    if name.endswith("LayerNorm.beta"):
        return name.removesuffix("beta") + "bias"
    return name


def _strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The encoder's own tensors: those with the prefix where there are any, else all of them."""
    own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return own or tensors


def _check_tensors(
    folder: Path, tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]], ignored: tuple[str, ...]
) -> None:
    missing = [name for name in expected if name not in tensors]
    if missing:
        raise EncoderError(
            f"{folder} lacks {len(missing)} of {len(expected)} tensors that its config.json asks for, "
            f"first {missing[0]}"
        )
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise EncoderError(f"{folder}: {name} has shape {tuple(tensors[name].shape)}, config.json asks for {shape}")
        if not tensors[name].is_floating_point():
            raise EncoderError(f"{folder}: {name} is {tensors[name].dtype}; quantised checkpoints are not loaded")
    # A tensor inside the encoder that nobody reads is a computation that would be left out (an adapter, say).
    roots = {name.split(".")[0] + "." for name in expected}
    unread = [name for name in tensors if name not in expected and name not in ignored]
    unread = [name for name in unread if any(name.startswith(root) for root in roots)]
    if unread:
        raise EncoderError(f"{folder}: {len(unread)} tensors of the encoder are not implemented, first {unread[0]}")
