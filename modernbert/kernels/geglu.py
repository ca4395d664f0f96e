"""GeGLU with the exact (erf) GELU: gelu(first half) * second half.

T tokens, F features. ModernBERT uses the erf form; the tanh form differs by up to 4.7e-4 and is not offered.
Source: Shazeer, "GLU Variants Improve Transformer", arXiv:2002.05202.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from modernbert.errors import BackendError
from modernbert.kernels import dispatch
from modernbert.kernels.overwrite import gelu_, may_overwrite

# The CPU backward makes four passes over its work: in chunks of 512 KiB (float32) they stay in cache. With the
# forward, on one thread, against the whole at once: 1.3 times faster at 8,192 x 1,152, equal at 2,048 x 384.
CHUNK_VALUES = 2**17


def geglu(x: Tensor, inplace: bool = False) -> Tensor:
    """gelu(x[:, :F]) * x[:, F:] of `x` (T, 2F) -> (T, F), keeping only `x` for the backward.

    Args:
        inplace: nobody reads `x` again: where no gradient is asked for, the result may be a part of its memory.

    Raises:
        BackendError: `x` is not a floating (T, 2F).
    """
    if x.dim() != 2 or x.shape[1] % 2:
        raise BackendError(f"geglu: x has shape {tuple(x.shape)}; give (T, 2F): gated half, then gate")
    dispatch.check_floats("geglu", x=x)
    if dispatch.runs_triton(x):
        from modernbert.kernels import geglu_triton

        return geglu_triton.geglu(x)
    if inplace and may_overwrite(x):
        gated, gate = x.chunk(2, dim=1)
        return gelu_(gated).mul_(gate)
    return _Recompute.apply(x)


def geglu_reference(x: Tensor) -> Tensor:
    """The definition, as autograd would run it: it keeps gelu(gated) beside `x`."""
    gated, gate = x.chunk(2, dim=1)
    return F.gelu(gated) * gate


class _Recompute(torch.autograd.Function):
    """Saves `x` alone and computes the GELU again in the backward: T x F values fewer kept for each layer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        gated, gate = x.chunk(2, dim=1)
        return F.gelu(gated).mul_(gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        grad_x = torch.empty_like(x)
        rows = max(1, CHUNK_VALUES // grad.shape[1]) if x.device.type == "cpu" else max(1, len(x))
        buffer = torch.empty_like(grad[:rows])
        for start in range(0, len(x), rows):
            chunk = slice(start, start + rows)
            gated, gate = x[chunk].chunk(2, dim=1)
            grad_gated, grad_gate = grad_x[chunk].chunk(2, dim=1)
            work = buffer[: len(gated)]
            torch.ops.aten.gelu.out(gated, out=work)
            torch.mul(work, grad[chunk], out=grad_gate)
            torch.mul(gate, grad[chunk], out=work)
            torch.ops.aten.gelu_backward.grad_input(work, gated, approximate="none", grad_input=grad_gated)
        return grad_x
