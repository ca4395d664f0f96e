"""Heads that turn token vectors into vectors of texts: one a text (dense), one a token, or weights of the vocabulary.

T tokens, B texts, D hidden size, P projected size, V vocabulary.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modernbert import pooling
from modernbert.config import EncoderConfig
from modernbert.errors import EncoderError
from modernbert.even import over_even
from modernbert.packing import Packed
from modernbert.weights import Encoder
from tasks.data.passages import passage_borders
from tasks.data.windows import Merging, merged
from tasks.heads import PredictionHead, initialise
from tasks.optim import require
from tasks.segment_max import segment_max_logits
from tasks.st_layout import Layout
from tasks.vectors import Kind, normalise

Pooling = Literal["cls", "mean"]
#: Features of a token vector in ColBERT (Khattab and Zaharia 2020, arXiv:2004.12832).
TOKEN_SIZE = 128


class DenseHead(nn.Module):
    """Pooling, on request a linear projection, length 1: `read(encoder, packed) -> (B, P or D)` in fp32.

    Args:
        config: of the encoder underneath.
        pool: cls or mean.
        projection: P, or None for none.
        bias, activation: of the projection; `activation` is identity or tanh.
        merging: how the passages of a text become its vector; max leaves each its own: `read -> (W, P or D)`.
    """

    def __init__(
        self,
        config: EncoderConfig,
        pool: Pooling,
        projection: int | None = None,
        bias: bool = True,
        activation: Literal["identity", "tanh"] = "identity",
        merging: Merging = "max",
    ) -> None:
        super().__init__()
        self.pool: Pooling = pool
        self.merging: Merging = merging
        self.activation = activation
        self.projection = None if projection is None else nn.Linear(config.hidden_size, projection, bias)
        self.size = projection or config.hidden_size
        #: The weight of a passage among those of its text, before the softmax over them.
        self.attention = nn.Linear(config.hidden_size, 1) if merging == "attention" else None
        initialise(self, float(config.raw.get("initializer_range", 0.02)))
        if self.attention is not None:
            nn.init.zeros_(self.attention.weight)  # begins as the mean

    def read(self, encoder: Encoder, packed: Packed) -> Tensor:
        if self.pool == "cls":
            pooled = encoder(packed, rows=packed.cu_seqlens[:-1].long())
        else:
            pooled = pooling.mean(encoder(packed), packed)
        found = pooled
        if self.projection is not None:
            found = self.projection(pooled)
            found = torch.tanh(found) if self.activation == "tanh" else found
        borders = passage_borders(packed)
        if borders is not None and self.merging != "max":
            if self.attention is not None:
                found = torch.cat([found, self.attention(pooled).to(found)], dim=1)
            found = merged(found.float(), borders, self.merging)
        return normalise(found)


class MultiVectorHead(nn.Module):
    """A linear projection of every token without bias, length 1: `read(encoder, packed) -> (T, P)` in fp32."""

    def __init__(self, config: EncoderConfig, projection: int | None = None) -> None:
        super().__init__()
        self.size = projection or TOKEN_SIZE
        self.projection = nn.Linear(config.hidden_size, self.size, bias=False)
        initialise(self, float(config.raw.get("initializer_range", 0.02)))

    def read(self, encoder: Encoder, packed: Packed) -> Tensor:
        return normalise(over_even(self.projection, encoder(packed), self.projection.weight))


class SparseHead(nn.Module):
    """Weights of the vocabulary, log(1 + relu(logit)) of the masked-language head at its highest over the tokens:
    `read(encoder, packed) -> (B, V)` in fp32. SPLADE-max (Formal et al. 2021, arXiv:2109.10086).

    The parameters are those of transformers' head "ForMaskedLM"; a decoder that is tied to the word table has no weight
    of its own here.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.family, size, raw = config.family, config.hidden_size, config.raw
        self.tied = bool(raw.get("tie_word_embeddings", True))
        self.size = config.vocab_size
        if self.family == "modernbert":
            self.transform: nn.Module = PredictionHead(config)
            has_bias = bool(raw.get("decoder_bias", True))
        else:
            self.transform = nn.ModuleDict(
                {"dense": nn.Linear(size, size), "norm": nn.LayerNorm(size, config.norm_eps)}
            )
            has_bias = True
        self.bias = nn.Parameter(torch.zeros(self.size)) if has_bias else None
        self.weight = None if self.tied else nn.Parameter(torch.zeros(self.size, size))
        initialise(self, float(raw.get("initializer_range", 0.02)))

    def read(self, encoder: Encoder, packed: Packed) -> Tensor:
        hidden = encoder(packed)
        if self.family == "modernbert":
            hidden = self.transform(hidden)
        else:
            hidden = self.transform["norm"](F.gelu(self.transform["dense"](hidden)))  # type: ignore[index]
        table = self.weight if self.weight is not None else word_weight(encoder)
        borders = passage_borders(packed)
        ends = packed.cu_seqlens if borders is None else packed.cu_seqlens[borders]  # of texts, whatever their passages
        highest = segment_max_logits(hidden, table, ends)
        if self.bias is not None:
            highest = highest + self.bias
        return torch.log1p(torch.relu(highest))

    def names(self) -> dict[str, str]:
        """Our names of the parameters -> their Hugging Face names."""
        if self.family == "modernbert":
            renamed = {"transform.": "head.", "bias": "decoder.bias", "weight": "decoder.weight"}
        elif self.family == "roberta":
            renamed = {"transform.dense": "lm_head.dense", "transform.norm": "lm_head.layer_norm",
                       "bias": "lm_head.bias", "weight": "lm_head.decoder.weight"}  # fmt: skip
        else:
            inner = "cls.predictions."
            renamed = {"transform.dense": f"{inner}transform.dense", "transform.norm": f"{inner}transform.LayerNorm",
                       "bias": f"{inner}bias", "weight": f"{inner}decoder.weight"}  # fmt: skip
        found = {}
        for name in self.state_dict():
            start = next(ours for ours in renamed if name.startswith(ours))
            found[name] = renamed[start] + name.removeprefix(start)
        return found

    def to_hf(self) -> dict[str, Tensor]:
        """The head's tensors under their Hugging Face names."""
        names = self.names()
        return {names[name]: tensor for name, tensor in self.state_dict().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> list[str]:
        """Fill the head from a checkpoint's tensors; returns the names that were found: all of them.

        Raises:
            EncoderError: the checkpoint has no masked-language head, or one of another shape.
        """
        own, names = self.state_dict(), self.names()
        missing = [theirs for ours, theirs in names.items() if theirs not in tensors]
        if missing:
            raise EncoderError(
                f"task.kind=sparse writes texts in the words of the vocabulary, with the checkpoint's masked-language "
                f"head, and this encoder has none (no tensor {missing[0]}). Use one that has, such as "
                "encoder=modernbert-base or encoder=bert-base, or task.kind=dense."
            )
        for ours, theirs in names.items():
            if own[ours].shape != tensors[theirs].shape:
                shape = tuple(tensors[theirs].shape)
                raise EncoderError(
                    f"{theirs} has shape {shape}, the encoder's own sizes ask for {tuple(own[ours].shape)}"
                )
            own[ours].copy_(tensors[theirs])
        return list(names)


Head = DenseHead | MultiVectorHead | SparseHead


def new_head(
    encoder: Encoder,
    layout: Layout,
    projection: int | None,
    pooling: Pooling | None = None,
    merging: Merging = "max",
) -> Head:
    """The head of a layout, with its projection where that has the size asked for; else a new one is drawn.

    Args:
        projection: features; None takes the layout's.
        pooling: None takes the layout's.
        merging: of the passages of a text, see `DenseHead`.
    """
    config, tensors = encoder.config, layout.projection
    if layout.kind == "sparse":
        return SparseHead(config)
    rows, columns = tensors["linear.weight"].shape if tensors else (None, None)
    taken = columns == config.hidden_size and projection in (None, rows)
    size = rows if taken else projection
    head: DenseHead | MultiVectorHead
    if layout.kind == "multi_vector":
        head = MultiVectorHead(config, size)
    elif taken:
        bias = "linear.bias" in tensors
        head = DenseHead(config, pooling or layout.pooling, size, bias, layout.activation, merging)
    else:
        head = DenseHead(config, pooling or layout.pooling, size, merging=merging)
    if taken and head.projection is not None:
        head.projection.load_state_dict({name.removeprefix("linear."): value for name, value in tensors.items()})
    return head


def require_head(kind: Kind, pooling: object, projection: int | None) -> None:
    """ConfigError for a head that a kind does not have."""
    require("task.pooling", pooling, pooling in (None, "cls", "mean"), "null, cls or mean")
    require("task.pooling", pooling, pooling is None or kind == "dense", f"null with task.kind={kind}")
    sized = projection is None or (kind != "sparse" and projection > 0)
    require("task.projection", projection, sized, "null, or features of a dense or multi_vector vector")


def require_merging(kind: Kind, merging: object, is_split: bool, mix_negatives: int) -> None:
    """ConfigError for passages that cannot answer together as asked."""
    one_vector = merging in ("mean", "attention") and is_split and kind == "dense"
    allowed = "max; mean or attention with task.kind=dense and task.split"
    require("task.merging", merging, merging == "max" or one_vector, allowed)
    apart = "0 with task.split and task.merging=max, where a document has no one vector"
    require("task.mix_negatives", mix_negatives, not mix_negatives or not is_split or one_vector, apart)


def word_weight(encoder: Encoder) -> Tensor:
    """The word table (V, D) of an encoder."""
    table: Any = getattr(encoder.embeddings, "tok_embeddings", None) or encoder.embeddings.word_embeddings
    return table.weight


def punctuation_ids(tokenizer: Any) -> list[int]:
    """Ids of the punctuation marks that are tokens of their own; ColBERT leaves them out of documents."""
    unknown = tokenizer.unk_token_id
    ids = [tokenizer.convert_tokens_to_ids(mark) for mark in string.punctuation]
    return sorted({i for i in ids if i is not None and i != unknown})


def keep_tokens(values: Tensor, packed: Packed, drop: Tensor) -> tuple[Tensor, Tensor]:
    """Token vectors (T, P) without those of `drop` (T,) bool, and their cu_seqlens (B + 1,) int64.

    A text that would be left with none keeps them all: its maximum would be undefined.
    """
    cu = packed.cu_seqlens.long()
    owner = torch.repeat_interleave(torch.arange(packed.batch_size, device=cu.device), cu.diff())
    left = torch.zeros(packed.batch_size, dtype=torch.int64, device=cu.device).index_add(0, owner, (~drop).long())
    stays = ~drop | (left == 0)[owner]
    lengths = torch.where(left == 0, cu.diff(), left)
    return values[stays], F.pad(lengths.cumsum(0), (1, 0))
