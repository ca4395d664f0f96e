"""Two cheaper ways for a query to meet its candidates than reading each pair as one text.

- Poly-encoder (Humeau et al. 2020, arXiv:1905.01969): query and document are encoded apart; m learned codes sum the
  query up in m ways, of which each document takes the mixture that suits it. Vectors of documents do not depend on the
  query and are kept, so a document that was seen before costs a few hundred multiplications.
- Uni-Encoder (Song et al. 2023, arXiv:2106.01263): the query is encoded once, and each candidate as its continuation
  (`modernbert.attention.prefix`), so that both meet in every layer.

Where ours differ from the papers: one encoder for both sides of the poly-encoder, mean pooling of documents, and
cosines with a learned scale and bias, so that every loss starts in a sensible range. In the uni-encoder the query does
not look at the candidates, which in the paper it does: a score then does not depend on what else is asked about.

Dimensions: T tokens, B sequences, Q queries, P pairs, S longest query, m codes, D hidden.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modernbert import pooling
from modernbert.attention import Prefixed
from modernbert.config import EncoderConfig
from modernbert.packing import Packed, pack, to_padded
from modernbert.weights import Encoder
from tasks.heads import Pooling, SequenceHead

Kind = Literal["cross", "poly", "uni"]
KINDS: tuple[str, ...] = get_args(Kind)
#: Cosines of the default encoder lie about 0.2 to 0.8 for candidates of a query: so they become logits from -3 to 3.
SCALE, BIAS = 10.0, -5.0
#: Scale and bias move so many times the learning rate: with that of the encoder they would hardly leave their start.
RATE = 100.0
#: Vectors of documents that are kept; of 384 features they take 150 MB.
MOST_KEPT = 100_000


class PolyHead(nn.Module):
    """Codes and the last comparison of a poly-encoder."""

    def __init__(self, config: EncoderConfig, codes: int) -> None:
        super().__init__()
        size = config.hidden_size
        # Token vectors have entries near 1, so the first products with codes have a spread of 1, not of sqrt(D).
        self.codes = nn.Parameter(torch.randn(codes, size) / math.sqrt(size))
        self.scale, self.bias = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def features(self, hidden: Tensor, queries: Packed) -> Tensor:
        """Token vectors (T, D) of queries -> their m summaries (Q, m, D)."""
        padded = to_padded(hidden, queries)  # (Q, S, D)
        real = torch.arange(padded.shape[1], device=hidden.device) < queries.lengths[:, None]
        weights = torch.einsum("md,qsd->qms", self.codes, padded).masked_fill(~real[:, None], float("-inf"))
        return weights.softmax(-1) @ padded

    def forward(self, features: Tensor, documents: Tensor) -> Tensor:
        """Summaries (P, m, D) and document vectors (P, D) of pairs -> scores (P, 1)."""
        fitting = torch.einsum("pmd,pd->pm", features, documents) / math.sqrt(documents.shape[1])
        mixed = torch.einsum("pm,pmd->pd", fitting.softmax(-1), features)
        cosine = F.cosine_similarity(mixed.float(), documents.float(), dim=-1)
        return ((SCALE + RATE * self.scale) * cosine + BIAS + RATE * self.bias)[:, None]

    @torch.no_grad()
    def rescale(self, slope: float, offset: float) -> None:
        """Make every score slope * score + offset."""
        self.scale.copy_((slope * (SCALE + RATE * self.scale) - SCALE) / RATE)
        self.bias.copy_((slope * (BIAS + RATE * self.bias) + offset - BIAS) / RATE)


class UniHead(nn.Module):
    """The sequence head of the family over each candidate. Its names are its own, so that no other software takes the
    weights for those of a cross-encoder."""

    def __init__(self, config: EncoderConfig, pool: Pooling | None, dropout: float | None) -> None:
        super().__init__()
        self.uni = SequenceHead(config, 1, pool, dropout)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.uni(pooled)


def new_head(
    config: EncoderConfig, kind: Kind, pool: Pooling | None, dropout: float | None, codes: int
) -> SequenceHead | PolyHead | UniHead:
    """The head of a kind of reranker; of cross the sequence head of the family, with one score."""
    if kind == "poly":
        return PolyHead(config, codes)
    return UniHead(config, pool, dropout) if kind == "uni" else SequenceHead(config, 1, pool, dropout)


class Kept:
    """Vectors of documents by their token ids, as long as the encoder does not change."""

    def __init__(self) -> None:
        self.vectors: dict[bytes, Tensor] = {}
        self.version = -1

    def of(self, encoder: Encoder) -> dict[bytes, Tensor]:
        """What is kept for these weights."""
        version = sum(weight._version for weight in encoder.parameters())
        if version != self.version or len(self.vectors) > MOST_KEPT:
            self.vectors, self.version = {}, version
        return self.vectors


def uni_scores(encoder: Encoder, head: UniHead, packed: Prefixed) -> Tensor:
    """Scores (P, 1) of the documents of a pack, each read as the continuation of its query."""
    assert packed.prefix is not None
    documents = (packed.prefix >= 0).nonzero().squeeze(1)
    if head.uni.pool == "cls":
        return head(encoder(packed, rows=packed.cu_seqlens[:-1].long()[documents]))
    return head(pooling.mean(encoder(packed), packed)[documents])


def poly_scores(encoder: Encoder, head: PolyHead, packed: Prefixed, kept: Kept | None = None) -> Tensor:
    """Scores (P, 1) of the documents of a pack.

    Args:
        kept: takes the vectors of documents, and gives those that it has; for evaluation alone.
    """
    assert packed.prefix is not None
    if kept is not None:
        return _kept_scores(encoder, head, packed, kept.of(encoder))
    is_query = packed.prefix < 0
    hidden = encoder(packed.plain())
    documents = pooling.mean(hidden, packed)[~is_query]
    lengths = packed.lengths.long()
    asked = hidden[torch.repeat_interleave(is_query, lengths)]
    queries = _bounds(packed.input_ids[torch.repeat_interleave(is_query, lengths)], lengths[is_query])
    return head(head.features(asked, queries)[_owner(packed.prefix)], documents)


def _kept_scores(encoder: Encoder, head: PolyHead, packed: Prefixed, vectors: dict[bytes, Tensor]) -> Tensor:
    assert packed.prefix is not None
    sequences = packed.input_ids.cpu().split(packed.lengths.tolist())
    is_query = (packed.prefix < 0).tolist()
    queries = [ids for ids, asked in zip(sequences, is_query, strict=True) if asked]
    documents = {ids.numpy().tobytes(): ids for ids, asked in zip(sequences, is_query, strict=True) if not asked}
    new = {key: ids for key, ids in documents.items() if key not in vectors}
    both = pack([*queries, *new.values()]).to(packed.input_ids.device)
    hidden = encoder(both)
    found = pooling.mean(hidden, both)[len(queries) :]
    vectors.update(zip(new, found, strict=True))
    keys = [ids.numpy().tobytes() for ids, asked in zip(sequences, is_query, strict=True) if not asked]
    tokens = int(both.cu_seqlens[len(queries)])
    asked = _bounds(both.input_ids[:tokens], both.lengths[: len(queries)].long())
    features = head.features(hidden[:tokens], asked)
    return head(features[_owner(packed.prefix)], torch.stack([vectors[key] for key in keys]))


def _owner(prefix: Tensor) -> Tensor:
    """(P,) the number, among the queries, of each document's query."""
    return ((prefix < 0).cumsum(0) - 1)[prefix[prefix >= 0]]


def _bounds(input_ids: Tensor, lengths: Tensor) -> Packed:
    return Packed(input_ids, F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32), int(lengths.max()))


@torch.no_grad()
def rescale(head: SequenceHead | PolyHead | UniHead, slope: float, offset: float) -> None:
    """Make every logit slope * logit + offset, in the last layer: so other software gives calibrated scores too."""
    if isinstance(head, PolyHead):
        head.rescale(slope, offset)
        return
    inner: Any = head.uni if isinstance(head, UniHead) else head
    last = inner.classifier["out_proj"] if inner.family == "roberta" else inner.classifier
    last.weight.mul_(slope)
    last.bias.mul_(slope).add_(offset)
