"""Two models on the same examples: the difference of a metric, its 95% interval, and how likely chance gives as much.

Each example gives a few numbers for each model (whether it was right; tp, fp, fn; its nDCG), and a metric is a function
of their sums, so F1 is compared as properly as a mean. The interval is the paired bootstrap: examples are drawn with
replacement, both models see the same draw. The p-value is that of the randomisation test: if the models were alike,
it would not matter which of the two gave which answer, so answers are swapped at random and the differences that arise
are counted (Noreen 1989; Smucker et al. 2007 recommend it for rankings, Yeh 2000 for F1).

N examples, K numbers of an example, R replicates; a leading `...` is nothing for the value itself and R for its
replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from modernbert.errors import BackendError

from . import bootstrap
from .report import no_rows

#: Random swaps: the smallest p-value that can be seen is 1 / (SWAPS + 1).
SWAPS = 10_000
#: Swaps times examples; above it fewer swaps are made (1,000 at 200,000 examples), as each takes time.
MOST_DRAWS = 200_000_000
FEWEST_SWAPS = 1000
#: Rounding may part differences that are equal.
TOLERANCE = 1e-12

Array = NDArray[np.float64]
Measures = Callable[[Array], Mapping[str, Array]]


@dataclass(frozen=True)
class Paired:
    """A metric of two models on the same examples; `difference` is that of the second less the first."""

    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float


def paired(first: NDArray, second: NDArray, seed: int = bootstrap.SEED) -> Paired:
    """Compare the means of one number an example, (N,) of each model."""
    total = len(first)
    found = paired_measures(first[:, None], second[:, None], lambda sums: {"mean": sums[..., 0] / total}, seed)
    return found["mean"]


def paired_measures(
    first: NDArray, second: NDArray, measures: Measures, seed: int = bootstrap.SEED
) -> dict[str, Paired]:
    """Compare metrics of two models.

    Args:
        first, second: (N, K) numbers of each example, of each model.
        measures: sums (..., K) of N examples to metrics (...) by name.

    Raises:
        BackendError: numbers of different shapes.
        DataError: no example.
    """
    if first.shape != second.shape or first.ndim != 2:
        raise BackendError(f"numbers of two models are {first.shape} and {second.shape}: both must be (N, K)")
    if not len(first):
        raise no_rows()
    first, second = first.astype(np.float64), second.astype(np.float64)
    own, other = measures(first.sum(0)), measures(second.sum(0))
    drawn, swapped = _bootstrapped(first, second, measures, seed), _randomised(first, second, measures, seed)
    found = {}
    for name in own:
        difference = float(other[name] - own[name])
        low, high = bootstrap.interval(drawn[name])
        at_least = int((np.abs(swapped[name]) >= abs(difference) - TOLERANCE).sum())
        p_value = (at_least + 1) / (len(swapped[name]) + 1)
        found[name] = Paired(float(own[name]), float(other[name]), difference, low, high, p_value)
    return found


def _bootstrapped(first: Array, second: Array, measures: Measures, seed: int) -> dict[str, Array]:
    """Differences (R,) of each metric, examples drawn with replacement."""
    parts = []
    for counts in bootstrap.resampled_counts(np.ones(len(first), dtype=np.int64), seed=seed):
        weights = counts.astype(np.float64)
        parts.append(_differences(weights @ first, weights @ second, measures))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _randomised(first: Array, second: Array, measures: Measures, seed: int) -> dict[str, Array]:
    """Differences (R,) of each metric, the models' answers swapped for a random half of the examples."""
    change = second - first
    change = change[(change != 0).any(axis=1)]  # where both answer alike a swap changes nothing
    swaps = min(SWAPS, max(FEWEST_SWAPS, MOST_DRAWS // max(len(change), 1)))
    rng = np.random.default_rng(seed)
    own, other = first.sum(0), second.sum(0)
    chunk = max(1, bootstrap.CHUNK_NUMBERS // max(len(change), 1))
    parts = []
    for start in range(0, swaps, chunk):
        moved = rng.integers(2, size=(min(chunk, swaps - start), len(change))).astype(np.float64) @ change
        parts.append(_differences(own + moved, other - moved, measures))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _differences(first: Array, second: Array, measures: Measures) -> dict[str, Array]:
    own, other = measures(first), measures(second)
    return {name: other[name] - own[name] for name in own}
