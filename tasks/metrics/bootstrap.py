"""95% intervals by the bootstrap (Efron and Tibshirani 1993, percentile method), from sums instead of stored
rows.

Three ways to the same resampling of examples, by what is at hand:

- `resampled_counts`: where the metric is a function of counts of examples in cells (a confusion matrix, a
  histogram of scores by class). Drawing N examples with replacement draws the counts from a multinomial over
  the cells, so this *is* the bootstrap over examples, at the cost of the cells and not of the rows.
- `poisson_weights`: where an example adds to several cells (multi-label). Each example enters each replicate
  Poisson(1) times (Chamandy et al. 2012, "Estimating uncertainty for massive data streams"), drawn by a hash
  of its index: the same whatever the order of the rows, the batches or the ranks.
- `group_of`: where a replicate would need a histogram of its own. Examples are dealt into groups by the hash
  of their index and whole groups are resampled.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

REPLICATES = 1000
LEVEL = 0.95
SEED = 0

# A chunk of resampled counts is at most this many numbers (32 MB of int64).
CHUNK_NUMBERS = 1 << 22

Array = NDArray[np.float64]


def interval(samples: NDArray) -> tuple[float, float]:
    """The central 95% of the replicates (R,); (NaN, NaN) where the metric was undefined in every one."""
    defined = samples[np.isfinite(samples)]
    if not len(defined):
        return math.nan, math.nan
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def mean_interval(total: float, total_of_squares: float, count: int) -> tuple[float, float]:
    """95% interval of a mean from its two sums, by the central limit theorem: the limit of its bootstrap."""
    mean = total / count
    spread = math.sqrt(max(total_of_squares / count - mean * mean, 0.0) / count)
    half = 1.959964 * spread  # the 97.5% point of the normal distribution
    return mean - half, mean + half


def resampled_counts(counts: NDArray, replicates: int = REPLICATES, seed: int = SEED) -> Iterator[NDArray]:
    """Bootstrap replicates of the counts (K,) of examples in K cells, in chunks (r, K); the r add up to R."""
    rng = np.random.default_rng(seed)
    total = int(counts.sum())
    chunk = max(1, CHUNK_NUMBERS // max(len(counts), 1))
    for start in range(0, replicates, chunk):
        yield rng.multinomial(total, counts / total, size=min(chunk, replicates - start))


def poisson_weights(index: Tensor, replicates: int = REPLICATES, seed: int = SEED) -> Tensor:
    """How often each example enters each replicate: (B, replicates) float32 whole numbers, Poisson(1).

    A function of (index, replicate, seed) alone. `index` (B,) int64 on any device.
    """
    words = -(-replicates // 4)  # four 16-bit draws a word
    stream = torch.arange(words, device=index.device, dtype=torch.int64) * _signed(0x9E3779B97F4A7C15)
    state = _mix(index.long() + seed * _signed(0xD1B54A32D192ED03))  # (B,)
    draws = _mix(state[:, None] + stream).view(torch.int16)[:, :replicates]
    return _poisson_table(index.device).index_select(0, (draws.reshape(-1).int() + 32768)).view(draws.shape)


def group_of(index: Tensor, groups: int) -> Tensor:
    """The group (B,) in 0 .. groups - 1 of each example: a hash of its index."""
    return _mix(index.long() + _signed(0xA0761D6478BD642F)) % groups  # the sign follows the divisor in torch


def group_weights(groups: int, replicates: int, seed: int = SEED) -> Array:
    """How often each group enters each replicate: (replicates, groups), each row adds up to `groups`."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(groups, np.full(groups, 1 / groups), size=replicates).astype(np.float64)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele et al. 2014), on int64 that wraps; >> is made logical by a mask."""
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(0x94D049BB133111EB)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _signed(word: int) -> int:
    """A 64-bit constant as the int64 with its bits."""
    return word - (1 << 64) if word >= 1 << 63 else word


@cache
def _poisson_table(device: torch.device) -> Tensor:
    """Poisson(1) by inversion for the 65,536 values of a 16-bit draw (the mean is 1 to 1e-4)."""
    cumulative = np.cumsum([math.exp(-1) / math.factorial(k) for k in range(12)])
    return torch.from_numpy(
        np.searchsorted(cumulative, (np.arange(65536) + 0.5) / 65536).astype(np.float32)
    ).to(device)
