"""One comparison for every kernel: outputs and gradients against a reference computed in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Largest error allowed, relative to the largest true value (or 1): a few roundings of the dtype, whose unit
# roundoff is 6e-8, 4e-3 and 5e-4.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}
# Sizes about the tiles of the kernels; half precision at one ragged size, as the interpreter is slow.
ROWS_AND_DTYPES = [
    *((rows, torch.float32) for rows in (1, 63, 64, 65, 129)),
    (65, torch.bfloat16),
    (65, torch.float16),
]


def draw(*shape: int, dtype: torch.dtype, device: torch.device, scale: float = 1.0) -> Tensor:
    """A leaf of random values, drawn on CPU (the same numbers on every device) and rounded to `dtype`."""
    values = (torch.randn(*shape, dtype=torch.float64) * scale).to(device=device, dtype=dtype)
    return values.requires_grad_()


def assert_parity(
    kernel: Callable[..., Tensor | tuple[Tensor, ...]],
    reference: Callable[..., Tensor | tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    dtype: torch.dtype,
) -> None:
    """`kernel(*inputs)` and its gradients equal those of `reference` on the same values in float64."""
    exact = [x.detach().cpu().double().requires_grad_() for x in inputs]
    got, want = _tuple(kernel(*inputs)), _tuple(reference(*exact))
    pulls = [torch.randn(w.shape, dtype=torch.float64).to(g.dtype) for g, w in zip(got, want, strict=True)]
    got_grads = torch.autograd.grad(got, inputs, [p.to(g.device) for p, g in zip(pulls, got, strict=True)])
    want_grads = torch.autograd.grad(want, exact, [p.double() for p in pulls])
    for name, ours, truth in [
        *((f"output {i}", g, w) for i, (g, w) in enumerate(zip(got, want, strict=True))),
        *((f"gradient {i}", g, w) for i, (g, w) in enumerate(zip(got_grads, want_grads, strict=True))),
    ]:
        error = (ours.detach().cpu().double() - truth.detach()).abs().max().item()
        allowed = TOLERANCE[dtype] * max(1.0, truth.detach().abs().max().item())
        assert error <= allowed, f"{name}: error {error:.2e}, allowed {allowed:.2e}"
    for x, grad in zip(inputs, got_grads, strict=True):
        assert grad.dtype == x.dtype
        assert grad.shape == x.shape


def _tuple(values: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return values if isinstance(values, tuple) else (values,)
