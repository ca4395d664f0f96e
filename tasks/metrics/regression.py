"""Metrics of scores: regression, and ordinal grades given by a score.

Correlations of ranks have no exact summary of fixed size, so this report alone keeps rows: 24 bytes each
(score, gold value and place; 24 MB for a million rows). Its values are exact, and its intervals resample the
rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modernbert.errors import BackendError, DataError

from . import bootstrap
from .rates import label_rows, put
from .report import Report, check_scores, no_rows

SCORED = ("mse", "rmse", "mae", "r2", "pearson", "spearman")
GRADED = ("accuracy", "qwk")

# From this many rows on 200 replicates do: an interval so narrow needs no third digit, and 1000 take seconds.
MANY_ROWS = 50_000
FEWER_REPLICATES = 200

Array = NDArray[np.float64]


class RegressionReport(Report):
    """MSE, RMSE, MAE, R2, Pearson and Spearman correlation; for grades also accuracy and quadratic weighted
    kappa.

    `grades`: the values of an ordinal scale, rising. A score then counts as the nearest grade (halfway: the
    higher). Under DDP the rows of all ranks are gathered.
    """

    rows: list[Tensor]

    def __init__(self, grades: Sequence[float] | None = None, headline: str | None = None) -> None:
        if headline is None:
            headline = "mse" if grades is None else "qwk"
        super().__init__(
            [f"{g:g}" for g in grades or ()], headline, (*SCORED, *(GRADED if grades is not None else ()))
        )
        self.grades = None if grades is None else np.asarray(grades, dtype=np.float64)
        if self.grades is not None and not (len(self.grades) > 1 and (np.diff(self.grades) > 0).all()):
            raise DataError(f"an ordinal scale needs two or more rising grades, not {list(grades or ())}")
        self.add_state("rows", [], dist_reduce_fx="cat")
        self._seed()
        self._columns: tuple[Array, Array] = (np.empty(0), np.empty(0))

    def reset(self) -> None:
        super().reset()
        self._seed()

    def _seed(self) -> None:
        # A rank without rows would else gather a float tensor of another shape (torchmetrics 1.9,
        # _sync_dist).
        self.rows.append(torch.empty(0, 3, dtype=torch.int64, device=self.device))

    def update(self, scores: Tensor, targets: Tensor, index: Tensor) -> None:
        """Adds scores (B,) or (B, 1), gold values (B,) and the place (B,) of each row in its data."""
        if scores.ndim == 2 and scores.shape[1] == 1:
            scores = scores.squeeze(1)
        if scores.ndim != 1 or scores.shape != targets.shape or index.shape != targets.shape:
            raise BackendError(
                f"scores {tuple(scores.shape)}, targets {tuple(targets.shape)} and index "
                f"{tuple(index.shape)} must all be (B,)"
            )
        if not len(scores):
            return
        scores = scores.float()
        check_scores(scores, index)
        columns = [index.to(scores.device).long(), _bits(scores), _bits(targets.to(scores))]
        self.rows.append(torch.stack(columns, dim=1))

    def summary(self) -> dict[str, float]:
        rows = self._totals["rows"]
        if not len(rows):
            raise no_rows()
        # By place, so that neither batches nor ranks change which rows a replicate draws; equal places by
        # value.
        rows = rows[np.lexsort(rows.T[::-1])]
        scores, gold = (rows[:, c].astype(np.int32).view(np.float32).astype(np.float64) for c in (1, 2))
        self._columns = scores, gold
        measure = _Measure(scores, gold, self.grades)
        values = measure(np.ones(len(scores)))
        many = len(scores) > MANY_ROWS
        rng = np.random.default_rng(bootstrap.SEED)
        samples = []
        for _ in range(FEWER_REPLICATES if many else bootstrap.REPLICATES):
            drawn = rng.integers(len(scores), size=len(scores))
            samples.append(measure(np.bincount(drawn, minlength=len(scores)).astype(np.float64)))
        result: dict[str, float] = {}
        for name, value in values.items():
            put(result, name, value, np.array([sample[name] for sample in samples]))
        return result

    def per_class(self) -> list[dict[str, Any]]:
        """For grades `label`, `precision`, `recall`, `f1`, `support`, `predicted`; else nothing."""
        if self.grades is None:
            return []
        return label_rows(self.labels, self.confusion())

    def confusion(self) -> NDArray[np.int64]:
        """Counts (K, K) of grades, gold by predicted; (0, 0) without grades."""
        scores, gold = self.points()
        if self.grades is None:
            return np.zeros((0, 0), dtype=np.int64)
        cells = _nearest(gold, self.grades) * len(self.grades) + _nearest(scores, self.grades)
        return np.bincount(cells, minlength=len(self.grades) ** 2).reshape(-1, len(self.grades))

    def points(self) -> tuple[Array, Array]:
        """Scores and gold values (N,), in the order of their data, for a plot."""
        self.compute()
        return self._columns


class _Measure:
    """Every metric of fixed rows as a function of how often each row counts, w (N,)."""

    def __init__(self, scores: Array, gold: Array, grades: Array | None) -> None:
        self.scores, self.gold = scores, gold
        self.error = scores - gold
        self.score_order = np.unique(scores, return_inverse=True)[1]
        self.gold_order = np.unique(gold, return_inverse=True)[1]
        self.places = None if grades is None else (_nearest(scores, grades), _nearest(gold, grades))

    def __call__(self, w: Array) -> dict[str, float]:
        total = w.sum()
        squares = w @ self.error**2
        around_mean = w @ (self.gold - w @ self.gold / total) ** 2
        result = {
            "mse": squares / total,
            "rmse": np.sqrt(squares / total),
            "mae": w @ np.abs(self.error) / total,
            "r2": 1 - squares / around_mean if around_mean > 0 else np.nan,
            "pearson": _correlation(self.scores, self.gold, w),
            "spearman": _correlation(_ranks(self.score_order, w), _ranks(self.gold_order, w), w),
        }
        if self.places is not None:
            predicted, gold = self.places
            result["accuracy"] = w @ (predicted == gold) / total
            result["qwk"] = _quadratic_kappa(predicted, gold, w)
        return {name: float(value) for name, value in result.items()}


def _correlation(x: Array, y: Array, w: Array) -> float:
    """Weighted Pearson correlation; NaN where a side is constant."""
    total = w.sum()
    x, y = x - w @ x / total, y - w @ y / total
    bottom = np.sqrt((w @ x**2) * (w @ y**2))
    # Constant values leave rounding errors, not zeros, once their mean is taken off.
    return float(w @ (x * y) / bottom) if bottom > 1e-14 * total else np.nan


def _ranks(order: NDArray, w: Array) -> Array:
    """Mean ranks (N,) of rows that count w times, given the order (N,) of their values, equal for ties."""
    counts = np.bincount(order, weights=w)
    return (np.cumsum(counts) - (counts - 1) / 2)[order]


def _quadratic_kappa(predicted: NDArray, gold: NDArray, w: Array) -> float:
    """Cohen's kappa with quadratic weights (Cohen 1968) of grade numbers; NaN where all is one grade.

    1 - observed / expected squared distance, where the expectation is over independent draws of the two
    sides.
    """
    total = w.sum()
    x, y = predicted.astype(np.float64), gold.astype(np.float64)
    observed = w @ (x - y) ** 2 / total
    mean_x, mean_y = w @ x / total, w @ y / total
    expected = w @ (x - mean_x) ** 2 / total + w @ (y - mean_y) ** 2 / total + (mean_x - mean_y) ** 2
    return float(1 - observed / expected) if expected > 0 else np.nan


def _nearest(values: Array, grades: Array) -> NDArray[np.int64]:
    """The number of the grade nearest to each value (N,)."""
    return np.searchsorted((grades[1:] + grades[:-1]) / 2, values, side="right")


def _bits(values: Tensor) -> Tensor:
    """The bits of fp32 numbers as int64, so that they share a tensor with whole numbers."""
    return values.contiguous().view(torch.int32).long()
