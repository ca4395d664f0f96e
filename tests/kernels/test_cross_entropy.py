from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from parity import ROWS_AND_DTYPES, assert_parity, draw
from torch.utils._python_dispatch import TorchDispatchMode

from modernbert.errors import BackendError
from modernbert.kernels import cross_entropy, linear_cross_entropy
from modernbert.kernels.cross_entropy import linear_cross_entropy_reference

D = 96


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of 16 rows of a 1,000-word vocabulary: 129 rows are 9 chunks, the last of one row."""
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS_CPU", 16_000)
    monkeypatch.setattr(cross_entropy, "CHUNK_LOGITS_GPU", 16_000)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(("rows", "dtype"), ROWS_AND_DTYPES)
def test_parity(device: torch.device, rows: int, dtype: torch.dtype) -> None:
    _assert_parity(device, rows, 1000, dtype)


def test_more_words_than_a_tile(device: torch.device) -> None:
    _assert_parity(device, 3, 5003, torch.float32)


def _assert_parity(device: torch.device, rows: int, vocabulary: int, dtype: torch.dtype) -> None:
    hidden = draw(rows, D, dtype=dtype, device=device)
    weight = draw(vocabulary, D, dtype=dtype, device=device, scale=0.2)
    bias = draw(vocabulary, dtype=dtype, device=device)
    targets = torch.randint(vocabulary, (rows,))
    assert_parity(
        lambda h, w, b: linear_cross_entropy(h, w, b, targets.to(h.device)),
        lambda h, w, b: linear_cross_entropy_reference(h, w, b, targets),
        [hidden, weight, bias],
        dtype,
    )


def test_uniform_logits(device: torch.device) -> None:
    hidden = torch.zeros(7, D, device=device)
    loss = linear_cross_entropy(hidden, torch.randn(50, D, device=device), None, torch.arange(7, device=device))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(50), abs=1e-6)


def test_large_logits_do_not_overflow(device: torch.device) -> None:
    weight = torch.eye(4, device=device) * 1e4
    hidden = torch.eye(4, device=device)[:2].requires_grad_()
    loss = linear_cross_entropy(hidden, weight, None, torch.tensor([0, 3], device=device))
    (grad,) = torch.autograd.grad(loss, hidden)
    assert loss.item() == pytest.approx(5e3)  # losses 0 and 10,000
    assert torch.equal(grad.cpu(), torch.tensor([[0, 0, 0, 0], [0, 5e3, 0, -5e3]]))


def test_wide_parameters(device: torch.device) -> None:
    """Half-precision positions with float32 master weights: gradients come back in each tensor's dtype."""
    hidden = draw(33, D, dtype=torch.bfloat16, device=device)
    weight = draw(200, D, dtype=torch.float32, device=device, scale=0.2)
    targets = torch.randint(200, (33,))
    rounded = weight.detach().bfloat16().float().requires_grad_()
    assert_parity(
        lambda h, w: linear_cross_entropy(h, w, None, targets.to(h.device)),
        lambda h, w: linear_cross_entropy_reference(h, w, None, targets),
        [hidden, rounded],
        torch.bfloat16,
    )


def test_without_gradient_and_with_frozen_decoder(device: torch.device) -> None:
    hidden, weight = torch.randn(9, D, device=device), torch.randn(100, D, device=device)
    targets = torch.randint(100, (9,)).to(device)
    want = linear_cross_entropy_reference(hidden, weight, None, targets)
    with torch.no_grad():
        torch.testing.assert_close(linear_cross_entropy(hidden, weight, None, targets), want)
    loss = linear_cross_entropy(hidden.requires_grad_(), weight, None, targets)
    torch.testing.assert_close(loss, want)
    assert torch.autograd.grad(loss, hidden)[0].isfinite().all()


def test_backward_twice(device: torch.device) -> None:
    hidden = draw(9, D, dtype=torch.float32, device=device)
    weight, targets = torch.randn(100, D, device=device), torch.randint(100, (9,)).to(device)
    loss = linear_cross_entropy(hidden, weight, None, targets)
    first, second = (torch.autograd.grad(3 * loss, hidden, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_under_autocast() -> None:
    hidden, weight = draw(9, D, dtype=torch.float32, device=torch.device("cpu")), torch.randn(100, D)
    targets = torch.randint(100, (9,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(hidden, weight, None, targets)
    want = linear_cross_entropy_reference(hidden, weight, None, targets)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(want.item(), rel=2e-2)
    assert torch.autograd.grad(loss, hidden)[0].dtype == torch.float32


@pytest.mark.usefixtures("small_chunks")
def test_never_holds_all_logits() -> None:
    """The largest tensor any operation makes is the gradient of the positions, not (M, V) logits."""

    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            self.numel = max(self.numel, out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    hidden, weight = torch.randn(2000, D).requires_grad_(), torch.randn(1000, D).requires_grad_()
    with Largest() as largest:
        linear_cross_entropy(hidden, weight, None, torch.randint(1000, (2000,))).backward()
    assert largest.numel == 2000 * D


@pytest.mark.usefixtures("small_chunks")
def test_gradcheck() -> None:
    hidden, weight, bias = (torch.randn(*s).double().requires_grad_() for s in ((5, 4), (6, 4), (6,)))
    targets = torch.randint(6, (5,))
    assert torch.autograd.gradcheck(lambda *x: linear_cross_entropy(*x, targets), (hidden, weight, bias))


@pytest.mark.parametrize(
    ("hidden", "bias", "targets", "message"),
    [
        (torch.ones(2, 3), None, torch.tensor([0, 1]), r"hidden is \(2, 3\), weight \(9, 4\)"),
        (torch.ones(2, 4), torch.ones(4), torch.tensor([0, 1]), r"bias has shape \(4,\); give \(9,\)"),
        (torch.ones(2, 4), None, torch.tensor([0, 9]), r"targets from 0 to 9.*in \[0, 9\)"),
        (
            torch.ones(2, 4),
            None,
            torch.tensor([-100, 1]),
            "targets from -100 to 1; give masked positions only",
        ),
        (torch.ones(2, 4), None, torch.tensor([0]), r"targets are \(1,\)"),
        (torch.ones(2, 4), None, torch.tensor([0, 1]).int(), r"targets are \(2,\) torch.int32"),
        (torch.ones(0, 4), None, torch.tensor([]).long(), "no masked position"),
        (torch.ones(2, 4, device="meta"), None, torch.tensor([0, 1]), "weight is on cpu, the rest on meta"),
    ],
)
def test_refused(hidden: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        linear_cross_entropy(hidden, torch.ones(9, 4), bias, targets)
