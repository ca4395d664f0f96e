from __future__ import annotations

import pytest
import torch
from parity import ROWS_AND_DTYPES, assert_parity, draw

from modernbert.errors import BackendError
from modernbert.kernels import geglu
from modernbert.kernels.geglu import geglu_reference


@pytest.mark.parametrize(("rows", "dtype"), ROWS_AND_DTYPES)
def test_parity(device: torch.device, rows: int, dtype: torch.dtype) -> None:
    assert_parity(geglu, geglu_reference, [draw(rows, 2 * 384, dtype=dtype, device=device, scale=2.0)], dtype)


def test_more_columns_than_a_tile(device: torch.device) -> None:
    assert_parity(geglu, geglu_reference, [draw(3, 2 * 1152, dtype=torch.float32, device=device)], torch.float32)


def test_by_hand(device: torch.device) -> None:
    # gelu(1) = 0.8413447 and gelu(-2) = -0.0455003 in the erf form; the tanh form gives 0.8411920.
    x = torch.tensor([[1.0, -2.0, 2.0, 10.0]], device=device)
    torch.testing.assert_close(geglu(x).cpu(), torch.tensor([[1.6826894, -0.4550026]]), atol=1e-6, rtol=0)


def test_far_from_zero(device: torch.device) -> None:
    x = torch.tensor([[-50.0, 50.0, 3.0, 3.0]], device=device, requires_grad=True)
    out = geglu(x)
    (grad,) = torch.autograd.grad(out.sum(), x)
    assert out.tolist() == [[0.0, 150.0]]
    assert grad.tolist() == [[0.0, 3.0, 0.0, 50.0]]


def test_not_contiguous(device: torch.device) -> None:
    x = draw(8, 65, dtype=torch.float32, device=device)
    assert_parity(lambda x: geglu(x.t()), lambda x: geglu_reference(x.t()), [x], torch.float32)


def test_keeps_only_its_input(device: torch.device) -> None:
    """2F values a token are kept where plain autograd keeps 3F beside them or more."""
    x = draw(64, 2 * 384, dtype=torch.float32, device=device)
    assert _kept_bytes(geglu, x) == x.numel() * 4
    assert _kept_bytes(geglu_reference, x) == 1.5 * x.numel() * 4


def _kept_bytes(function: object, x: torch.Tensor) -> int:
    """Bytes of distinct memory that autograd saves for the backward."""
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        assert callable(function)
        function(x)
    return sum(kept.values())


def test_gradcheck() -> None:
    assert torch.autograd.gradcheck(geglu, (torch.randn(3, 10).double().requires_grad_(),))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.ones(2, 5), r"x has shape \(2, 5\); give \(T, 2F\)"),
        (torch.ones(4), r"x has shape \(4,\)"),
        (torch.ones(2, 4, dtype=torch.int32), "x is torch.int32"),
    ],
)
def test_refused(x: torch.Tensor, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        geglu(x)
