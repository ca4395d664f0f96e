"""Context reconstruction: the vector of a span has to tell what its neighbour is about (CoT-MAE, Wu et al.,
arXiv:2208.07670).

The encoder reads a masked span and guesses its tokens, as ever. A decoder that is too weak to do so alone guesses
those of the neighbouring span, of which more is masked, from the vector of the first one. It is dropped in the end.

Dimensions: T tokens, B spans, M masked tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from modernbert.attention import layout_of
from modernbert.config import parse_config
from modernbert.encoder import Layer
from modernbert.errors import ConfigError
from modernbert.kernels import add_layer_norm, layer_norm, linear_cross_entropy, rope_table
from modernbert.packing import Packed
from modernbert.pooling import mean
from modernbert.weights import Encoder
from tasks.heads import initialise
from tasks.pretraining.masked import FEWEST, Guesses, Ids, MaskedHead, MaskedLanguage, document_pieces, word_vectors
from tasks.pretraining.shapes import MODERNBERT
from tasks.pretraining.text import Document


@dataclass(frozen=True)
class Spans:
    """Token ids of a span and of its neighbour in the same document."""

    span: Ids
    neighbour: Ids

    def __len__(self) -> int:
        return len(self.span) + len(self.neighbour)


def neighbours(
    tokenizer: PreTrainedTokenizerFast, max_length: int
) -> Callable[[list[Document], np.random.Generator], list[Spans]]:
    """What makes a stream's examples: documents in at least two pieces of equal size, two by two, in either order.

    Of an odd number the last piece is left out. A document of which a half would be too short is no example.

    Args:
        max_length: most tokens of a span, special ones included.
    """
    cut = document_pieces(tokenizer, max_length, least=2)

    def make(documents: list[Document], random: np.random.Generator) -> list[Spans]:
        found = []
        for pieces in cut(documents):
            for left, right in zip(pieces[::2], pieces[1::2], strict=False):
                if min(len(left), len(right)) >= FEWEST:
                    found.append(Spans(left, right) if random.random() < 0.5 else Spans(right, left))
        return found

    return make


class ContextDecoder(nn.Module):
    """One layer of ModernBERT's kind over a span whose first token has given place to the vector of another span.

    Whatever the encoder is: positions come in by rotation, so that no table of them is needed.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        size = encoder.config.hidden_size
        shape = {
            "vocab_size": 8, "hidden_size": size, "intermediate_size": 2 * size, "num_hidden_layers": 1,
            "num_attention_heads": encoder.config.num_heads, "pad_token_id": None,
        }  # fmt: skip
        self.config = parse_config(MODERNBERT | shape, "the decoder of context reconstruction")
        self.first_norm, self.last_norm = (nn.LayerNorm(size, eps=self.config.norm_eps) for _ in range(2))
        self.layer = Layer(self.config, 0, None)
        initialise(self.layer, self.config.initializer_range)
        self.head = MaskedHead(encoder)

    def forward(self, vectors: Tensor, packed: Packed, table: Tensor, rows: Tensor) -> Tensor:
        """What is multiplied with the word table, (M, D).

        Args:
            vectors: (B, D), one for each sequence of the pack; takes the place of its first token.
            packed: spans with tokens hidden.
            table: (V, D) word vectors.
            rows: (M,) the tokens to be guessed.
        """
        words = F.embedding(packed.input_ids, table)
        # The first is [CLS], which is never to be guessed.
        given = words.index_copy(0, packed.cu_seqlens[:-1].long(), vectors.to(words.dtype))
        norm, layout = self.first_norm, layout_of(packed)
        normed = layer_norm(given, norm.weight, norm.bias, norm.eps)
        rope = rope_table(layout.positions, self.config.head_dim, self.config.thetas[0])
        residual, update = self.layer(normed, None, layout, rope, rows)
        norm = self.last_norm
        out: Tensor = self.head(add_layer_norm(residual, update, norm.weight, norm.bias, norm.eps)[1])
        return out


class MaskedContext:
    """Masked language modelling of a span, and of its neighbour from the span's mean-pooled vector.

    Args:
        own: the loss of the span itself.
        decoder: is trained with it.
        rate: share of the neighbour's tokens to be guessed, in (0, 1); 0.45 in the paper, beside 0.3 of the span.

    Raises:
        ConfigError: a rate outside (0, 1).
    """

    def __init__(self, own: MaskedLanguage, decoder: ContextDecoder, rate: float) -> None:
        if not 0 < rate < 1:
            raise ConfigError(f"context={rate}: allowed is a share of the tokens between 0 and 1 (0.45), or null")
        self.own, self.decoder, self.rate = own, decoder, rate

    def loss_sum(self, batch: list[Spans]) -> tuple[Tensor, float]:
        """The two mean losses added, times the masked tokens of the spans; and the number of those."""
        packed, places, targets = self.own.mask([spans.span for spans in batch])
        other, hidden_places, wanted = self.own.mask([spans.neighbour for spans in batch], rate=self.rate)
        if not len(places) or not len(wanted):
            return torch.zeros(()), 0.0
        table, head = word_vectors(self.own.encoder), self.own.head
        hidden = self.own.encoder(packed)
        loss = linear_cross_entropy(head(hidden[places]), table, head.bias, targets)
        guessed = self.decoder(mean(hidden, packed), other, table, hidden_places)
        loss = loss + linear_cross_entropy(guessed, table, self.decoder.head.bias, wanted)
        return loss * len(places), float(len(places))

    @torch.no_grad()
    def measure(self, batches: Sequence[list[Spans]]) -> dict[str, float]:
        """Figures of the spans (`MaskedLanguage.measure`), and of the neighbours' tokens: loss and share guessed
        right."""
        random, guesses = torch.Generator().manual_seed(0), Guesses()
        encoder = self.own.encoder
        with self.own.evaluating():
            for batch in batches:
                packed, _, _ = self.own.mask([spans.span for spans in batch], random)
                other, places, wanted = self.own.mask([spans.neighbour for spans in batch], random, self.rate)
                if len(wanted):
                    vectors = mean(encoder(packed), packed)
                    guessed = self.decoder(vectors, other, word_vectors(encoder), places)
                    guesses.add(guessed, word_vectors(encoder), self.decoder.head.bias, wanted)
        spans = self.own.measure([[one.span for one in batch] for batch in batches])
        return spans | {f"context_{name}": value for name, value in guesses.compute().items() if name != "tokens"}
