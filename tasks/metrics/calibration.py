"""Calibration, streaming: reliability bins, expected calibration error, and the temperature that mends it.

Temperature scaling (Guo et al. 2017, arXiv:1706.04599) divides the logits by the T that gives the least
negative log-likelihood. In b = 1/T the likelihood is convex with the slope sum(E_p[z] - z_gold) and the
curvature sum(Var_p[z]), p = softmax(b z). Both are summed on a fixed grid of temperatures, T = 1 among them,
and the root of the slope is found on the cubic Hermite curve through the two grid points around it: no logits
are kept, and the fit agrees with a direct one to about 1e-4 (tested).

Dimensions: B rows, L labels, G temperatures of the grid, M reliability bins.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .report import fixed, unfixed

BINS = 15  # the paper's M

# Temperatures 1/4 .. 4, neighbours 9% apart. A model that separates its rows perfectly gets the lowest.
GRID = 2.0 ** np.linspace(-2.0, 2.0, 33)
UNSCALED = 16  # GRID[UNSCALED] is 1

# Work on at most this many numbers at a time (1 MB of fp32), which a core's cache holds.
CHUNK_NUMBERS = 1 << 18

Array = NDArray[np.float64]


# The states of a report: the slope and the curvature, in fixed point; the rows and the right answers of each
# bin, at each temperature; the sums of the winning probability, in fixed point.
STATES = {
    "slopes": (len(GRID), 2),
    "reliable": (len(GRID), BINS, 2),
    "confidence": (len(GRID), BINS),
}


def grid_sums(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """What a batch of logits (B, L) fp32 and class numbers (B,) adds to each of STATES, int64."""
    zeros = partial(torch.zeros, dtype=torch.int64, device=logits.device)
    sums = {name: zeros(shape) for name, shape in STATES.items()}
    rows = max(1, CHUNK_NUMBERS // (len(GRID) * logits.shape[1]))
    for start in range(0, logits.shape[0], rows):
        _add_chunk(logits[start : start + rows], targets[start : start + rows], **sums)
    return sums


def summary(totals: dict[str, NDArray]) -> dict[str, float]:
    """`ece`, the fitted `temperature`, and `ece_calibrated` at it, from the summed STATES."""
    temperature = fit_temperature(totals["slopes"])
    bins = totals["reliable"], totals["confidence"]
    return {
        "ece": calibration_error(*bins),
        "ece_calibrated": calibration_error(*bins, temperature),
        "temperature": temperature,
    }


def _add_chunk(logits: Tensor, targets: Tensor, slopes: Tensor, reliable: Tensor, confidence: Tensor) -> None:
    inverse = torch.as_tensor(1.0 / GRID, dtype=torch.float32, device=logits.device)
    top, winner = logits.max(dim=1)
    centred = logits - top[:, None]  # (B, L), at most 0: no exponential overflows
    powers = torch.exp(centred[:, None, :] * inverse[:, None])  # (B, G, L)
    # Sums and no matrix product, which TF32 would round on a GPU; each (B, G).
    norm = powers.sum(dim=2)
    mean = (powers * centred[:, None, :]).sum(dim=2) / norm
    second = (powers * centred.square()[:, None, :]).sum(dim=2)
    slope = mean - centred.gather(1, targets[:, None])
    slopes += torch.stack([fixed(slope).sum(0), fixed(second / norm - mean.square()).sum(0)], dim=1)

    sure = 1.0 / norm  # (B, G): the probability of the winner, whose power is exp(0)
    # Bin m holds ((m - 1) / M, m / M], as in the paper.
    bins = (sure * BINS).ceil().sub_(1).clamp_(0, BINS - 1).long()
    cells = (bins + torch.arange(len(GRID), device=bins.device) * BINS).reshape(-1)
    right = (winner == targets).long()[:, None].expand_as(bins).reshape(-1)
    reliable.view(-1, 2).index_add_(0, cells, torch.stack([torch.ones_like(right), right], dim=1))
    confidence.view(-1).index_add_(0, cells, fixed(sure).reshape(-1))


def fit_temperature(slopes: NDArray) -> float:
    """The temperature of least negative log-likelihood, within GRID, from the summed slopes (G, 2)."""
    order = np.argsort(1.0 / GRID)
    b = (1.0 / GRID)[order]
    slope, curvature = unfixed(slopes)[order].T
    if slope[0] >= 0:  # even the highest temperature is too sure
        return float(GRID.max())
    if slope[-1] <= 0:  # every row is right, the surer the better
        return float(GRID.min())
    left = int(np.flatnonzero(slope < 0)[-1])
    return 1.0 / _hermite_root(b[left : left + 2], slope[left : left + 2], curvature[left : left + 2])


def _hermite_root(x: Array, y: Array, slope: Array) -> float:
    """Where the cubic through two points with the given slopes crosses 0 from below, by bisection."""
    width = x[1] - x[0]

    def curve(t: float) -> float:
        s = 1 - t
        ends = s * s * (1 + 2 * t) * y[0] + t * t * (1 + 2 * s) * y[1]
        return float(ends + width * s * t * (s * slope[0] - t * slope[1]))

    low, high = 0.0, 1.0
    for _ in range(50):  # to the last bit of a float64
        middle = (low + high) / 2
        low, high = (middle, high) if curve(middle) < 0 else (low, middle)
    return float(x[0] + width * (low + high) / 2)


def calibration_error(reliable: NDArray, confidence: NDArray, temperature: float = 1.0) -> float:
    """Expected calibration error at a temperature from the summed STATES.

    Exact at a temperature of GRID. Between two of them the gap of each bin is interpolated in log T, which is
    within about 0.002 of the error of stored logits for 3,000 rows, below what another sample would change.
    """
    place = np.clip(np.interp(np.log(temperature), np.log(GRID), np.arange(len(GRID))), 0, len(GRID) - 1)
    left, right = int(np.floor(place)), int(np.ceil(place))
    gap = reliable[:, :, 1] - unfixed(confidence)  # (G, M)
    between = gap[left] + (place - left) * (gap[right] - gap[left])
    return float(np.abs(between).sum() / reliable[UNSCALED, :, 0].sum())


def reliability(totals: dict[str, NDArray]) -> list[dict[str, Any]]:
    """The M bins at T = 1: `low`, `high`, `count`, mean `confidence` and `accuracy` (None if empty)."""
    rows, right = totals["reliable"][UNSCALED].T
    return _bin_rows(rows, right, unfixed(totals["confidence"][UNSCALED]))


def yes_no_summary(pos: NDArray, neg: NDArray, scores: Array) -> dict[str, float]:
    """What `summary` gives, for yes/no decisions from a histogram of their logits.

    Args: pos, neg (N,) decisions with gold yes and no in each cell; scores (N,) the logit at its centre.
    A cell of width w changes the likelihood by less than w^2 / 30 a decision.
    """
    temperature = _yes_no_temperature(pos, neg, scores)

    def error(logits: Array) -> float:
        rows, right, confidence = _yes_no_bins(pos, neg, logits)
        return float(np.abs(right - confidence).sum() / rows.sum())

    return {"ece": error(scores), "ece_calibrated": error(scores / temperature), "temperature": temperature}


def yes_no_reliability(pos: NDArray, neg: NDArray, scores: Array) -> list[dict[str, Any]]:
    """What `reliability` gives, from a histogram as in `yes_no_summary`."""
    return _bin_rows(*_yes_no_bins(pos, neg, scores))


def _yes_no_temperature(pos: NDArray, neg: NDArray, scores: Array) -> float:
    def slope(b: float) -> float:  # of the negative log-likelihood in b = 1/T; it rises
        return float(scores @ ((pos + neg) * _sigmoid(b * scores) - pos))

    low, high = 1.0 / GRID.max(), 1.0 / GRID.min()
    if slope(low) >= 0:
        return 1.0 / low
    if slope(high) <= 0:
        return 1.0 / high
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return 2.0 / (low + high)


def _yes_no_bins(pos: NDArray, neg: NDArray, scores: Array) -> tuple[Array, Array, Array]:
    """Rows, right answers and summed confidence of the M bins."""
    sure = _sigmoid(np.abs(scores))
    cells = np.clip(np.ceil(sure * BINS) - 1, 0, BINS - 1).astype(np.int64)
    rows = (pos + neg).astype(np.float64)
    right = np.where(scores >= 0, pos, neg).astype(np.float64)

    def by_bin(values: Array) -> Array:
        return np.bincount(cells, weights=values, minlength=BINS).astype(np.float64)

    return by_bin(rows), by_bin(right), by_bin(rows * sure)


def _sigmoid(x: Array | float) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(x)))  # no overflow at either end


def _bin_rows(rows: NDArray, right: NDArray, confidence: Array) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = []
    for m, (count, hits, sure) in enumerate(
        zip(rows.tolist(), right.tolist(), confidence.tolist(), strict=True)
    ):
        result.append(
            {
                "low": m / BINS,
                "high": (m + 1) / BINS,
                "count": int(count),
                "confidence": sure / count if count else None,
                "accuracy": hits / count if count else None,
            }
        )
    return result
