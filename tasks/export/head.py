"""The head alone: its tensors, what its outputs mean, and the one encoder it fits."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.packing import Packed
from modernbert.weights import Encoder, encoder_to_hf
from tasks.base import Task
from tasks.run import Run, read_info, sha256, task_class, write_json

WEIGHTS, FACTS = "head.safetensors", "head.json"


def write_head(run: Run, folder: Path) -> None:
    """head.safetensors (names of transformers) and head.json: labels, pooling, preprocessing, encoder."""
    task = run.task
    own = encoder_to_hf(task.encoder)
    tensors = {name: value.detach().cpu().contiguous() for name, value in task.to_hf().items() if name not in own}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    tokenizer = run.folder / "model" / "tokenizer.json"
    facts = {
        "task": run.name,
        "labels": list(task.hf_config()["id2label"].values()),
        "pooling": getattr(task.head, "pool", None),
        "tensors": {name: list(value.shape) for name, value in tensors.items()},
        "preprocessing": {
            "max_length": run.schema.max_length,
            "tokenizer_sha256": sha256(tokenizer) if tokenizer.is_file() else None,
        },
        "encoder": {
            "family": task.encoder.config.family,
            "hidden_size": task.encoder.config.hidden_size,
            # Training changed the base: the head fits the encoder of this hash, which is the run's own.
            "sha256": encoder_hash(task.encoder),
            "base": run.info.get("encoder"),
        },
    }
    write_json(folder / FACTS, facts)


def encoder_hash(encoder: Encoder) -> str:
    """SHA-256 over the encoder's tensors under their Hugging Face names, in order of name, in fp32."""
    digest = hashlib.sha256()
    for name, value in sorted(encoder_to_hf(encoder).items()):
        digest.update(f"{name} {tuple(value.shape)}\n".encode())
        digest.update(value.float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def load_head(folder: str | Path, encoder: Encoder) -> Task:
    """The task of an exported head on an encoder that is already in memory; several heads may share one.

    Raises:
        ConfigError: not an exported head, or made for an encoder with other weights.
    """
    folder = Path(folder)
    facts = read_facts(folder)
    found, wanted = encoder_hash(encoder), facts["encoder"]["sha256"]
    if found != wanted:
        raise ConfigError(
            f"{folder} was trained on an encoder with SHA-256 {wanted[:12]}…, this one has {found[:12]}…: "
            "its answers would be noise. Load the encoder from the model/ of the run that the head comes from."
        )
    info = read_info(folder)
    target = task_class(info["target"])
    schema = target.schema_type.from_json(info["schema"])
    task = target(encoder=encoder, schema=schema, optim=None, **info["settings"])
    task.load_head(load_file(folder / WEIGHTS), strict=True)
    task.restore(info["fitted"])
    return task.eval()


def read_facts(folder: Path) -> dict[str, Any]:
    """head.json of an exported head."""
    if not (folder / FACTS).is_file():
        raise ConfigError(f"{folder} has no {FACTS}: give a folder that `modernbert export format=head` wrote.")
    return json.loads((folder / FACTS).read_text(encoding="utf-8"))


class HeadModel:
    """An exported head on the run's encoder, behind the packed call of the gate."""

    def __init__(self, folder: Path, encoder: Encoder) -> None:
        self.task = load_head(folder, encoder)
        self.names = tuple(read_facts(folder)["labels"])

    def __call__(self, packed: Packed) -> Tensor:
        with torch.inference_mode():
            return self.task(packed)
