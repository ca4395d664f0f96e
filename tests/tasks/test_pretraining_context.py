"""Context reconstruction: the pairs by hand, the loss against its definition, and that the vector is what helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from modernbert.errors import ConfigError
from modernbert.packing import Packed
from modernbert.pooling import mean
from modernbert.weights import load_encoder
from tasks.data.tokenise import load_tokenizer
from tasks.optim import Optim, build_optimizer, parameter_groups
from tasks.pretraining.context import ContextDecoder, MaskedContext, Spans, neighbours
from tasks.pretraining.masked import MaskedHead, MaskedLanguage, word_vectors
from tasks.pretraining.text import Document


def objective_of(folder: Path, rate: float = 0.45) -> MaskedContext:
    encoder, tokenizer = load_encoder(folder), load_tokenizer(folder)
    tokenizer.mask_token = "[UNK]"
    return MaskedContext(MaskedLanguage(encoder, MaskedHead(encoder), tokenizer, 0.3), ContextDecoder(encoder), rate)


def test_spans_are_neighbours_of_one_document(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("bert"))
    make = neighbours(tokenizer, 8)
    words = "the parcel has not come yet please refund money my password does not work where is order".split()
    documents = [Document("", (" ".join(words),)), Document("", ("the parcel",)), Document("", ("money my app",))]
    found = make(documents, np.random.default_rng(0))
    # 17 words in three pieces of 6, 6 and 5: the third has no neighbour left. Halves of the others are too short.
    (spans,) = found
    both = [list(tokenizer.convert_ids_to_tokens(ids)) for ids in (spans.span, spans.neighbour)]
    assert all(one[0] == "[CLS]" and one[-1] == "[SEP]" for one in both)
    assert sorted((one[1:-1] for one in both), key=lambda one: one != words[:6]) == [words[:6], words[6:12]]
    assert len(spans) == 16
    orders = {tuple(make(documents[:1], np.random.default_rng(seed))[0].span) for seed in range(8)}
    assert len(orders) == 2  # either may be the one that is read


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_loss_by_its_definition(tiny_encoder: Callable[..., Path], family: str) -> None:
    objective = objective_of(tiny_encoder(family))
    encoder, decoder = objective.own.encoder, objective.decoder
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.2)
    batch = [Spans(np.array([2, 9, 12, 7, 3]), np.array([2, 8, 30, 8, 20, 3])),
             Spans(np.array([2, 5, 6, 3]), np.array([2, 11, 3]))]  # fmt: skip
    own = Packed(torch.tensor([2, 9, 1, 7, 3, 2, 1, 6, 3]), torch.tensor([0, 5, 9], dtype=torch.int32), 5)
    other = Packed(torch.tensor([2, 1, 30, 1, 20, 3, 2, 11, 3]), torch.tensor([0, 6, 9], dtype=torch.int32), 6)
    made = {0.3: (own, torch.tensor([2, 6]), torch.tensor([12, 5]))}
    made[0.45] = (other, torch.tensor([1, 3]), torch.tensor([8, 8]))
    objective.own.mask = lambda batch, random=None, rate=0.3: made[rate]  # type: ignore[method-assign]
    loss, units = objective.loss_sum(batch)
    table, head = word_vectors(encoder), objective.own.head
    hidden = encoder(own)
    expected = F.cross_entropy(head(hidden[[2, 6]]) @ table.t() + head.bias, torch.tensor([12, 5]))
    vectors = torch.stack([hidden[:5].mean(0), hidden[5:].mean(0)])
    # A token sees all of its own span and nothing of the other: each alone gives the same.
    first = Packed(other.input_ids[:6], torch.tensor([0, 6], dtype=torch.int32), 6)
    guessed = decoder(vectors[:1], first, table, torch.tensor([1, 3]))
    expected = expected + F.cross_entropy(guessed @ table.t() + decoder.head.bias, torch.tensor([8, 8]))
    assert units == 2
    torch.testing.assert_close(loss, expected * 2, atol=1e-5, rtol=1e-5)
    loss.backward()
    assert all(parameter.grad is not None for parameter in (*encoder.parameters(), *decoder.parameters())
               if parameter.shape != (2, 32))  # fmt: skip (segments and such are not read)


def test_the_vector_of_a_span_tells_of_its_neighbour(tiny_encoder: Callable[..., Path]) -> None:
    """Documents of one word each, nearly all of the neighbour hidden: only the vector says which word."""
    objective = objective_of(tiny_encoder("modernbert"), rate=0.95)
    source = np.random.default_rng(0)
    batches = [[Spans(*[np.array([2, *[word] * 6, 3])] * 2) for word in source.integers(5, 20, 16)] for _ in range(150)]
    optim = Optim(lr=5e-3)
    parts = nn.ModuleList([objective.own.head, objective.decoder])
    optimizer = build_optimizer(parameter_groups(objective.own.encoder, parts, optim), optim)
    before = objective.measure(batches[:4])
    for batch in batches:
        loss, units = objective.loss_sum(batch)
        (loss / units).backward()
        optimizer.step()
        optimizer.zero_grad()
    after = objective.measure(batches[:4])
    assert set(after) == {"masked_loss", "masked_accuracy", "masked_tokens", "context_loss", "context_accuracy"}
    assert before["context_accuracy"] < 0.3
    assert after["context_accuracy"] > 0.9
    # Without the vector it is a guess among fifteen words.
    forward = objective.decoder.forward
    objective.decoder.forward = lambda vectors, *given: forward(torch.zeros_like(vectors), *given)  # type: ignore[method-assign]
    assert objective.measure(batches[:4])["context_accuracy"] < 0.5


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_rate_outside_is_refused(tiny_encoder: Callable[..., Path], rate: float) -> None:
    with pytest.raises(ConfigError, match=f"context={rate}"):
        objective_of(tiny_encoder("bert"), rate)


def test_mean_is_the_vector(tiny_encoder: Callable[..., Path]) -> None:
    """Saved encoders are pooled by their mean, so that is what learns here."""
    objective, seen = objective_of(tiny_encoder("bert")), []
    forward = objective.decoder.forward
    objective.decoder.forward = lambda vectors, *given: seen.append(vectors) or forward(vectors, *given)  # type: ignore[method-assign]
    torch.manual_seed(1)
    span = np.arange(4, 20)
    batch = [Spans(np.array([2, *span, 3]), np.array([2, *span, 3]))]
    objective.loss_sum(batch)
    torch.manual_seed(1)
    packed, _, _ = objective.own.mask([batch[0].span])
    torch.testing.assert_close(seen[0], mean(objective.own.encoder(packed), packed))
