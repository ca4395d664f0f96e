"""The highest score of each word over the tokens of a text, without all scores in memory at once.

T tokens, B texts, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

#: Logits (tokens times vocabulary) held at once: 64 MiB in fp32, 550 tokens of a vocabulary of 30,000.
CHUNK_LOGITS = 2**24


def segment_max_logits(hidden: Tensor, table: Tensor, cu_seqlens: Tensor) -> Tensor:
    """(B, V) fp32: for each text and word the highest hidden[t] @ table[v] over its tokens.

    Only CHUNK_LOGITS of the (T, V) products are ever in memory; the backward computes none of them again, since the
    gradient of a maximum goes to one token: the first of equal ones.

    Args:
        hidden: (T, D).
        table: (V, D).
        cu_seqlens: (B + 1,).
    """
    return _SegmentMax.apply(hidden, table, cu_seqlens)


class _SegmentMax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, table: Tensor, cu_seqlens: Tensor) -> Tensor:
        ends = cu_seqlens.tolist()
        best = hidden.new_full(
            (len(ends) - 1, len(table)), -torch.inf, dtype=torch.promote_types(hidden.dtype, torch.float32)
        )
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        winner = torch.zeros(best.shape, dtype=torch.int32, device=best.device) if keep else None
        for start, stop in _chunks(len(hidden), len(table)):
            logits = (hidden[start:stop] @ table.to(hidden.dtype).t()).to(best.dtype)
            for b in _touched(ends, start, stop):
                low, high = max(ends[b], start), min(ends[b + 1], stop)
                if winner is None:
                    torch.maximum(best[b], logits[low - start : high - start].amax(dim=0), out=best[b])
                    continue
                value, token = logits[low - start : high - start].max(dim=0)
                better = value > best[b]
                best[b] = torch.where(better, value, best[b])
                winner[b] = torch.where(better, (token + low).int(), winner[b])
        ctx.save_for_backward(hidden, table, winner)
        ctx.ends = ends
        return best

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        hidden, table, winner = ctx.saved_tensors
        grad_hidden = torch.zeros_like(hidden, dtype=grad.dtype)
        grad_table = torch.zeros_like(table, dtype=grad.dtype)
        wide = table.to(grad.dtype)
        for start, stop in _chunks(len(hidden), len(table)):
            pull = grad.new_zeros(stop - start, len(table))  # what each token won, times the gradient there
            for b in _touched(ctx.ends, start, stop):
                word = ((winner[b] >= start) & (winner[b] < stop) & (grad[b] != 0)).nonzero().squeeze(1)
                pull[winner[b, word].long() - start, word] = grad[b, word]
            grad_hidden[start:stop] = pull @ wide
            grad_table.addmm_(pull.t(), hidden[start:stop].to(grad.dtype))
        return grad_hidden.to(hidden.dtype), grad_table.to(table.dtype), None


def _chunks(tokens: int, words: int) -> list[tuple[int, int]]:
    step = max(1, CHUNK_LOGITS // words)
    return [(start, min(start + step, tokens)) for start in range(0, tokens, step)]


def _touched(ends: list[int], start: int, stop: int) -> list[int]:
    """Texts with a token in [start, stop)."""
    return [b for b in range(len(ends) - 1) if ends[b] < stop and ends[b + 1] > start]
