"""LayerNorm and residual add + LayerNorm in Triton, forward and backward. Contract: `layer_norm.py`.

A program holds whole rows in registers, so a row is read once each way. The weight's gradient is summed over
the rows of a program first, then over programs: no atomics, the same bits every run.
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

from modernbert.errors import BackendError
from modernbert.kernels import dispatch

MAX_FEATURES = 16384  # a float32 row of 64 KiB: what a program's registers take without spilling much


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """Triton form of `modernbert.kernels.layer_norm`."""
    return _Norm.apply(None, x, weight, bias, eps)[1]


def add_layer_norm(
    residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """Triton form of `modernbert.kernels.add_layer_norm`."""
    return _Norm.apply(residual, x, weight, bias, eps)


class _Norm(torch.autograd.Function):
    """(residual + x, its norm); without a residual the first is None. Keeps the sum, the means and 1/std."""

    @staticmethod
    def forward(
        ctx: Any, residual: Tensor | None, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float
    ) -> tuple[Tensor | None, Tensor]:
        x, weight = x.contiguous(), weight.contiguous()
        n, d = x.shape
        total = x
        if residual is not None:
            residual = residual.contiguous()
            total = x.new_empty(n, d, dtype=torch.promote_types(residual.dtype, x.dtype))
        out = torch.empty_like(x)
        mean, rstd = x.new_empty(2, n, dtype=torch.float32)
        rows, block, warps = _tile(d)
        with dispatch.on_device_of(x):
            _forward[(triton.cdiv(n, rows),)](
                x, residual, weight, None if bias is None else bias.contiguous(), total, out, mean, rstd,
                n, d, eps, ADD=residual is not None, BIAS=bias is not None, ROWS=rows, BLOCK=block,
                num_warps=warps,
            )  # fmt: skip
        ctx.save_for_backward(total, weight, mean, rstd)
        ctx.dtypes = tuple(None if t is None else t.dtype for t in (residual, x, bias))
        ctx.set_materialize_grads(False)
        return (None if residual is None else total), out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_total: Tensor | None, grad_out: Tensor | None) -> tuple[Tensor | None, ...]:
        total, weight, mean, rstd = ctx.saved_tensors
        residual_dtype, x_dtype, bias_dtype = ctx.dtypes
        n, d = total.shape
        grad_out = total.new_zeros(n, d, dtype=x_dtype) if grad_out is None else grad_out.contiguous()
        grad_total = None if grad_total is None else grad_total.contiguous()
        grad_in = torch.empty_like(total)
        rows, block, warps = _tile(d)
        programs = dispatch.num_programs(total, most=triton.cdiv(n, rows))
        partial = total.new_empty(2, programs, d, dtype=torch.float32)  # of weight, of bias
        with dispatch.on_device_of(total):
            _backward[(programs,)](
                total, weight, mean, rstd, grad_out, grad_total, grad_in, partial[0], partial[1], n, d,
                STREAM=grad_total is not None, BIAS=bias_dtype is not None, ROWS=rows, BLOCK=block,
                num_warps=warps,
            )  # fmt: skip
        grad_residual = None if residual_dtype is None else grad_in.to(residual_dtype)
        grad_bias = None if bias_dtype is None else partial[1].sum(0).to(bias_dtype)
        return grad_residual, grad_in.to(x_dtype), partial[0].sum(0).to(weight.dtype), grad_bias, None


@triton.jit
def _forward(
    x_ptr, residual_ptr, weight_ptr, bias_ptr, total_ptr, out_ptr, mean_ptr, rstd_ptr, n, d, eps,
    ADD: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)  # int64: n * d may pass 2^31
    col = tl.arange(0, BLOCK)
    mask = (row < n)[:, None] & (col < d)[None, :]
    at = row[:, None] * d + col[None, :]
    x = tl.load(x_ptr + at, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(residual_ptr + at, mask=mask, other=0.0).to(tl.float32)
        # Normalise the sum as it is stored, rounded: the backward sees no other.
        x = x.to(total_ptr.dtype.element_ty)
        tl.store(total_ptr + at, x, mask=mask)
        x = x.to(tl.float32)
    mean = tl.sum(x, axis=1) / d
    centred = tl.where(mask, x - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / d + eps)
    tl.store(mean_ptr + row, mean, mask=row < n)
    tl.store(rstd_ptr + row, rstd, mask=row < n)
    y = centred * rstd[:, None] * tl.load(weight_ptr + col, mask=col < d, other=0.0).to(tl.float32)[None, :]
    if BIAS:
        y += tl.load(bias_ptr + col, mask=col < d, other=0.0).to(tl.float32)[None, :]
    tl.store(out_ptr + at, y.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _backward(
    total_ptr, weight_ptr, mean_ptr, rstd_ptr, grad_out_ptr, grad_total_ptr, grad_in_ptr,
    weight_partial_ptr, bias_partial_ptr, n, d,
    STREAM: tl.constexpr, BIAS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    col = tl.arange(0, BLOCK)
    weight = tl.load(weight_ptr + col, mask=col < d, other=0.0).to(tl.float32)
    weight_sum = tl.zeros((BLOCK,), tl.float32)
    bias_sum = tl.zeros((BLOCK,), tl.float32)
    for start in range(program * ROWS, n, tl.num_programs(0) * ROWS):
        row = tl.cast(start, tl.int64) + tl.arange(0, ROWS)
        mask = (row < n)[:, None] & (col < d)[None, :]
        at = row[:, None] * d + col[None, :]
        x = tl.load(total_ptr + at, mask=mask, other=0.0).to(tl.float32)
        grad = tl.load(grad_out_ptr + at, mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + row, mask=row < n, other=0.0)
        rstd = tl.load(rstd_ptr + row, mask=row < n, other=0.0)
        normed = tl.where(mask, (x - mean[:, None]) * rstd[:, None], 0.0)
        weighted = grad * weight[None, :]
        along = tl.sum(weighted * normed, axis=1) / d
        across = tl.sum(weighted, axis=1) / d
        grad_in = (weighted - across[:, None] - normed * along[:, None]) * rstd[:, None]
        if STREAM:
            grad_in += tl.load(grad_total_ptr + at, mask=mask, other=0.0).to(tl.float32)
        tl.store(grad_in_ptr + at, grad_in.to(grad_in_ptr.dtype.element_ty), mask=mask)
        weight_sum += tl.sum(grad * normed, axis=0)
        if BIAS:
            bias_sum += tl.sum(grad, axis=0)
    tl.store(weight_partial_ptr + program * d + col, weight_sum, mask=col < d)
    if BIAS:
        tl.store(bias_partial_ptr + program * d + col, bias_sum, mask=col < d)


def _tile(d: int) -> tuple[int, int, int]:
    """Rows a program holds, padded features, warps: about 4,096 values a program, 16 to 32 a thread."""
    if d > MAX_FEATURES:
        raise BackendError(f"layer_norm: {d} features; the Triton kernel holds at most {MAX_FEATURES}")
    block = triton.next_power_of_2(d)
    rows = max(1, 4096 // block)
    return rows, block, min(16, max(4, rows * block // 1024))
