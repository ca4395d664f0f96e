"""Arithmetic on the weights of models that began as one: averages ("soups"), and task or time vectors.

An average of fine-tuned models is often better than each, at the cost of one (Wortsman et al., "Model soups",
arXiv:2203.05482). What training added to a base can be scaled, added to that of other trainings, or taken away
(Ilharco et al., "Editing models with task arithmetic", arXiv:2212.04089; Nylund et al., "Time is encoded in the
weights", arXiv:2312.13401). Both hold only for weights that share a base, so everything is checked first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert.config import parse_config
from modernbert.errors import ConfigError
from modernbert.weights import encoder_to_hf, load_encoder, read_tensors
from tasks.run import read_info, sha256

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Model:
    """A model read for merging.

    `info` is task.json of a saved run, None for an encoder folder; `weights` the SHA-256 of its safetensors files.
    """

    name: str
    folder: Path  # of config.json and weights
    tensors: Tensors
    config: dict[str, Any]
    info: dict[str, Any] | None
    weights: dict[str, str]

    @property
    def base(self) -> dict[str, str] | None:
        """SHA-256 of the weights it was fine-tuned from, by file; None where nobody noted them."""
        return None if self.info is None else self.info["encoder"]["sha256"]


def read_model(folder: Path) -> Model:
    """A saved run, or an encoder's folder.

    Raises:
        ConfigError: it is neither.
        EncoderError: its weights cannot be read.
    """
    is_run = (folder / "task.json").is_file()
    if not is_run and not (folder / "config.json").is_file():
        raise ConfigError(f"{folder} is neither a saved run (task.json) nor an encoder's folder (config.json)")
    model = folder / "model" if is_run else folder
    return Model(
        str(folder),
        model,
        read_tensors(model),
        json.loads((model / "config.json").read_text(encoding="utf-8")),
        read_info(folder) if is_run else None,
        {path.name: sha256(path) for path in sorted(model.glob("*.safetensors"))},
    )


def encoder_tensors(folder: Path) -> Tensors:
    """The tensors of the encoder alone, under their Hugging Face names with the family's prefix, in fp32."""
    return encoder_to_hf(load_encoder(folder))


def average(models: Sequence[Tensors]) -> Tensors:
    """The mean of each tensor, taken in float64, in the dtype of the first model; what is no float must be equal."""
    return {
        name: torch.stack([m[name].double() for m in models]).mean(0).to(value.dtype)
        if value.is_floating_point()
        else value.clone()
        for name, value in models[0].items()
    }


def add_vectors(base: Tensors, models: Sequence[Tensors], scales: Sequence[float]) -> Tensors:
    """base + sum of scale * (model - base), in float64, in the dtype of the base."""
    merged = {}
    for name, value in base.items():
        start = value.double()
        moved = sum((s * (m[name].double() - start) for m, s in zip(models, scales, strict=True)), torch.zeros(()))
        merged[name] = (start + moved).to(value.dtype)
    return merged


def require_mergeable(models: Sequence[Model]) -> None:
    """Refuse runs whose average means nothing; the message has every difference.

    Raises:
        ConfigError: fewer than two, an encoder without a task, or a difference in architecture, tensors, task, labels,
            tokenizer or base weights.
    """
    if len(models) < 2:
        raise ConfigError("runs: give at least two saved runs: runs=[a,b]")
    bare = [model.name for model in models if model.info is None]
    if bare:
        raise ConfigError(f"runs: {bare[0]} is an encoder, not a saved run")
    first = models[0]
    for other in models[1:]:
        found = architecture_differences(first, other) + tensor_differences(first.tensors, other.tensors)
        found += _task_differences(first, other)
        if first.base != other.base:
            found.append("they were fine-tuned from different base weights (SHA-256 in task.json)")
        if found:
            raise ConfigError(f"runs: {first.name} and {other.name} cannot be averaged: {'; '.join(found)}")


def require_on_base(base: Model, model: Model) -> None:
    """Refuse a model whose difference from `base` is not what its training added.

    Raises:
        ConfigError: another architecture or tokenizer, or a run that was fine-tuned from other weights.
    """
    found = architecture_differences(base, model)
    if model.base is not None and set(model.base.values()) != set(base.weights.values()):
        found.append("it was fine-tuned from other weights than these (SHA-256 in task.json)")
    if found:
        raise ConfigError(f"runs: {model.name} is no training of base={base.name}: {'; '.join(found)}")


def architecture_differences(first: Model, other: Model) -> list[str]:
    """What differs in the encoders' computation and in their tokenizers, in words."""
    one, two = parse_config(first.config, first.name), parse_config(other.config, other.name)
    names = [field.name for field in fields(one) if field.name != "raw" and not field.name.endswith("_dropout")]
    found = [
        f"{name} is {getattr(one, name)!r} against {getattr(two, name)!r}"
        for name in names
        if getattr(one, name) != getattr(two, name)
    ]
    if _vocabulary(first.folder) != _vocabulary(other.folder):
        found.append("their tokenizers (tokenizer.json) differ")
    return found


def tensor_differences(first: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names and shapes that one has and the other has not, in words; the first few."""
    found = [f"only one has {name}" for name in sorted(first.keys() ^ other.keys())]
    for name in sorted(first.keys() & other.keys()):
        shapes = tuple(first[name].shape), tuple(other[name].shape)
        if shapes[0] != shapes[1]:
            found.append(f"{name} is {shapes[0]} against {shapes[1]}")
    return found[:5]


def _task_differences(first: Model, other: Model) -> list[str]:
    assert first.info is not None
    assert other.info is not None
    found = [
        f"{key} is {first.info.get(key)!r} against {other.info.get(key)!r}"
        for key in ("target", "settings")
        if first.info.get(key) != other.info.get(key)
    ]
    labels = [model.config.get("id2label") for model in (first, other)]
    if labels[0] != labels[1]:
        found.append(f"labels are {_values(labels[0])} against {_values(labels[1])}")
    return found


def _values(labels: Mapping[str, str] | None) -> list[str]:
    return list((labels or {}).values())[:8]


def _vocabulary(folder: Path) -> Any:
    """What the tokenizer does with a text, without the length it cuts at."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    raw = json.loads(path.read_text(encoding="utf-8"))
    return {key: value for key, value in raw.items() if key not in ("truncation", "padding")}
