"""Dropout by 16 bits a value: how often, how much, the same by seed, and what flows back."""

from __future__ import annotations

import pytest
import torch

from modernbert.kernels import dropout
from modernbert.kernels.dropout import LEVELS


@pytest.mark.parametrize("share", [0.1, 0.5, 0.999])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_so_many_are_zero_and_the_mean_stays(share: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    values = torch.ones(1001, 999, dtype=dtype)  # not a multiple of what one draw gives
    found = dropout(values, share, training=True)
    assert (found.dtype, found.shape) == (dtype, values.shape)
    zero = (found == 0).double().mean()
    spread = (share * (1 - share) / values.numel()) ** 0.5
    assert abs(zero - share) < 5 * spread + 1 / LEVELS
    for part in (found[:, ::4], found[:, 1::4], found[::2], found[1::2]):  # the bits of one draw are independent
        assert abs((part == 0).double().mean() - share) < 10 * spread + 1 / LEVELS
    scale = torch.tensor(LEVELS / (LEVELS - round(share * LEVELS)), dtype=dtype)
    assert torch.equal(found.unique(), torch.stack([torch.zeros_like(scale), scale]))


def test_neighbours_fall_by_themselves() -> None:
    torch.manual_seed(0)
    kept = (dropout(torch.ones(400_000), 0.3, training=True) != 0).double()
    for distance in (1, 2, 3, 4, 8):
        both = torch.stack([kept[:-distance], kept[distance:]])
        assert abs(float(torch.corrcoef(both)[0, 1])) < 0.01


def test_the_gradient_is_the_mask_and_a_seed_gives_it_again() -> None:
    values = torch.randn(50, 7, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(3)
    found = dropout(values, 0.4, training=True)
    (grad,) = torch.autograd.grad(found.sum(), values)
    torch.testing.assert_close(values.detach() * grad, found.detach())
    torch.manual_seed(3)
    assert torch.equal(dropout(values, 0.4, training=True), found)
    assert not torch.equal(dropout(values, 0.4, training=True), found)


def test_nothing_is_done_or_drawn_where_nothing_is_asked() -> None:
    values, state = torch.randn(5), torch.get_rng_state()
    assert dropout(values, 0.4, training=False) is values
    assert dropout(values, 0.0, training=True) is values
    assert torch.equal(torch.get_rng_state(), state)
    assert dropout(torch.empty(0, 4), 0.4, training=True).shape == (0, 4)
