"""Heads that reproduce the Hugging Face head of their architecture, over packed hidden states.

Parameter names are those of transformers, so that a saved run loads there without renaming.

T tokens, B sequences, D hidden size, L outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from modernbert import pooling
from modernbert.config import EncoderConfig
from modernbert.errors import ConfigError
from modernbert.even import over_even
from modernbert.kernels import dropout
from modernbert.packing import Packed
from modernbert.weights import Encoder

Pooling = Literal["cls", "mean"]


class SequenceHead(nn.Module):
    """One vector of logits a sequence: `forward(pooled (B, D)) -> (B, L)`.

    Args:
        config: of the encoder underneath; its family decides the head's layers.
        outputs: L.
        pool: "cls" or "mean"; None takes the checkpoint's own choice. BERT and RoBERTa heads read the first
            token by definition, so "mean" is refused there.
        dropout: before the last layer; None takes the checkpoint's own rate.
        ordinal: the last layer has one direction for all outputs (see TiedLinear).

    Raises:
        ConfigError: for a pooling that the architecture's head does not have.
    """

    def __init__(
        self,
        config: EncoderConfig,
        outputs: int,
        pool: Pooling | None = None,
        dropout: float | None = None,
        ordinal: bool = False,
    ) -> None:
        super().__init__()
        last = TiedLinear if ordinal else nn.Linear
        self.family = config.family
        self.pool: Pooling = choose_pooling(config, pool)
        self.drop = Dropout(head_dropout(config, dropout))
        size = config.hidden_size
        if self.family == "modernbert":
            self.head = PredictionHead(config)
            self.classifier: nn.Module = last(size, outputs)
        elif self.family == "roberta":
            self.classifier = nn.ModuleDict({"dense": nn.Linear(size, size), "out_proj": last(size, outputs)})
        else:
            self.pooler = nn.ModuleDict({"dense": nn.Linear(size, size)})
            self.classifier = last(size, outputs)
        initialise(self, float(config.raw.get("initializer_range", 0.02)))

    def read(self, encoder: Encoder, packed: Packed) -> Tensor:
        """The pooled vectors (B, D) of a pack. For the first token alone, the encoder skips what nobody reads."""
        if self.pool == "cls":
            return encoder(packed, rows=packed.cu_seqlens[:-1].long())
        return pooling.mean(encoder(packed), packed)

    def forward(self, pooled: Tensor) -> Tensor:
        if self.family == "modernbert":
            return self.classifier(self.drop(self.head(pooled)))
        if self.family == "roberta":
            inner = torch.tanh(self.classifier["dense"](self.drop(pooled)))  # type: ignore[index]
            return self.classifier["out_proj"](self.drop(inner))  # type: ignore[index]
        return self.classifier(self.drop(torch.tanh(self.pooler["dense"](pooled))))


class TokenHead(nn.Module):
    """Logits for each token: `forward(hidden (T, D)) -> (T, L)`; that of transformers' ForTokenClassification.

    BERT and RoBERTa have dropout and one linear layer; ModernBERT its dense, activation and norm before them.

    Args:
        config: of the encoder underneath.
        outputs: L.
        dropout: before the last layer; None takes the checkpoint's own rate.
    """

    def __init__(self, config: EncoderConfig, outputs: int, dropout: float | None = None) -> None:
        super().__init__()
        self.head = PredictionHead(config) if config.family == "modernbert" else None
        self.drop = Dropout(head_dropout(config, dropout))
        self.classifier = nn.Linear(config.hidden_size, outputs)
        initialise(self, float(config.raw.get("initializer_range", 0.02)))

    def forward(self, hidden: Tensor) -> Tensor:
        return over_even(self._logits, hidden, self.classifier.weight)

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.classifier(self.drop(hidden if self.head is None else self.head(hidden)))


class Dropout(nn.Dropout):
    """The encoder's dropout as a module."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


class TiedLinear(nn.Linear):
    """A linear layer whose rows are one vector, with a bias each: the last layer of CORAL (Cao et al. 2020).

    The rows start equal and only their mean is used, so each gets the same gradient and they stay equal: the
    checkpoint is an ordinary linear layer that any software reads.
    """

    def reset_parameters(self) -> None:
        super().reset_parameters()
        self.tie()

    @torch.no_grad()
    def tie(self) -> None:
        """Make the rows equal, the biases fall from 1 to -1: P(above the lowest level) is the largest."""
        self.weight.copy_(self.weight[:1].expand_as(self.weight).clone())
        if self.bias is not None:
            self.bias.copy_(torch.linspace(1.0, -1.0, len(self.bias)) if len(self.bias) > 1 else torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.mean(0, keepdim=True)) + self.bias


class PredictionHead(nn.Module):
    """ModernBERT's dense, activation and norm in front of a classifier. (…, D) -> (…, D)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        raw, size = config.raw, config.hidden_size
        activation = raw.get("classifier_activation", "gelu")
        if activation not in ACTIVATIONS:
            raise ConfigError(
                f"classifier_activation is {activation!r}; the head implements {', '.join(ACTIVATIONS)}."
            )
        self.act = ACTIVATIONS[activation]
        self.dense = nn.Linear(size, size, bias=bool(raw.get("classifier_bias", False)))
        self.norm = nn.LayerNorm(size, eps=raw.get("norm_eps", 1e-5), bias=bool(raw.get("norm_bias", False)))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.dense(x)))


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}


def choose_pooling(config: EncoderConfig, pool: Pooling | None) -> Pooling:
    """The pooling of the head: what was asked for, or what the checkpoint says."""
    if config.family == "modernbert":
        chosen = pool or config.raw.get("classifier_pooling", "cls")
        if chosen not in ("cls", "mean"):
            raise ConfigError(f"task.pooling is {chosen!r}; allowed: cls, mean.")
        return chosen
    if pool not in (None, "cls"):
        raise ConfigError(
            f"task.pooling={pool} with a {config.family} encoder: its Hugging Face head reads the first token. "
            "Use task.pooling=cls, or a ModernBERT encoder for mean pooling."
        )
    return "cls"


def head_dropout(config: EncoderConfig, dropout: float | None) -> float:
    """Dropout in front of the classifier: the one asked for, else the checkpoint's."""
    if dropout is not None:
        if not 0.0 <= dropout < 1.0:
            raise ConfigError(f"task.head_dropout is {dropout}; allowed: 0 up to, but not, 1.")
        return float(dropout)
    rate = config.raw.get("classifier_dropout")
    return float(config.raw.get("hidden_dropout_prob", 0.0) if rate is None else rate)


def initialise(module: nn.Module, std: float) -> None:
    """Normal weights of the checkpoint's own spread, zero biases, as transformers starts a fresh head."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            if isinstance(layer, TiedLinear):
                layer.tie()


def architecture(config: EncoderConfig, kind: str) -> str:
    """The class of transformers with this encoder, such as BertModel of "Model"."""
    family = {"modernbert": "ModernBert", "bert": "Bert", "roberta": "Roberta"}[config.family]
    return ("XLMRoberta" if config.raw.get("model_type") == "xlm-roberta" else family) + kind


def labelled_config(config: EncoderConfig, kind: str, names: Sequence[str], dropout: float) -> dict[str, Any]:
    """config.json of an encoder with the head "For<kind>" of its family, whose outputs have these names."""
    return config.raw | {
        "architectures": [architecture(config, f"For{kind}")],
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
        "num_labels": len(names),
        "classifier_dropout": dropout,
    }


def head_to_hf(head: nn.Module, prefix: str) -> dict[str, Tensor]:
    """The head's tensors under their Hugging Face names; BERT's pooler belongs to the encoder there."""
    return {hf_name(name, prefix): tensor for name, tensor in head.state_dict().items()}


def load_head(head: nn.Module, tensors: Mapping[str, Tensor], prefix: str, strict: bool = False) -> list[str]:
    """Fill a head from a checkpoint's tensors; returns the names that were found.

    A base checkpoint may carry part of a head (BERT's pooler, ModernBERT's masked-language head), which is
    then a better start than noise. A tensor of another shape, a classifier of other labels say, is left.

    Raises:
        ConfigError: with `strict`, when a tensor is missing or of another shape (a saved run must be whole).
    """
    own, found = head.state_dict(), []
    for name, tensor in own.items():
        names = {hf_name(name, prefix), name} if not strict else {hf_name(name, prefix)}
        source = next((tensors[n] for n in names if n in tensors), None)
        if source is not None and source.shape == tensor.shape:
            tensor.copy_(source)
            found.append(name)
        elif strict:
            raise ConfigError(f"The saved model has no tensor {hf_name(name, prefix)} of shape {tuple(tensor.shape)}.")
    return found


def hf_name(name: str, prefix: str) -> str:
    return prefix + name if name.startswith("pooler.") else name
