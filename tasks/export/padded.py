"""A run's encoder and head as one padded module, which is what exporters and other runtimes take.

It is transformers' own model loaded from the run's `model/`: the same weights by construction, so there is no second
implementation of ours to keep equal. Padding exists only here, at the edge.

B sequences, S longest sequence, T tokens, L outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from modernbert.config import EncoderConfig, read_config
from modernbert.errors import ConfigError
from modernbert.packing import Packed, to_padded


@dataclass(frozen=True)
class Architecture:
    """How transformers builds a task's model, and whether its logits are (B, S, L) rather than (B, L)."""

    auto_class: str
    per_token: bool


#: By the transformers pipeline that a task names. A further task adds its line.
ARCHITECTURES = {
    "text-classification": Architecture("AutoModelForSequenceClassification", per_token=False),
    "token-classification": Architecture("AutoModelForTokenClassification", per_token=True),
}


def architecture(pipeline: str) -> Architecture:
    """The architecture of a task.

    Raises:
        ConfigError: a task whose model is not exported.
    """
    if pipeline not in ARCHITECTURES:
        raise ConfigError(f"export writes {', '.join(ARCHITECTURES)} models; this run is for {pipeline}.")
    return ARCHITECTURES[pipeline]


class Padded(nn.Module):
    """Logits of padded sequences: `forward(input_ids (B, S), attention_mask (B, S)[, token_type_ids (B, S)])`.

    Returns (B, L), or (B, S, L) where every token has its own. Pooling and head are inside. All inputs are int64; the
    mask is 1 at real tokens, which come first, and padding holds the tokenizer's pad token.

    Args:
        folder: a saved model in the layout of transformers.
        pipeline: the task's, a key of ARCHITECTURES.

    Attributes:
        inputs: names of the arguments, in order; token_type_ids only for BERT.
        labels: names of the L outputs, in order.
    """

    def __init__(self, folder: Path, pipeline: str) -> None:
        import transformers

        super().__init__()
        found = architecture(pipeline)
        # eager: sdpa brings an IsNaN and a Where for each layer into the graph, for rows without any real token.
        auto: Any = getattr(transformers, found.auto_class)
        with no_progress_bar():
            self.model = auto.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
        self.per_token, self.config = found.per_token, read_config(folder)
        self.inputs = input_names(self.config.family)
        names = self.model.config.id2label
        self.labels = tuple(str(names[i]) for i in range(len(names)))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        segments = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        return self.model(input_ids=input_ids, attention_mask=attention_mask, **segments).logits


class TorchModel:
    """A padded module behind the packed call of the gate: packed in, (B, L) or (T, L) logits out."""

    def __init__(self, folder: Path, pipeline: str) -> None:
        self.padded = Padded(folder, pipeline)
        self.labels = self.padded.labels

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
