"""Losses of retrieval against values worked out by hand or by the plain formula in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tasks import contrastive
from tasks.vectors import normalise

SCORES = torch.tensor([[2.0, 1.0, 0.0, -1.0], [0.5, 3.0, 2.5, 1.0]], dtype=torch.float64)
POSITIVE = torch.tensor([0, 1])


def test_info_nce_is_cross_entropy_over_what_is_not_ignored() -> None:
    plain = F.cross_entropy(SCORES, POSITIVE, reduction="none")
    assert torch.allclose(contrastive.info_nce(SCORES, POSITIVE), plain)
    ignored = torch.zeros(2, 4, dtype=torch.bool)
    ignored[0, 1] = ignored[1, 2] = True
    ignored[0, 0] = True  # the positive's own place never counts as ignored
    found = contrastive.info_nce(SCORES, POSITIVE, ignored)
    first = math.log(math.exp(2) + 1 + math.exp(-1)) - 2
    second = math.log(math.exp(0.5) + math.exp(3) + math.exp(1)) - 3
    assert found.tolist() == pytest.approx([first, second])
    extra = torch.tensor([[1.5], [-math.inf]], dtype=torch.float64)
    more = contrastive.info_nce(SCORES, POSITIVE, ignored, extra)
    assert more.tolist() == pytest.approx([math.log(math.exp(2) + 1 + math.exp(-1) + math.exp(1.5)) - 2, second])


def test_symmetric_adds_the_other_direction() -> None:
    ignored = torch.zeros(2, 4, dtype=torch.bool)
    there = F.cross_entropy(SCORES, POSITIVE, reduction="none")
    back = F.cross_entropy(SCORES[:, :2].t(), torch.arange(2), reduction="none")
    assert torch.allclose(contrastive.info_nce(SCORES, POSITIVE, ignored, symmetric=True), (there + back) / 2)
    ignored[1, 0] = True  # the first document is no negative of the second query, and so the other way round
    found = contrastive.info_nce(SCORES, POSITIVE, ignored, symmetric=True)
    forth = math.log(sum(math.exp(s) for s in (2, 1, 0, -1))) - 2
    assert float(found[0]) == pytest.approx((forth + 0.0) / 2)


def test_focal_weighs_rows_by_what_is_missing() -> None:
    plain = contrastive.info_nce(SCORES, POSITIVE)
    chance = torch.exp(-plain)
    assert torch.allclose(contrastive.info_nce(SCORES, POSITIVE, focal_gamma=0.5), (1 - chance).sqrt() * plain)


def test_decoupled_leaves_the_other_positives_out() -> None:
    known = torch.tensor([[False, True, False, False], [False, False, False, False]])
    found = contrastive.decoupled(SCORES, POSITIVE, known)
    rest = 1 + math.exp(-1)
    first = [math.log(math.exp(s) + rest) - s for s in (2, 1)]
    second = math.log(sum(math.exp(s) for s in (0.5, 3, 2.5, 1))) - 3
    assert found.tolist() == pytest.approx([sum(first) / 2, second])
    suspected = torch.zeros(2, 4, dtype=torch.bool)
    suspected[1, 2] = True
    less = contrastive.decoupled(SCORES, POSITIVE, known, suspected)
    assert float(less[1]) == pytest.approx(math.log(math.exp(0.5) + math.exp(3) + math.exp(1)) - 3)


def test_decoupled_without_a_negative_has_no_gradient() -> None:
    scores = SCORES.clone().requires_grad_()
    loss = contrastive.decoupled(scores, POSITIVE, torch.ones(2, 4, dtype=torch.bool))
    loss.sum().backward()
    assert loss.tolist() == [0.0, 0.0]
    assert scores.grad is not None
    assert scores.grad.tolist() == [[0.0] * 4] * 2


def test_distillation_by_hand() -> None:
    scores = torch.tensor([[3.0, 1.0, 9.0], [2.0, 1.5, 0.0]], dtype=torch.float64, requires_grad=True)
    teacher = torch.tensor([[4.0, 1.0, math.nan], [1.0, 0.5, -1.0]], dtype=torch.float64)
    margin = contrastive.margin_mse(scores, teacher)
    assert margin.tolist() == pytest.approx([(2 - 3) ** 2, ((0.5 - 0.5) ** 2 + (2 - 2) ** 2) / 2])
    found = contrastive.kl(scores, teacher)
    expected = F.kl_div(scores.detach()[0, :2].log_softmax(0), teacher[0, :2].softmax(0), reduction="sum")
    assert float(found[0]) == pytest.approx(float(expected))
    assert float(found[1]) == pytest.approx(
        float(F.kl_div(scores.detach()[1].log_softmax(0), teacher[1].softmax(0), reduction="sum"))
    )
    (margin.sum() + found.sum()).backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert float(scores.grad[0, 2]) == 0.0


def test_cosent_counts_pairs_in_wrong_order() -> None:
    scores = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64)
    targets = torch.tensor([5.0, 1.0, 1.0])
    # t0 > t1 and t0 > t2; the others are equal.
    assert float(contrastive.cosent(scores, targets)) == pytest.approx(math.log(1 + math.exp(1) + math.exp(-0.5)))
    assert float(contrastive.cosent(scores, torch.ones(3))) == 0.0
    assert contrastive.cosine_mse(scores, torch.tensor([1.0, 1.0, 1.0])).tolist() == [0.0, 1.0, 0.25]


def test_flops_is_the_squared_mean_weight() -> None:
    assert float(contrastive.flops(torch.tensor([[1.0, 0.0], [3.0, 2.0]]))) == pytest.approx(2.0**2 + 1.0**2)


def test_mixed_negatives_lie_between_two_hard_ones() -> None:
    torch.manual_seed(1)
    queries, documents = normalise(torch.randn(3, 5)), normalise(torch.randn(6, 5))
    scores = queries @ documents.t()
    barred = torch.zeros(3, 6, dtype=torch.bool)
    barred[:, 0] = True
    barred[2, :5] = True  # one negative alone: nothing to mix

    def mixed(seed: int) -> Tensor:
        return contrastive.mixed_scores(queries, documents, scores, barred, 50, torch.Generator().manual_seed(seed))

    found = mixed(0)
    assert found.shape == (3, 50)
    assert (found[2] == -torch.inf).all()
    assert torch.equal(found, mixed(0))
    assert not torch.equal(found, mixed(1))
    # Normalised mixtures of two unit vectors lie on the arc between them.
    pairs = [(i, j) for i in range(1, 6) for j in range(1, 6) if i != j]
    shares = torch.linspace(0, 1, 201)[:, None]
    for row in range(2):
        arcs = torch.cat([normalise(shares * documents[i] + (1 - shares) * documents[j]) for i, j in pairs])
        reachable = arcs @ queries[row]
        assert (found[row][:, None] - reachable).abs().min(dim=1).values.max() < 2e-2
