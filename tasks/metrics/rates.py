"""Precision, recall and F1 from counts, alike for one set of rows and for its bootstrap replicates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import bootstrap
from .report import plain

Array = NDArray[np.float64]


def rates(right: NDArray, predicted: NDArray, gold: NDArray) -> tuple[Array, Array, Array]:
    """Precision, recall, F1 (..., L) from right, predicted and gold rows a label (..., L).

    0 where only one of gold and predicted occurs, as in scikit-learn; NaN, undefined, where neither does.
    """
    absent = np.where(predicted + gold > 0, 0.0, np.nan)

    def ratio(top: NDArray, bottom: NDArray) -> Array:
        return np.divide(top, bottom, out=absent.copy(), where=bottom > 0)

    return ratio(right, predicted), ratio(right, gold), ratio(2 * right, predicted + gold)


def margins(confused: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Right, predicted and gold rows a label, each (L,), from counts (L, L), gold by predicted."""
    return np.diagonal(confused), confused.sum(0), confused.sum(1)


def label_rows(labels: list[str], confused: NDArray) -> list[dict[str, Any]]:
    """A row a label for JSON: `label`, `precision`, `recall`, `f1`, `support`, `predicted`."""
    right, predicted, gold = margins(confused)
    columns = zip(labels, *rates(right, predicted, gold), gold, predicted, strict=True)
    names = ("label", "precision", "recall", "f1", "support", "predicted")
    return [plain(dict(zip(names, values, strict=True))) for values in columns]


def confused_pairs(confused: NDArray, names: Sequence[str], most: int) -> list[dict[str, Any]]:
    """The pairs of labels mixed up most, from counts (L, L): `true`, `predicted`, `count`, `support`."""
    pairs = [(int(n), i, j) for (i, j), n in np.ndenumerate(confused) if n and i != j]
    return [
        {"true": names[i], "predicted": names[j], "count": n, "support": int(confused[i].sum())}
        for n, i, j in sorted(pairs, key=lambda pair: -pair[0])[:most]
    ]


def mean_defined(values: Array) -> Array:
    """Mean (...) over the labels (..., L) where the metric is defined; NaN where it is for none."""
    defined = np.isfinite(values)
    count = defined.sum(-1)
    total = np.where(defined, values, 0.0).sum(-1)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def put(result: dict[str, float], name: str, value: float, replicates: Array) -> None:
    """Adds a metric and its interval, from its replicates (R,), under `name`, `name_low` and `name_high`."""
    low, high = (math.nan, math.nan) if math.isnan(value) else bootstrap.interval(replicates)
    result |= {name: value, f"{name}_low": low, f"{name}_high": high}


def put_mean(result: dict[str, float], name: str, total: float, squares: float, count: int) -> None:
    """Adds the mean of `count` rows, from their sum and sum of squares, with its interval."""
    low, high = bootstrap.mean_interval(total, squares, count)
    result |= {name: total / count, f"{name}_low": low, f"{name}_high": high}
