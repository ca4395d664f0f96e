"""Contrastive training on pairs that raw text holds by itself: a title and a paragraph, a sentence and the next one.

Sources: inverse cloze and neighbouring spans (Lee et al., arXiv:1906.00300; Izacard et al., "Contriever",
arXiv:2112.09118), titles as queries (Wang et al., E5, arXiv:2212.03533).

Dimensions: B pairs, D hidden.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from modernbert.packing import pack
from modernbert.pooling import mean
from modernbert.weights import Encoder
from tasks.contrastive import info_nce
from tasks.pretraining.text import Document, sentences

Ids = npt.NDArray[np.int64]
#: Shorter paragraphs and sentences say too little to be found again.
PARAGRAPH_CHARACTERS, SENTENCE_CHARACTERS = 120, 30


@dataclass(frozen=True)
class Pair:
    """Token ids of two texts that belong together."""

    left: Ids
    right: Ids

    def __len__(self) -> int:
        return len(self.left) + len(self.right)


def text_pairs(documents: list[Document], random: np.random.Generator) -> list[tuple[str, str]]:
    """At most one pair of a title and a paragraph, and one of neighbouring sentences, of each document.

    More of one document would be wrong as negatives of each other in a batch.
    """
    found = []
    for document in documents:
        long = [paragraph for paragraph in document.paragraphs if len(paragraph) >= PARAGRAPH_CHARACTERS]
        if not long:
            continue
        if document.title:
            found.append((document.title, long[random.integers(len(long))]))
        parts = sentences(long[random.integers(len(long))])
        neighbours = [pair for pair in itertools.pairwise(parts) if min(map(len, pair)) >= SENTENCE_CHARACTERS]
        if neighbours:
            found.append(neighbours[random.integers(len(neighbours))])
    return found


def paired(tokenizer: Tokenizer, max_length: int) -> Callable[[list[Document], np.random.Generator], list[Pair]]:
    """What makes a stream's examples; each text is cut to `max_length` tokens."""
    tokenizer.enable_truncation(max_length)

    def make(documents: list[Document], random: np.random.Generator) -> list[Pair]:
        texts = [text for pair in text_pairs(documents, random) for text in pair]
        ids = [np.array(encoding.ids, dtype=np.int64) for encoding in tokenizer.encode_batch(texts)]
        return [Pair(left, right) for left, right in zip(ids[::2], ids[1::2], strict=True)]

    return make


class Contrast:
    """InfoNCE in both directions over the pairs of a micro-batch.

    Args:
        encoder: is trained; its mean-pooled vectors are compared.
        temperature: similarities are divided by it.
    """

    def __init__(self, encoder: Encoder, temperature: float) -> None:
        self.encoder, self.temperature = encoder, temperature

    def loss_sum(self, batch: list[Pair]) -> tuple[Tensor, float]:
        """Summed over the pairs, and their number; a single pair has no negative and gives nothing."""
        if len(batch) < 2:
            return torch.zeros(()), 0.0
        device = next(self.encoder.parameters()).device
        packed = pack([pair.left for pair in batch] + [pair.right for pair in batch]).to(device)
        left, right = F.normalize(mean(self.encoder(packed).float(), packed), dim=1).chunk(2)
        own = torch.arange(len(batch), device=device)
        return info_nce(left @ right.t() / self.temperature, own, symmetric=True).sum(), float(len(batch))
