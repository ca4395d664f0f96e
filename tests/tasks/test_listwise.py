"""Losses over lists against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from modernbert.errors import BackendError
from tasks import listwise

ONE = torch.tensor([[True, True, True]])
SCORES = torch.tensor([[1.0, 0.0, -1.0]])


def test_pairs_become_lists() -> None:
    values, group = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([7, 7, 7, 2])
    lists, real = listwise.to_lists(values, group)
    assert lists.tolist() == [[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]
    assert real.tolist() == [[True, True, True], [True, False, False]]
    with pytest.raises(BackendError, match=r"must both be \(P,\)"):
        listwise.to_lists(values, group[:3])


def test_listnet_is_the_cross_entropy_of_two_softmaxes() -> None:
    labels = torch.tensor([[0.0, 1.0, 0.0]])
    e = math.e
    target = [1 / (2 + e), e / (2 + e), 1 / (2 + e)]
    norm = math.log(e + 1 + 1 / e)
    expected = -sum(t * (s - norm) for t, s in zip(target, (1.0, 0.0, -1.0), strict=True))
    assert listwise.listnet(SCORES, labels, ONE).item() == pytest.approx(expected, rel=1e-6)


def test_softmax_shares_the_target_among_the_relevant() -> None:
    norm = math.log(math.e + 1 + 1 / math.e)
    one = listwise.softmax(SCORES, torch.tensor([[0.0, 1.0, 0.0]]), ONE)
    two = listwise.softmax(SCORES, torch.tensor([[3.0, 0.0, 1.0]]), ONE)
    assert one.item() == pytest.approx(norm, rel=1e-6)
    assert two.item() == pytest.approx(0.75 * (norm - 1) + 0.25 * (norm + 1), rel=1e-6)
    assert listwise.softmax(SCORES, torch.zeros(1, 3), ONE).item() == 0.0


def test_lambda_weighs_pairs_by_what_a_swap_costs() -> None:
    # Ranks are 1, 2, 3; the relevant document is second, so G = (0, 1, 0): the best DCG is 1 / D(1) = 1.
    labels = torch.tensor([[0.0, 1.0, 0.0]])
    d = [math.log2(1 + r) for r in (1, 2, 3)]
    above = abs(1 / d[1] - 1 / d[0]) + 10 * abs(1 / d[0] - 1 / d[1])  # with rank 1; one rank apart
    below = abs(1 / d[1] - 1 / d[2]) + 10 * abs(1 / d[0] - 1 / d[1])  # with rank 3; one rank apart
    expected = above * math.log2(1 + math.e) + below * math.log2(1 + math.exp(-1))
    assert listwise.lambda_loss(SCORES, labels, ONE).item() == pytest.approx(expected, rel=1e-5)


def test_lambda_uses_exponential_gains() -> None:
    labels = torch.tensor([[0.0, 2.0]])
    real, scores = torch.tensor([[True, True]]), torch.tensor([[2.0, 0.0]])
    d = [1.0, math.log2(3)]
    weight = 11 * (1 / d[0] - 1 / d[1]) * 1.0  # G = 3 / 3
    expected = weight * math.log2(1 + math.exp(2))
    assert listwise.lambda_loss(scores, labels, real).item() == pytest.approx(expected, rel=1e-5)


def test_margin_is_the_mean_hinge_of_ordered_pairs() -> None:
    labels = torch.tensor([[0.0, 1.0, 0.0]])
    # pairs (second, first): 1 - (0 - 1) = 2; (second, third): 1 - (0 + 1) = 0
    assert listwise.margin(SCORES, labels, ONE).item() == pytest.approx(1.0)
    assert listwise.margin(SCORES, labels, ONE, gap=2.0).item() == pytest.approx((3 + 1) / 2)


def test_margin_mse_compares_margins_with_the_teacher() -> None:
    teacher, labels = torch.tensor([[4.0, 6.0, 1.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    # labelled: margins -1 and 1 against 2 and 5
    assert listwise.margin_mse(SCORES, teacher, ONE, labels).item() == pytest.approx((9 + 16) / 2)
    # by the teacher alone also (first, third): 2 against 3
    assert listwise.margin_mse(SCORES, teacher, ONE).item() == pytest.approx((9 + 16 + 1) / 3)


LISTS = {**listwise.LISTWISE, "margin_mse": listwise.margin_mse}


@pytest.mark.parametrize("name", LISTS)
def test_places_without_candidate_change_nothing(name: str) -> None:
    loss = LISTS[name]
    scores, labels = torch.randn(1, 4), torch.tensor([[1.0, 0.0, 2.0, 0.0]])
    wide_scores, wide_labels = torch.full((1, 6), 50.0), torch.full((1, 6), 9.0)
    wide_scores[:, :4], wide_labels[:, :4] = scores, labels
    wide_scores.requires_grad_()
    short = scores.clone().requires_grad_()
    wide = loss(wide_scores, wide_labels, torch.arange(6)[None] < 4)
    plain = loss(short, labels, torch.ones(1, 4, dtype=torch.bool))
    assert wide.shape == (1,)
    assert wide.item() == pytest.approx(plain.item(), rel=1e-6)
    wide.sum().backward()
    plain.sum().backward()
    torch.testing.assert_close(wide_scores.grad[:, :4], short.grad)
    assert wide_scores.grad[:, 4:].abs().sum() == 0


@pytest.mark.parametrize("name", ["softmax", "lambda", "margin", "margin_mse"])
def test_lists_without_an_order_cost_nothing(name: str) -> None:
    scores = torch.randn(2, 3, requires_grad=True)
    real = torch.tensor([[True, True, True], [True, False, False]])
    LISTS[name](scores, torch.zeros(2, 3), real).sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert scores.grad.abs().sum() == 0


@pytest.mark.parametrize("name", LISTS)
def test_gradients_are_those_of_the_values(name: str) -> None:
    # In float64 by differences; ranks, which lambda takes as given, do not change within the step.
    scores = torch.tensor([[0.3, -0.7, 1.1, 0.2]], dtype=torch.float32, requires_grad=True)
    labels, real = torch.tensor([[0.0, 2.0, 0.0, 1.0]]), torch.ones(1, 4, dtype=torch.bool)
    LISTS[name](scores, labels, real).sum().backward()
    for i in range(4):
        moved = []
        for step in (1e-2, -1e-2):
            other = scores.detach().clone()
            other[0, i] += step
            moved.append(LISTS[name](other, labels, real).sum().item())
        assert scores.grad[0, i].item() == pytest.approx((moved[0] - moved[1]) / 2e-2, abs=2e-2, rel=2e-2)
