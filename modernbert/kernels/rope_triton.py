"""RoPE on packed QKV in Triton, adjacent pairs; its backward is the same kernel with the sine's sign turned.

One program rotates the queries and keys of one token, all heads, and reads its cosines once. In place v is
never touched; out of place (the backward) it is copied by the same program.
So far tested through Triton's interpreter and compiled for Hopper; not yet run on a GPU.
"""
# ruff: noqa: N803 (compile-time arguments in capitals, as Triton writes them)

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from modernbert.kernels import dispatch


def rotate(source: Tensor, target: Tensor, cos: Tensor, sin: Tensor, conjugate: bool) -> None:
    """Write contiguous `source` (T, 2 or 3, H, d), q and k rotated, into `target`, which may be `source`."""
    tokens, parts, heads, d = source.shape
    in_place = source.data_ptr() == target.data_ptr()
    rows = (2 if in_place else parts) * heads
    block_rows, block = triton.next_power_of_2(rows), triton.next_power_of_2(d)
    warps = min(8, max(1, block_rows * block // 512))  # 16 values a thread
    with dispatch.on_device_of(source):
        _rotate[(tokens,)](
            source, target, cos.contiguous(), sin.contiguous(), rows, 2 * heads, parts * heads * d, d,
            CONJUGATE=conjugate, ROWS=block_rows, BLOCK=block, num_warps=warps,
        )  # fmt: skip


@triton.jit
def _rotate(
    source_ptr, target_ptr, cos_ptr, sin_ptr, rows, turned, stride, d,
    CONJUGATE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ROWS)[:, None]  # heads of q, of k, of v
    col = tl.arange(0, BLOCK)[None, :]
    mask = (row < rows) & (col < d)
    at = token * stride + row * d + col
    x = tl.load(source_ptr + at, mask=mask, other=0.0).to(tl.float32)
    even, odd = tl.split(tl.reshape(x, (ROWS, BLOCK // 2, 2)))
    pair = tl.arange(0, BLOCK // 2)[None, :]
    turn = (row < turned) & (pair < d // 2)  # v turns by nothing: cos 1, sin 0
    cos = tl.load(cos_ptr + token * (d // 2) + pair + tl.zeros_like(row), mask=turn, other=1.0).to(tl.float32)
    sin = tl.load(sin_ptr + token * (d // 2) + pair + tl.zeros_like(row), mask=turn, other=0.0).to(tl.float32)
    if CONJUGATE:
        sin = -sin
    rotated = tl.reshape(tl.join(even * cos - odd * sin, odd * cos + even * sin), (ROWS, BLOCK))
    tl.store(target_ptr + at, rotated.to(target_ptr.dtype.element_ty), mask=mask)
