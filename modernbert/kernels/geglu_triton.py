"""Exact-erf GeGLU in Triton, forward and backward, one pass over memory each. Contract: `geglu.py`.

So far tested through Triton's interpreter and compiled for Hopper; not yet run on a GPU.
"""
# ruff: noqa: N803 (compile-time arguments in capitals, as Triton writes them)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from modernbert.kernels import dispatch


def geglu(x: Tensor) -> Tensor:
    """Triton form of `modernbert.kernels.geglu`."""
    return _GeGLU.apply(x)


class _GeGLU(torch.autograd.Function):
    """Keeps only its input and computes the GELU again in the backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x)
        tokens, features = x.shape[0], x.shape[1] // 2
        out = x.new_empty(tokens, features)
        grid, rows, block = _tile(tokens, features)
        with dispatch.on_device_of(x):
            _forward[grid](x, out, tokens, features, ROWS=rows, BLOCK=block, num_warps=4)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        tokens, features = grad.shape
        grad_x = torch.empty_like(x)
        grid, rows, block = _tile(tokens, features)
        with dispatch.on_device_of(x):
            _backward[grid](x, grad.contiguous(), grad_x, tokens, features, ROWS=rows, BLOCK=block, num_warps=4)
        return grad_x


@triton.jit
def _forward(x_ptr, out_ptr, tokens, features, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask = (row < tokens) & (col < features)
    at = row * (2 * features) + col
    gated = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x_ptr + at + features, mask=mask, other=0.0).to(tl.float32)
    gelu = gated * 0.5 * (1.0 + tl.erf(gated * 0.7071067811865476))  # 1/sqrt(2)
    tl.store(out_ptr + row * features + col, (gelu * gate).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward(x_ptr, grad_ptr, grad_x_ptr, tokens, features, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    col = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[None, :]
    mask = (row < tokens) & (col < features)
    at = row * (2 * features) + col
    gated = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x_ptr + at + features, mask=mask, other=0.0).to(tl.float32)
    grad = tl.load(grad_ptr + row * features + col, mask=mask, other=0.0).to(tl.float32)
    below = 0.5 * (1.0 + tl.erf(gated * 0.7071067811865476))  # normal cumulative distribution
    density = 0.3989422804014327 * tl.exp(-0.5 * gated * gated)  # normal density, 1/sqrt(2 pi)
    grad_gated = grad * gate * (below + gated * density)
    grad_gate = grad * gated * below
    tl.store(grad_x_ptr + at, grad_gated.to(grad_x_ptr.dtype.element_ty), mask=mask)
    tl.store(grad_x_ptr + at + features, grad_gate.to(grad_x_ptr.dtype.element_ty), mask=mask)


def _tile(tokens: int, features: int) -> tuple[tuple[int, int], int, int]:
    """Grid, rows and columns of a tile: 2,048 values; tokens on the axis that may pass 65,535 programs."""
    block = min(1024, triton.next_power_of_2(features))
    rows = max(1, 2048 // block)
    return (triton.cdiv(tokens, rows), triton.cdiv(features, block)), rows, block
