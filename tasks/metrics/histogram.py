"""Ranking metrics and thresholds from histograms of scores, in memory that does not grow with the rows.

Scores are logits (for two classes the difference of the two). A bin is 2 * LIMIT / bins wide; scores beyond
+-LIMIT, probabilities within 1e-14 of 0 or 1, share the outermost bins. Scores of one bin count as tied, so
the results are those of scikit-learn on scores rounded to bins: exact where no two rows of different class
share a bin, and otherwise ROC-AUC is off by at most sum_b pos_b neg_b / (2 P N), half the share of tied
pairs.

Arrays are numpy, `pos` and `neg` (..., bins): rows with and without the label in each bin, lowest score
first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

LIMIT = 32.0
# Thresholds stay where fp32 probabilities still tell scores apart: sigmoid(+-12) is 6e-6 from 0 or 1.
THRESHOLD_LIMIT = 12.0

Array = NDArray[np.float64]


def bin_of(scores: Tensor, bins: int, limit: float = LIMIT) -> Tensor:
    """Bin numbers (int64, the shape of `scores`) of finite scores."""
    scaled = (scores.float() + limit) * (bins / (2 * limit))
    return scaled.floor().clamp_(0, bins - 1).long()


def centres(bins: int, limit: float = LIMIT) -> Array:
    """The score (bins,) in the middle of each bin."""
    return (np.arange(bins, dtype=np.float64) + 0.5) * (2 * limit / bins) - limit


def roc_auc(pos: NDArray, neg: NDArray) -> Array:
    """Area under the ROC curve (...), ties counted half; NaN where one of the classes is empty."""
    pos, neg = pos.astype(np.float64), neg.astype(np.float64)
    below = np.cumsum(neg, axis=-1) - neg
    pairs = pos.sum(-1) * neg.sum(-1)
    return _ratio((pos * (below + 0.5 * neg)).sum(-1), pairs)


def average_precision(pos: NDArray, neg: NDArray) -> Array:
    """Average precision (...): the sum of precision times the step in recall; NaN without a positive row."""
    hits = np.cumsum(pos[..., ::-1], axis=-1)[..., ::-1].astype(np.float64)  # rows at or above the bin
    taken = hits + np.cumsum(neg[..., ::-1], axis=-1)[..., ::-1]
    precision = np.divide(hits, taken, out=np.zeros_like(hits), where=taken > 0)
    return _ratio((pos * precision).sum(-1), pos.sum(-1).astype(np.float64))


def best_threshold(pos: NDArray, neg: NDArray, limit: float = LIMIT) -> float:
    """The logit at or above which saying yes gives the best F1 for one label; `pos`, `neg` (bins,).

    Between two neighbouring scores every threshold is as good: the middle of the widest best stretch is
    taken, which leaves the most room for scores not seen. 0 (probability 0.5) for a label without a positive
    row.
    """
    bins = len(pos)
    if not pos.sum():
        return 0.0
    hits = np.cumsum(pos[::-1])[::-1].astype(np.float64)
    taken = hits + np.cumsum(neg[::-1])[::-1]
    f1 = 2 * hits / (taken + pos.sum())
    seen = np.flatnonzero(pos + neg)
    # A cut below the lowest score seen, or above the highest, would move the middle with the limit of the
    # bins.
    best = np.flatnonzero(f1[seen[0] : seen[-1] + 1] >= f1.max() * (1 - 1e-12)) + seen[0]
    stretches = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    widest = max(stretches, key=len)
    # A cut at bin c says yes from c upwards; a whole bin, as equal F1 does not prove the bins between empty.
    middle = (int(widest[0]) + int(widest[-1]) + 1) // 2
    return float(np.clip(middle * (2 * limit / bins) - limit, -THRESHOLD_LIMIT, THRESHOLD_LIMIT))


def _ratio(top: NDArray, bottom: NDArray) -> Array:
    result: Array = np.full(np.shape(top), np.nan)
    return np.divide(top, bottom, out=result, where=bottom > 0)
