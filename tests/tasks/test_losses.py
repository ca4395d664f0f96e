"""Losses against hand-computed values, torch's own means, and numeric gradients."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from modernbert.errors import BackendError
from tasks import losses

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 1.0, 4.0], [1.0, 2.0, 3.0]])
TARGETS = torch.tensor([0, 2, 1, 0])
WEIGHTS = torch.tensor([0.5, 2.0, 1.25])


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_over_units_is_torchs_mean(weights: Tensor | None, smoothing: float) -> None:
    ours = losses.cross_entropy_sum(LOGITS, TARGETS, weights, smoothing) / losses.units(TARGETS, weights)
    torch.testing.assert_close(
        ours, F.cross_entropy(LOGITS, TARGETS, weight=weights, label_smoothing=smoothing)
    )


def test_cross_entropy_by_hand() -> None:
    # Two classes, logits 0 and log 3: probabilities 1/4 and 3/4.
    logits = torch.tensor([[0.0, math.log(3)]])
    assert losses.cross_entropy_sum(logits, torch.tensor([0])).item() == pytest.approx(math.log(4))
    smooth = 0.9 * math.log(4) + 0.1 * math.log(4 / 3)  # smoothing 0.2 gives each class 0.1
    assert losses.cross_entropy_sum(logits, torch.tensor([0]), None, 0.2).item() == pytest.approx(smooth)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_micro_batches_give_the_gradient_of_the_whole_step(weights: Tensor | None) -> None:
    whole = LOGITS.clone().requires_grad_()
    F.cross_entropy(whole, TARGETS, weight=weights, label_smoothing=0.1).backward()
    parts = LOGITS.clone().requires_grad_()
    total = losses.units(TARGETS, weights)
    for rows in (slice(0, 1), slice(1, 4)):
        (losses.cross_entropy_sum(parts[rows], TARGETS[rows], weights, 0.1) / total).backward()
    torch.testing.assert_close(parts.grad, whole.grad)


def test_focal_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])
    assert losses.focal_sum(logits, torch.tensor([1]), gamma=2.0).item() == pytest.approx(
        0.25**2 * math.log(4 / 3)
    )
    weighted = losses.focal_sum(logits, torch.tensor([0]), gamma=2.0, class_weights=torch.tensor([0.5, 1.0]))
    assert weighted.item() == pytest.approx(0.5 * 0.75**2 * math.log(4))
    # The same in a sigmoid: p(yes) = 3/4, gold yes; then gold no with p(no) = 1/4.
    one = torch.tensor([[math.log(3)]])
    assert losses.binary_focal_sum(one, torch.ones(1, 1), gamma=2.0).item() == pytest.approx(
        0.25**2 * math.log(4 / 3)
    )
    assert losses.binary_focal_sum(one, torch.zeros(1, 1), gamma=2.0).item() == pytest.approx(
        0.75**2 * math.log(4)
    )


def test_focal_with_gamma_zero_is_cross_entropy() -> None:
    torch.testing.assert_close(
        losses.focal_sum(LOGITS, TARGETS, 0.0, WEIGHTS), losses.cross_entropy_sum(LOGITS, TARGETS, WEIGHTS)
    )
    gold = torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    torch.testing.assert_close(
        losses.binary_focal_sum(LOGITS, gold, 0.0, WEIGHTS), losses.bce_sum(LOGITS, gold, WEIGHTS)
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_finite_where_the_model_is_sure(gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    loss = losses.focal_sum(logits, torch.tensor([0, 0]), gamma)
    loss.backward()
    assert loss.item() == pytest.approx(400.0)
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]


def test_bce_is_torchs_mean_and_smooths_by_hand() -> None:
    gold = torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1], [0, 1, 0]])
    ours = losses.bce_sum(LOGITS, gold, WEIGHTS) / losses.units(gold)
    torch.testing.assert_close(ours, F.binary_cross_entropy_with_logits(LOGITS, gold, pos_weight=WEIGHTS))
    one = torch.tensor([[math.log(3)]])  # p = 3/4; a smoothed yes is 0.95
    expected = -(0.95 * math.log(0.75) + 0.05 * math.log(0.25))
    assert losses.bce_sum(one, torch.ones(1, 1), label_smoothing=0.1).item() == pytest.approx(expected)


def test_mse_by_hand_and_no_silent_broadcast() -> None:
    targets = torch.tensor([1.0, 2.0])
    assert losses.mse_sum(torch.tensor([[3.0], [2.5]]), targets).item() == pytest.approx(4.25)
    with pytest.raises(BackendError, match=r"\(2, 2\)"):
        losses.mse_sum(torch.zeros(2, 2), targets)


def test_coral_by_hand() -> None:
    # P(grade > 0) = 3/4, P(grade > 1) = 1/4, so the grades have 1/4, 1/2, 1/4.
    logits = torch.tensor([[math.log(3), -math.log(3)]]).repeat(3, 1)
    each = losses.coral_sum(logits, torch.tensor([0, 1, 2]), reduce=False)
    low, high = math.log(4), math.log(4 / 3)
    torch.testing.assert_close(each, torch.tensor([low + high, high + high, high + low]))
    torch.testing.assert_close(losses.coral_probabilities(logits)[0], torch.tensor([0.25, 0.5, 0.25]))
    torch.testing.assert_close(losses.coral_scores(logits), torch.ones(3))
    with pytest.raises(BackendError, match=r"grades 0 \.\. 2"):
        losses.coral_sum(logits, torch.tensor([0, 1, 3]))


def test_coral_probabilities_of_disordered_biases_are_probabilities() -> None:
    p = losses.coral_probabilities(torch.randn(50, 4) * 3)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(1), torch.ones(50))


CASES: dict[str, Callable[[Tensor], Tensor]] = {
    "cross_entropy": lambda z: losses.cross_entropy_sum(z, TARGETS, WEIGHTS.double(), 0.1),
    "focal": lambda z: losses.focal_sum(z, TARGETS, 2.0, WEIGHTS.double()),
    "focal_half": lambda z: losses.focal_sum(z, TARGETS, 0.5),
    "binary_focal": lambda z: losses.binary_focal_sum(z, z.detach() > 0.4, 1.5, WEIGHTS.double()),
    "bce": lambda z: losses.bce_sum(z, z.detach() > 0.4, WEIGHTS.double(), 0.1),
    "mse": lambda z: losses.mse_sum(z[:, 0], TARGETS),
    "coral": lambda z: losses.coral_sum(z, TARGETS),
    "coral_scores": losses.coral_scores,
}


@pytest.mark.parametrize("name", CASES)
def test_gradients(name: str) -> None:
    logits = (LOGITS.double() + 0.05).requires_grad_()
    assert torch.autograd.gradcheck(CASES[name], (logits,))


@pytest.mark.parametrize("name", CASES)
def test_half_precision_logits_give_fp32_losses_under_autocast(name: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = CASES[name](LOGITS.bfloat16())
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, CASES[name](LOGITS.bfloat16().float()))


def test_each_example_adds_up() -> None:
    each = losses.cross_entropy_sum(LOGITS, TARGETS, WEIGHTS, 0.1, reduce=False)
    assert each.shape == (4,)
    torch.testing.assert_close(each.sum(), losses.cross_entropy_sum(LOGITS, TARGETS, WEIGHTS, 0.1))
    with pytest.raises(BackendError, match=r"\(B, L\)"):
        losses.cross_entropy_sum(LOGITS, TARGETS[:2])
    with pytest.raises(BackendError, match="one shape"):
        losses.bce_sum(LOGITS, TARGETS)
