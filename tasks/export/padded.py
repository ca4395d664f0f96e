"""A run's encoder and head as one padded module, which is what exporters and other runtimes take.

It is transformers' own model loaded from the run's `model/`: the same weights by construction, so there is no second
implementation of ours to keep equal. Padding exists only here, at the edge.

B sequences, S longest sequence, T tokens, L outputs.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modernbert.config import EncoderConfig, read_config
from modernbert.errors import ConfigError
from modernbert.packing import Packed, to_padded
from tasks.st_layout import read_layout


@dataclass(frozen=True)
class Architecture:
    """How transformers builds a task's model, and whether its output is (B, S, L) rather than (B, L)."""

    auto_class: str
    per_token: bool
    output: str = "logits"


#: By the transformers pipeline that a task names. A further task adds its line.
ARCHITECTURES = {
    "text-classification": Architecture("AutoModelForSequenceClassification", per_token=False),
    "token-classification": Architecture("AutoModelForTokenClassification", per_token=True),
    "feature-extraction": Architecture("AutoModel", per_token=False, output="embedding"),
}


class Padded(nn.Module):
    """Answers to padded sequences: `forward(input_ids (B, S), attention_mask (B, S)[, token_type_ids (B, S)])`.

    Returns logits (B, L), or (B, S, L) where every token has its own, or vectors (B, D) of length 1. Pooling, head,
    projection and normalisation are inside. All inputs are int64; the mask is 1 at real tokens, which come first, and
    padding holds the tokenizer's pad token.

    Args:
        folder: a saved model in the layout of transformers, with sentence-transformers' modules where it gives vectors.
        pipeline: the task's, a key of ARCHITECTURES.

    Attributes:
        inputs: names of the arguments, in order; token_type_ids only for BERT.
        output: name of what comes out.
        names: of the L outputs, in order; of vectors the prefixes of queries and documents.
    """

    def __init__(self, folder: Path, pipeline: str) -> None:
        import transformers

        super().__init__()
        found = ARCHITECTURES[pipeline]
        # eager: sdpa brings an IsNaN and a Where for each layer into the graph, for rows without any real token.
        auto: Any = getattr(transformers, found.auto_class)
        with no_progress_bar():
            self.model = auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        self.per_token, self.output, self.config = found.per_token, found.output, read_config(folder)
        self.inputs = input_names(self.config.family)
        self.vectors = VectorHead(folder) if found.output == "embedding" else None
        self.names: tuple[str, ...]
        if self.vectors is not None:
            self.names = self.vectors.prefixes
        else:
            labels = self.model.config.id2label
            self.names = tuple(str(labels[i]) for i in range(len(labels)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, **segments)
        if self.vectors is None:
            return found.logits
        return self.vectors(found.last_hidden_state, attention_mask)


class VectorHead(nn.Module):
    """Pooling, projection and length 1, as the sentence-transformers modules of a saved dense model say:
    `forward(hidden (B, S, D), attention_mask (B, S)) -> (B, P)`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        layout = read_layout(folder)
        if layout is None or layout.kind != "dense":
            raise ConfigError(f"{folder} has no modules of a dense sentence-transformers model.")
        self.pool, self.activation = layout.pooling, layout.activation
        self.prefixes = (layout.query_prefix, layout.document_prefix)
        weight = layout.projection.get("linear.weight")
        self.projection = None if weight is None else nn.Linear(weight.shape[1], weight.shape[0])
        if self.projection is not None and weight is not None:
            bias = layout.projection.get("linear.bias", torch.zeros(len(weight)))
            self.projection.load_state_dict({"weight": weight, "bias": bias})

    def forward(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        if self.pool == "cls":
            pooled = hidden[:, 0]
        else:
            mask = attention_mask[:, :, None].to(hidden.dtype)
            pooled = (hidden * mask).sum(1) / mask.sum(1)
        if self.projection is not None:
            pooled = self.projection(pooled)
            pooled = torch.tanh(pooled) if self.activation == "tanh" else pooled
        return nn.functional.normalize(pooled, dim=-1)


class TorchModel:
    """A padded module behind the packed call of the gate: packed in, (B, L), (T, L) or (B, D) out."""

    def __init__(self, padded: Padded) -> None:
        self.padded, self.names = padded, padded.names

    def __call__(self, packed: Packed) -> Tensor:
        inputs = pad(packed, self.padded.inputs, pad_token(self.padded.config))
        with torch.inference_mode():
            return unpad(self.padded(**inputs), packed, self.padded.per_token)


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """transformers draws one for each file of weights it reads."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def pad_token(config: EncoderConfig) -> int:
    """What padding holds. Where a checkpoint names none any token does, as the mask hides it."""
    return 0 if config.pad_token_id is None else config.pad_token_id


def input_names(family: str) -> tuple[str, ...]:
    """The inputs of a family's model; only BERT's tokenizers give segments."""
    return ("input_ids", "attention_mask") + (("token_type_ids",) if family == "bert" else ())


def example_inputs(padded: Padded) -> tuple[Tensor, ...]:
    """Inputs (2, 8) to trace a module with; the second sequence has padding."""
    ids = torch.full((2, 8), pad_token(padded.config))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    values = {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}
    return tuple(values[name] for name in padded.inputs)


def names_in(facts: Mapping[str, str]) -> tuple[str, ...]:
    """Labels, or the prefixes of vectors, in the facts (JSON) that a file carries about itself."""
    return tuple(json.loads(facts["labels" if "labels" in facts else "prefixes"]))


def pad(packed: Packed, names: Sequence[str], pad_token_id: int) -> dict[str, Tensor]:
    """The padded inputs (B, S) that a model asks for by name."""
    segments = packed.token_type_ids
    flat = {
        "input_ids": (packed.input_ids, pad_token_id),
        "attention_mask": (torch.ones_like(packed.input_ids), 0),
        "token_type_ids": (torch.zeros_like(packed.input_ids) if segments is None else segments, 0),
    }
    return {name: to_padded(flat[name][0], packed, fill=flat[name][1]) for name in names}


def unpad(logits: Tensor, packed: Packed, per_token: bool) -> Tensor:
    """(B, L) as it is; (B, S, L) -> (T, L), the real tokens end to end."""
    if not per_token:
        return logits
    lengths = packed.lengths
    return logits[torch.arange(logits.shape[1]) < lengths[:, None]]
