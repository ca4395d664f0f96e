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
from torch.autograd.function import once_differentiable

from modernbert import pooling
from modernbert.config import EncoderConfig
from modernbert.errors import EncoderError
from modernbert.packing import Packed
from modernbert.weights import Encoder
from tasks.heads import PredictionHead, initialise
from tasks.st_layout import Layout
from tasks.vectors import normalise

Pooling = Literal["cls", "mean"]
#: Features of a token vector in ColBERT (Khattab and Zaharia 2020, arXiv:2004.12832).
TOKEN_SIZE = 128
#: Logits (tokens times vocabulary) held at once: 64 MiB in fp32, 550 tokens of a vocabulary of 30,000.
CHUNK_LOGITS = 2**24


class DenseHead(nn.Module):
    """Pooling, on request a linear projection, length 1: `read(encoder, packed) -> (B, P or D)` in fp32.

    Args:
        config: of the encoder underneath.
        pool: cls or mean.
        projection: P, or None for none.
        bias, activation: of the projection; `activation` is identity or tanh.
    """

    def __init__(
        self,
        config: EncoderConfig,
        pool: Pooling,
        projection: int | None = None,
        bias: bool = True,
        activation: Literal["identity", "tanh"] = "identity",
    ) -> None:
        super().__init__()
        self.pool: Pooling = pool
        self.activation = activation
        self.projection = None if projection is None else nn.Linear(config.hidden_size, projection, bias)
        self.size = projection or config.hidden_size
        initialise(self, float(config.raw.get("initializer_range", 0.02)))

    def read(self, encoder: Encoder, packed: Packed) -> Tensor:
        if self.pool == "cls":
            pooled = encoder(packed, rows=packed.cu_seqlens[:-1].long())
        else:
            pooled = pooling.mean(encoder(packed), packed)
        if self.projection is not None:
            pooled = self.projection(pooled)
            pooled = torch.tanh(pooled) if self.activation == "tanh" else pooled
        return normalise(pooled)


class MultiVectorHead(nn.Module):
    """A linear projection of every token without bias, length 1: `read(encoder, packed) -> (T, P)` in fp32."""

    def __init__(self, config: EncoderConfig, projection: int | None = None) -> None:
        super().__init__()
        self.size = projection or TOKEN_SIZE
        self.projection = nn.Linear(config.hidden_size, self.size, bias=False)
        initialise(self, float(config.raw.get("initializer_range", 0.02)))

    def read(self, encoder: Encoder, packed: Packed) -> Tensor:
        return normalise(self.projection(encoder(packed)))


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
        highest = segment_max_logits(hidden, table, packed.cu_seqlens)
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


def new_head(encoder: Encoder, layout: Layout, projection: int | None, pooling: Pooling | None = None) -> Head:
    """The head of a layout, with its projection where that has the size asked for; else a new one is drawn.

    Args:
        projection: features; None takes the layout's.
        pooling: None takes the layout's.
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
        head = DenseHead(config, pooling or layout.pooling, size, "linear.bias" in tensors, layout.activation)
    else:
        head = DenseHead(config, pooling or layout.pooling, size)
    if taken and head.projection is not None:
        head.projection.load_state_dict({name.removeprefix("linear."): value for name, value in tensors.items()})
    return head


def word_weight(encoder: Encoder) -> Tensor:
    """The word table (V, D) of an encoder."""
    table: Any = getattr(encoder.embeddings, "tok_embeddings", None) or encoder.embeddings.word_embeddings
    return table.weight


def segment_max_logits(hidden: Tensor, table: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(B, V) fp32: for each text and word the highest hidden[t] @ table[v] over its tokens.

    Only CHUNK_LOGITS of the (T, V) products are ever in memory; the backward computes none of them again, since the
    gradient of a maximum goes to one token: the first of equal ones.

    Args:
        hidden: (T, D).
        table: (V, D).
        cu_seqlens: (B + 1,).
    """
    return _SegmentMax.apply(hidden, table, cu_seqlens)


class _SegmentMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, cu_seqlens: Tensor) -> Tensor:
        ends = cu_seqlens.tolist()
        best = hidden.new_full(
            (len(ends) - 1, len(table)), -torch.inf, dtype=torch.promote_types(hidden.dtype, torch.float32)
        )
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        winner = torch.zeros(best.shape, dtype=torch.int32, device=best.device) if keep else None
        for start, stop in _chunks(len(hidden), len(table)):
            logits = (hidden[start:stop] @ table.to(hidden.dtype).t()).to(best.dtype)
            for b in _touched(ends, start, stop):
                low, high = max(ends[b], start), min(ends[b + 1], stop)
                if winner is None:
                    torch.maximum(best[b], logits[low - start : high - start].amax(dim=0), out=best[b])
                    continue
                value, token = logits[low - start : high - start].max(dim=0)
                better = value > best[b]
                best[b] = torch.where(better, value, best[b])
                winner[b] = torch.where(better, (token + low).int(), winner[b])
        ctx.save_for_backward(hidden, table, winner)
        ctx.ends = ends
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, table, winner = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden, dtype=grad.dtype)
        grad_table = torch.zeros_like(table, dtype=grad.dtype)
        wide = table.to(grad.dtype)
        for start, stop in _chunks(len(hidden), len(table)):
            pull = grad.new_zeros(stop - start, len(table))  # what each token won, times the gradient there
            for b in _touched(ctx.ends, start, stop):
                word = ((winner[b] >= start) & (winner[b] < stop) & (grad[b] != 0)).nonzero().squeeze(1)
                pull[winner[b, word].long() - start, word] = grad[b, word]
            grad_hidden[start:stop] = pull @ wide
            grad_table.addmm_(pull.t(), hidden[start:stop].to(grad.dtype))
        return grad_hidden.to(hidden.dtype), grad_table.to(table.dtype), None


def _chunks(tokens: int, words: int) -> list[tuple[int, int]]:
    step = max(1, CHUNK_LOGITS // words)
    return [(start, min(start + step, tokens)) for start in range(0, tokens, step)]


def _touched(ends: list[int], start: int, stop: int) -> list[int]:
    """Texts with a token in [start, stop)."""
    return [b for b in range(len(ends) - 1) if ends[b] < stop and ends[b + 1] > start]


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
