"""Attention of long sequences as a few large products of oneDNN a head, where those are twice as fast as MKL's.

torch's flash kernels multiply tiles by MKL: 76 to 84 GF/s of one thread on an EPYC of the Zen 5 family, whatever the
length. Scores of 512 queries against all keys fit a cache, and oneDNN makes and uses them at 160 to 210 GF/s. Flash
kernels over ours, forward and backward, float32, one thread (two threads: 1.3 to 1.6 from 512 tokens on):

| tokens | 12 heads of 32 | 4 heads of 64 | 12 heads of 64 |
|---|---|---|---|
| 256 | 1.05, 0.93 | 1.30, 1.19 | 1.29, 1.05 |
| 512 | 1.39, 1.38 | 1.59, 1.50 | 1.27, 1.63 |
| 1,024 | 1.37, 1.58 | 1.70, 1.70 | 1.60, 1.59 |
| 4,096 | 1.59, 1.58 | 1.68, 1.58 | 1.52, 1.37 |

The backward computes the probabilities again, from queries and keys alone: no logsumexp is kept.

Dimensions: C sequences of equal length S, H heads, d features of a head, R queries at a time.
"""

from __future__ import annotations

from itertools import product as pairs

import torch
from torch import Tensor

from modernbert.kernels import onednn
from modernbert.kernels.onednn import product

#: Shortest sequences for which it pays, and queries at a time.
SHORTEST, QUERIES = 512, 512


def pay(length: int) -> bool:
    """Whether full attention in sequences of `length` tokens is to be computed here."""
    return length >= SHORTEST and onednn.pays_twice()


def attend(q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
    """Queries, keys and values (C, H, S, d) float32 -> `out` (C, H, S, d), written in place; any strides."""
    for which in pairs(range(q.shape[0]), range(q.shape[1])):
        queries, keys, values = q[which] * _scale(q), k[which].contiguous(), v[which].t().contiguous()
        for part, into in zip(queries.split(QUERIES), out[which].split(QUERIES), strict=True):
            into.copy_(product(_probabilities(part, keys), values, None))


def attend_backward(
    grad_out: Tensor, q: Tensor, k: Tensor, v: Tensor, grad_q: Tensor, grad_k: Tensor, grad_v: Tensor
) -> None:
    """The gradient of `attend`: all (C, H, S, d) float32, the last three are written; any strides."""
    for which in pairs(range(q.shape[0]), range(q.shape[1])):
        queries, keys, values = q[which] * _scale(q), k[which].contiguous(), v[which].contiguous()
        across, wanted = keys.t().contiguous(), grad_out[which].contiguous()
        of_keys, of_values = (torch.zeros_like(across) for _ in range(2))  # (d, S)
        parts = zip(queries.split(QUERIES), wanted.split(QUERIES), grad_q[which].split(QUERIES), strict=True)
        for part, grad, into in parts:
            seen = _probabilities(part, keys)  # (R, S)
            of_values.add_(product(grad.t(), seen.t(), None))
            scores = product(grad, values, None)  # the gradient of `seen`; then that of the scores
            torch.ops.aten._softmax_backward_data.out(scores, seen, -1, scores.dtype, grad_input=scores)
            of_keys.add_(product(part.t(), scores.t(), None))
            into.copy_(product(scores, across, None).mul_(_scale(q)))
        grad_k[which].copy_(of_keys.t())
        grad_v[which].copy_(of_values.t())


def _probabilities(queries: Tensor, keys: Tensor) -> Tensor:
    """(R, d) scaled queries and (S, d) keys -> (R, S)."""
    scores = product(queries, keys, None)
    return torch.softmax(scores, -1, out=scores)


def _scale(q: Tensor) -> float:
    return float(q.shape[-1] ** -0.5)
