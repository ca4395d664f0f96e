from __future__ import annotations

from functools import partial

import pytest
import torch
from parity import ROWS_AND_DTYPES, assert_parity, draw

from modernbert.errors import BackendError
from modernbert.kernels import add_layer_norm, layer_norm
from modernbert.kernels.layer_norm import add_layer_norm_reference, layer_norm_reference

EPS = 1e-5


@pytest.mark.parametrize(("rows", "dtype"), ROWS_AND_DTYPES)
def test_add_layer_norm(device: torch.device, rows: int, dtype: torch.dtype) -> None:
    make = partial(draw, dtype=dtype, device=device)
    inputs = [make(rows, 384), make(rows, 384), make(384)]
    reference = partial(add_layer_norm_reference, bias=None, eps=EPS)
    assert_parity(add_layer_norm, reference, inputs, dtype)


@pytest.mark.parametrize(("features", "dtype"), [(17, torch.float32), (100, torch.float32), (384, torch.bfloat16)])
def test_layer_norm_with_bias(device: torch.device, features: int, dtype: torch.dtype) -> None:
    make = partial(draw, dtype=dtype, device=device)
    inputs = [make(65, features), make(features), make(features)]
    assert_parity(layer_norm, partial(layer_norm_reference, eps=EPS), inputs, dtype)


def test_without_bias_on_a_large_mean(device: torch.device) -> None:
    # Mean 100, deviation 1: a one-pass variance would lose four digits.
    x = (torch.randn(9, 768, dtype=torch.float64) + 100).float().to(device)
    weight = torch.ones(768, device=device)
    want = layer_norm_reference(x.double(), weight.double(), None, EPS)
    torch.testing.assert_close(layer_norm(x, weight).double(), want, atol=2e-5, rtol=0)


def test_only_one_output_used(device: torch.device) -> None:
    """BERT never reads the sum; a last layer may read nothing else."""
    x, residual, weight = (draw(*shape, dtype=torch.float32, device=device) for shape in ((5, 8), (5, 8), (8,)))
    for index in (0, 1):
        grads = torch.autograd.grad(add_layer_norm(residual, x, weight)[index].square().sum(), (x, residual))
        want = add_layer_norm_reference(residual, x, weight, None, EPS)[index].square().sum()
        torch.testing.assert_close(grads, torch.autograd.grad(want, (x, residual)), atol=1e-5, rtol=1e-5)


def test_float32_stream_with_half_precision_branch(device: torch.device) -> None:
    """As under autocast: the sum stays float32, the norm takes the dtype of the branch."""
    residual = draw(65, 384, dtype=torch.float32, device=device)
    x = draw(65, 384, dtype=torch.bfloat16, device=device)
    weight = draw(384, dtype=torch.float32, device=device)
    total, out = add_layer_norm(residual, x, weight)
    assert (total.dtype, out.dtype) == (torch.float32, torch.bfloat16)
    assert_parity(
        add_layer_norm,
        partial(add_layer_norm_reference, bias=None, eps=EPS),
        [residual, x, weight],
        out.dtype,
    )


def test_rows_do_not_see_each_other(device: torch.device) -> None:
    x, weight = torch.randn(65, 384, device=device), torch.randn(384, device=device)
    assert torch.equal(layer_norm(x, weight)[13:14], layer_norm(x[13:14], weight))


def test_not_contiguous(device: torch.device) -> None:
    x, weight = torch.randn(384, 10, device=device).t(), torch.randn(768, device=device)[::2]
    torch.testing.assert_close(layer_norm(x, weight), layer_norm(x.contiguous(), weight.contiguous()))


def test_gradcheck() -> None:
    x, residual, weight, bias = (torch.randn(*s).double().requires_grad_() for s in ((4, 6), (4, 6), (6,), (6,)))
    assert torch.autograd.gradcheck(add_layer_norm, (residual, x, weight, bias))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3, 4), torch.ones(4)), r"x has shape \(2, 3, 4\); give \(N, D\)"),
        ((torch.ones(2, 4), torch.ones(3)), r"weight has shape \(3,\).*give \(4,\)"),
        ((torch.ones(2, 4), torch.ones(4), torch.ones(5)), r"bias has shape \(5,\)"),
        ((torch.ones(2, 4, dtype=torch.int64), torch.ones(4)), "x is torch.int64"),
        ((torch.ones(2, 4), torch.ones(4, device="meta")), "weight is on meta, the rest on cpu"),
    ],
)
def test_refused(arguments: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        layer_norm(*arguments)


def test_refuses_a_residual_of_another_shape() -> None:
    with pytest.raises(BackendError, match=r"residual is \(1, 4\), x is \(2, 4\)"):
        add_layer_norm(torch.ones(1, 4), torch.ones(2, 4), torch.ones(4))
