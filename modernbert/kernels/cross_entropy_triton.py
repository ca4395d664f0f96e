"""Row-wise cross-entropy in Triton: loss and gradient of a chunk of logits. Contract: `cross_entropy.py`.

One program walks a row of V logits twice: once for the running maximum and sum of exponentials (Milakov,
Gimelshein, "Online normalizer calculation for softmax", arXiv:1805.02867), once to write the gradient.
So far tested through Triton's interpreter and compiled for Hopper; not yet run on a GPU.
"""
# ruff: noqa: N803 (compile-time arguments in capitals, as Triton writes them)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from modernbert.kernels import dispatch


def loss_and_gradient_(logits: Tensor, targets: Tensor, gradient: bool) -> Tensor:
    """Losses (R,) float32 of contiguous `logits` (R, V), which become softmax - onehot where `gradient`."""
    rows, vocabulary = logits.shape
    losses = logits.new_empty(rows, dtype=torch.float32)
    block = min(4096, triton.next_power_of_2(vocabulary))
    with dispatch.on_device_of(logits):
        _row[(rows,)](
            logits, targets.contiguous(), losses, vocabulary,
            GRADIENT=gradient, BLOCK=block, num_warps=max(1, block // 512),
        )  # fmt: skip
    return losses


@triton.jit
def _row(logits_ptr, targets_ptr, losses_ptr, vocabulary, GRADIENT: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * vocabulary
    col = tl.arange(0, BLOCK)
    target = tl.load(targets_ptr + row)
    known = (target >= 0) & (target < vocabulary)
    # Read before the first reduction: its barrier keeps every warp's read ahead of the writes below.
    hit = tl.load(logits_ptr + target, mask=known, other=float("nan")).to(tl.float32)
    top = float("-inf")
    total = 0.0
    for start in range(0, vocabulary, BLOCK):
        mask = start + col < vocabulary
        x = tl.load(logits_ptr + start + col, mask=mask, other=float("-inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(x, axis=0))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(x - new_top), axis=0)
        top = new_top
    tl.store(losses_ptr + row, top + tl.log(total) - hit)
    if GRADIENT:
        for start in range(0, vocabulary, BLOCK):
            mask = start + col < vocabulary
            x = tl.load(logits_ptr + start + col, mask=mask, other=float("-inf")).to(tl.float32)
            grad = tl.exp(x - top) / total - tl.where(start + col == target, 1.0, 0.0)
            tl.store(logits_ptr + start + col, grad.to(logits_ptr.dtype.element_ty), mask=mask)
