"""Attention on the CPU: torch's flash kernels on strided views of the packed projections, without a copy.

scaled_dot_product_attention reaches the same kernels, but its gradients come back through autograd views of
(T, 3, H, d), one buffer of zeros for each; here each block writes its part of one gradient. The two operators
are private to torch: `attention.choose` proves them against the reference before the first use. Long sequences that see
all of themselves go by `attention.products` on the CPUs where that is faster.

Dimensions: T tokens, H heads, d features of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modernbert.attention import products
from modernbert.attention.layout import Block, Layout, Segment

# Queries in a chunk of a sliding layer. The forward kernel works on tiles of 32 queries: with ModernBERT's window of
# 64, chunks of 32 read 160 keys of which 129 count, chunks of 64 read 192 and are 14% slower. Backward, the narrower
# matrix products cost more than the keys save: 138 against 117 ms (4,096 tokens, 12 heads of 64, one thread).
CHUNK_INFERENCE, CHUNK_TRAINING = 32, 64


# The backward kernel in bf16 has an overhead a head and sequence: 28 sequences of 16 tokens, 12 heads of 32, take 62 ms
# against 9 in fp32 (Xeon with AMX, one thread, torch 2.13). From about a thousand tokens of global attention its matrix
# products pay: 1,024 tokens of 64 features 382 against 610 ms, 4,096 tokens 1,597 against 3,230.
HALF_BACKWARD = 1024


def flash_cpu(qkv: Tensor, layout: Layout, window: int | None) -> Tensor:
    """(T, 3, H, d) contiguous -> (T, H, d)."""
    trains = torch.is_grad_enabled() and qkv.requires_grad
    if qkv.dtype in (torch.bfloat16, torch.float16):
        short = trains and (window is not None or layout.max_seqlen < HALF_BACKWARD)
        if short or (window is None and products.pay(layout.max_seqlen)):
            return flash_cpu(qkv.float(), layout, window).to(qkv.dtype)
    if trains:
        return _Attention.apply(qkv, layout.segments(window, qkv.dtype, CHUNK_TRAINING))
    return _forward(qkv, layout.segments(window, qkv.dtype, CHUNK_INFERENCE))[0]


class _Attention(torch.autograd.Function):
    """Saves qkv, the output and at most one logsumexp a block: O(T), whatever the lengths."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, segments: tuple[Segment, ...]) -> Tensor:
        out, normalisers = _forward(qkv, segments)
        ctx.save_for_backward(qkv, out, *normalisers)
        ctx.segments = segments
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None]:
        qkv, out, *normalisers = ctx.saved_tensors
        return _backward(grad_out.contiguous(), qkv, out, normalisers, ctx.segments), None


def _forward(qkv: Tensor, segments: tuple[Segment, ...]) -> tuple[Tensor, list[Tensor | None]]:
    """(T, H, d), and what the backward needs of each block: its logsumexp, or None where it makes it again."""
    tokens, _, heads, dim = qkv.shape
    normalisers: list[Tensor | None] = []
    out = None
    for segment in segments:
        for block in segment.blocks:
            q, k, v = _views(qkv, segment, block)
            if _is_long(qkv, block):
                out = qkv.new_empty(tokens, heads, dim) if out is None else out
                products.attend(q, k, v, _queries(out, segment, block))
                normalisers.append(None)
                continue
            piece, normaliser = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q, k, v, attn_mask=block.full_mask
            )
            normalisers.append(normaliser)
            if block.count * block.q_len == tokens:
                return piece.transpose(1, 2).reshape(tokens, heads, dim), normalisers
            out = qkv.new_empty(tokens, heads, dim) if out is None else out
            _queries(out, segment, block).copy_(piece)
    assert out is not None  # a pack has at least one sequence
    return out, normalisers


def _backward(
    grad_out: Tensor, qkv: Tensor, out: Tensor, normalisers: list[Tensor | None], segments: tuple[Segment, ...]
) -> Tensor:
    grad = torch.empty_like(qkv)
    remaining = iter(normalisers)
    for segment in segments:
        shared = any(block.overlaps for block in segment.blocks)
        if shared:
            grad[segment.start : segment.stop, 1:].zero_()
        for block in segment.blocks:
            q, k, v = _views(qkv, segment, block)
            normaliser = next(remaining)
            if normaliser is None:
                wanted = _queries(grad_out, segment, block)
                products.attend_backward(wanted, q, k, v, *_views(grad, segment, block))
                continue
            grads = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                _queries(grad_out, segment, block), q, k, v, _queries(out, segment, block), normaliser,
                0.0, False, attn_mask=block.full_mask,
            )  # fmt: skip
            if not shared:
                for target, value in zip(_views(grad, segment, block), grads, strict=True):
                    target.copy_(value)
                continue
            _queries(grad[:, 0], segment, block).copy_(grads[0])
            for which, value in ((1, grads[1]), (2, grads[2])):
                _overlap_add(grad[segment.start : segment.stop, which], value, block)
    return grad


def _is_long(qkv: Tensor, block: Block) -> bool:
    return block.mask is None and qkv.dtype == torch.float32 and products.pay(block.q_len)


def _overlap_add(target: Tensor, value: Tensor, block: Block) -> None:
    """Add the (count, H, k_len, d) gradients of overlapping key pieces to the segment's (S, H, d).

    Cut into stripes as long as the stride, each stripe of all pieces is a plain range of tokens: one addition
    a stripe, three for ModernBERT's window.
    """
    value = value.transpose(1, 2)  # (count, k_len, H, d)
    for first in range(0, block.k_len, block.q_len):
        stripe = value[:, first : first + block.q_len]
        start, rows = block.k_start + first, block.count * stripe.shape[1]
        target[start : start + rows].view(stripe.shape).add_(stripe)


def _views(qkv: Tensor, segment: Segment, block: Block) -> tuple[Tensor, Tensor, Tensor]:
    """q (count, H, q_len, d), k and v (count, H, k_len, d) of a block, as views of qkv."""
    row, _, head, _ = qkv.stride()
    which = qkv.stride(1)
    strides = (block.q_len * row, head, row, 1)
    base = qkv.storage_offset() + segment.start * row
    q_size = (block.count, qkv.shape[2], block.q_len, qkv.shape[3])
    k_size = (block.count, qkv.shape[2], block.k_len, qkv.shape[3])
    q = qkv.as_strided(q_size, strides, base + block.q_start * row)
    k = qkv.as_strided(k_size, strides, base + block.k_start * row + which)
    v = qkv.as_strided(k_size, strides, base + block.k_start * row + 2 * which)
    return q, k, v


def _queries(values: Tensor, segment: Segment, block: Block) -> Tensor:
    """The (count, H, q_len, d) view of a block's queries in (T, H, d) values."""
    start = segment.start + block.q_start
    rows = values[start : start + block.count * block.q_len]
    return rows.unflatten(0, (block.count, block.q_len)).transpose(1, 2)
