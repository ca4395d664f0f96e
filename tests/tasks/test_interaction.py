"""Poly- and uni-encoder: against transformers with explicit masks, against the definition, and cached."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel

from modernbert import pooling
from modernbert.attention import Prefixed
from modernbert.errors import DataError
from modernbert.packing import pack
from modernbert.weights import load_encoder
from tasks.interaction import BIAS, SCALE, Kept, PolyHead, UniHead, poly_scores, uni_scores

QUERIES = [[2, 5, 6, 7, 3], [2, 9, 3]]
DOCUMENTS = [[[2, 10, 11, 12, 3], [2, 13, 3], [2, 14, 15, 3]], [[2, 10, 11, 12, 3], [2, 8, 3]]]
FAMILIES = ["bert", "roberta", "modernbert"]


def prefixed(
    queries: list[list[int]] = QUERIES, documents: list[list[list[int]]] = DOCUMENTS, types: bool = False
) -> Prefixed:
    sequences, prefix = [], []
    for query, candidates in zip(queries, documents, strict=True):
        first = len(sequences)
        sequences += [query, *candidates]
        prefix += [-1] + [first] * len(candidates)
    plain, named = pack(sequences), torch.tensor(prefix)
    kinds = torch.repeat_interleave((named >= 0).long(), plain.lengths.long()) if types else None
    return Prefixed(plain.input_ids, plain.cu_seqlens, plain.max_seqlen, kinds, named)


def masked_transformers(folder: Path, query: list[int], candidates: list[list[int]], types: bool) -> list[torch.Tensor]:
    """Hidden states of each candidate by transformers: one sequence, positions that restart, a mask that parts them."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    ids = [*query, *(token for candidate in candidates for token in candidate)]
    owner = [0] * len(query) + [1 + i for i, candidate in enumerate(candidates) for _ in candidate]
    places = [*range(len(query)), *(len(query) + i for candidate in candidates for i in range(len(candidate)))]
    who, place = torch.tensor(owner), torch.tensor(places)
    seen = (who[:, None] == who[None, :]) | (who[None, :] == 0)
    near = (place[:, None] - place[None, :]).abs() <= 8  # half of the tiny encoder's local attention
    additive = [torch.zeros(m.shape).masked_fill(~m, float("-inf"))[None, None] for m in (seen, seen & near)]
    kind = model.config.model_type
    inputs: dict[str, Any] = {"input_ids": torch.tensor([ids]), "position_ids": place[None]}
    if kind == "modernbert":
        inputs["attention_mask"] = {"full_attention": additive[0], "sliding_attention": additive[1]}
    else:
        inputs["attention_mask"] = additive[0]
        inputs["token_type_ids"] = (who > 0).long()[None] * types
        inputs["position_ids"] = place[None] + (model.config.pad_token_id + 1) * (kind == "roberta")
    with torch.no_grad():
        hidden = model(**inputs).last_hidden_state[0]
    return [hidden[who == 1 + i] for i in range(len(candidates))]


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_are_read_as_continuations(tiny_encoder: Callable[..., Path], family: str) -> None:
    folder, types = tiny_encoder(family), family == "bert"
    long = [[2, *range(5, 25), 3], [2, 9, 3]]  # beyond the window of the local layers
    packed = prefixed(long, DOCUMENTS, types)
    with torch.no_grad():
        hidden = load_encoder(folder)(packed).split(packed.lengths.tolist())
    found = [part for part, prefix in zip(hidden, packed.prefix.tolist(), strict=True) if prefix >= 0]
    expected = [
        states
        for query, candidates in zip(long, DOCUMENTS, strict=True)
        for states in masked_transformers(folder, query, candidates, types)
    ]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_score_does_not_depend_on_the_others(tiny_encoder: Callable[..., Path], family: str) -> None:
    encoder = load_encoder(tiny_encoder(family))
    head = UniHead(encoder.config, None, 0.0).eval()
    with torch.no_grad():
        together = uni_scores(encoder, head, prefixed())
        alone = [
            uni_scores(encoder, head, prefixed([query], [[document]]))
            for query, documents in zip(QUERIES, DOCUMENTS, strict=True)
            for document in documents
        ]
    assert together.shape == (5, 1)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert float(together.std()) > 1e-4


def test_gradients_of_continuations_are_those_of_pieces(tiny_encoder: Callable[..., Path]) -> None:
    encoder = load_encoder(tiny_encoder("bert"), dropout=0.0)
    head = UniHead(encoder.config, None, 0.0)
    weights = list(encoder.parameters())

    def gradient(*packs: Prefixed) -> list[torch.Tensor]:
        loss = sum(uni_scores(encoder, head, packed).square().sum() for packed in packs)
        return [g for g in torch.autograd.grad(loss, weights, allow_unused=True) if g is not None]

    pieces = [prefixed([q], [[d]]) for q, documents in zip(QUERIES, DOCUMENTS, strict=True) for d in documents]
    for whole, parts in zip(gradient(prefixed()), gradient(*pieces), strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-6, rtol=1e-4)


def test_prefixes_must_be_sequences_of_the_pack() -> None:
    plain = pack([[1, 2], [3]])
    parts = (plain.input_ids, plain.cu_seqlens, plain.max_seqlen, None)
    for wrong in (None, torch.tensor([-1]), torch.tensor([-1, 2]), torch.tensor([1, 0])):
        with pytest.raises(DataError, match="prefix must"):
            Prefixed(*parts, wrong)


@pytest.mark.parametrize("family", FAMILIES)
def test_poly_scores_are_by_definition(tiny_encoder: Callable[..., Path], family: str) -> None:
    encoder = load_encoder(tiny_encoder(family))
    head = PolyHead(encoder.config, 4)
    with torch.no_grad():
        found = poly_scores(encoder, head, prefixed()).squeeze(1).tolist()
        expected = []
        for query, documents in zip(QUERIES, DOCUMENTS, strict=True):
            words = encoder(pack([query]))  # (S, D)
            features = (head.codes @ words.T).softmax(-1) @ words  # (m, D)
            for document in documents:
                one = pack([document])
                vector = pooling.mean(encoder(one), one)[0]
                mixed = (features @ vector / len(vector) ** 0.5).softmax(-1) @ features
                expected.append(SCALE * float(torch.cosine_similarity(mixed, vector, dim=0)) + BIAS)
    assert found == pytest.approx(expected, abs=1e-4)


def test_kept_vectors_give_the_same_scores_and_are_encoded_once(tiny_encoder: Callable[..., Path]) -> None:
    encoder = load_encoder(tiny_encoder("bert"))
    head, kept = PolyHead(encoder.config, 4), Kept()
    read: list[int] = []
    encoder.register_forward_hook(lambda module, inputs, output: read.append(inputs[0].batch_size))
    with torch.no_grad():
        plain = poly_scores(encoder, head, prefixed())
        first = poly_scores(encoder, head, prefixed(), kept)
        again = poly_scores(encoder, head, prefixed(), kept)
    torch.testing.assert_close(first, plain, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(again, first, atol=1e-5, rtol=1e-5)
    # 2 queries and 5 documents; 4 of these are different; then the queries alone
    assert read == [7, 6, 2]


def test_kept_vectors_go_with_the_weights(tiny_encoder: Callable[..., Path]) -> None:
    encoder = load_encoder(tiny_encoder("bert"))
    head, kept = PolyHead(encoder.config, 4), Kept()
    with torch.no_grad():
        before = poly_scores(encoder, head, prefixed(), kept)
        for weight in encoder.parameters():
            weight.add_(0.1 * torch.randn_like(weight))
        after = poly_scores(encoder, head, prefixed(), kept)
        torch.testing.assert_close(after, poly_scores(encoder, head, prefixed()), atol=1e-5, rtol=1e-5)
    assert float((after - before).abs().max()) > 1e-3


def test_poly_learns_by_every_part(tiny_encoder: Callable[..., Path]) -> None:
    encoder = load_encoder(tiny_encoder("modernbert"))
    head = PolyHead(encoder.config, 4)
    poly_scores(encoder, head, prefixed()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in head.parameters())
    assert encoder.embeddings.tok_embeddings.weight.grad.abs().sum() > 0


def test_rescaled_scores(tiny_encoder: Callable[..., Path]) -> None:
    head = PolyHead(load_encoder(tiny_encoder("bert")).config, 2)
    torch.nn.init.constant_(head.scale, 0.01)
    torch.nn.init.constant_(head.bias, -0.02)
    features, documents = torch.randn(5, 2, 32), torch.randn(5, 32)
    before = head(features, documents)
    head.rescale(0.7, 0.3)
    torch.testing.assert_close(head(features, documents), 0.7 * before + 0.3, atol=1e-5, rtol=1e-5)
