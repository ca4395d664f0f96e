"""Attention of long sequences by products of oneDNN, against the reference: on every CPU, whether it pays or not."""

from __future__ import annotations

import pytest
import torch

from modernbert import pack
from modernbert.attention import Layout, products
from modernbert.attention.cpu import flash_cpu
from modernbert.attention.reference import reference
from modernbert.kernels import onednn

#: Longer than a piece of queries, as long, shorter than what pays; equal neighbours; one token.
LENGTHS = (40, 40, 7, 16, 100, 1, 33, 8)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "pays_twice", lambda: True)
    monkeypatch.setattr(products, "SHORTEST", 16)
    monkeypatch.setattr(products, "QUERIES", 16)


def layout_of(lengths: tuple[int, ...]) -> Layout:
    return Layout(pack([[0] * length for length in lengths]))


def ran(qkv: torch.Tensor, layout: Layout, window: int | None) -> set[str]:
    with torch.profiler.profile() as noted:
        flash_cpu(qkv, layout, window)
    return {event.key for event in noted.key_averages()}


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("dim", [8, 20])
def test_forward_and_backward(window: int | None, dim: int) -> None:
    layout = layout_of(LENGTHS)
    values, weight = torch.randn(sum(LENGTHS), 3, 2, dim), torch.randn(sum(LENGTHS), 2, dim)
    results = []
    for function in (flash_cpu, reference):
        qkv = values.clone().requires_grad_()
        out = function(qkv, layout, window)
        (grad,) = torch.autograd.grad(out, qkv, weight)
        results.append((out.detach(), grad))
    with torch.no_grad():
        alone = flash_cpu(values, layout, window)
    torch.testing.assert_close(alone, results[1][0], atol=2e-6, rtol=1e-5)
    for found, wanted in zip(*results, strict=True):
        torch.testing.assert_close(found, wanted, atol=5e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "window", "by_products", "by_flash"),
    [
        ((40,), None, True, False),
        ((15, 15), None, False, True),
        ((40, 15), None, True, True),
        ((40,), 5, False, True),  # a mask keeps most keys away: not all products are wanted
        ((40,), 64, True, False),  # the window sees all of it
    ],
)
def test_what_is_computed_by_products(
    lengths: tuple[int, ...], window: int | None, by_products: bool, by_flash: bool
) -> None:
    found = ran(torch.randn(sum(lengths), 3, 2, 8), layout_of(lengths), window)
    assert ("mkldnn::_linear_pointwise" in found) is by_products
    assert ("aten::_scaled_dot_product_flash_attention_for_cpu" in found) is by_flash


def test_where_it_does_not_pay_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onednn, "pays_twice", lambda: False)
    assert "mkldnn::_linear_pointwise" not in ran(torch.randn(40, 3, 2, 8), layout_of((40,)), None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_full(dtype: torch.dtype) -> None:
    layout = layout_of(LENGTHS)
    qkv = torch.randn(sum(LENGTHS), 3, 2, 8).to(dtype)
    found = flash_cpu(qkv, layout, None)
    assert found.dtype == dtype
    torch.testing.assert_close(found, reference(qkv.float(), layout, None).to(dtype), atol=0, rtol=1e-2)


def test_a_neighbour_changes_no_bit() -> None:
    values = torch.randn(140, 3, 2, 8)
    alone = flash_cpu(values[:40], layout_of((40,)), None)
    assert torch.equal(flash_cpu(values, layout_of((40, 100)), None)[:40], alone)


def test_large_scores_stay_finite() -> None:
    qkv = (200 * torch.randn(64, 3, 1, 8)).requires_grad_()
    out = flash_cpu(qkv, layout_of((64,)), None)
    (grad,) = torch.autograd.grad(out.square().sum(), qkv)
    assert torch.isfinite(out).all()
    assert torch.isfinite(grad).all()
