"""How well scores of pairs follow graded similarities: correlations alone, as the two may be on different scales."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .regression import RegressionReport
from .report import Report

CORRELATIONS = ("spearman", "pearson")


class CorrelationReport(Report):
    """Spearman's and Pearson's correlation of scores with gold similarities, with bootstrap intervals over pairs."""

    def __init__(self, headline: str = "spearman") -> None:
        super().__init__([], headline, CORRELATIONS)
        self.rows = RegressionReport(headline="spearman")

    def reset(self) -> None:
        super().reset()
        self.rows.reset()

    def update(self, scores: Tensor, targets: Tensor, index: Tensor) -> None:
        """Adds scores (B,), gold values (B,) and the place (B,) of each pair in its data."""
        self.rows.update(scores, targets, index)

    def summary(self) -> dict[str, Any]:  # type: ignore[override]
        found = self.rows.compute()
        return {f"{name}{end}": found[f"{name}{end}"] for name in CORRELATIONS for end in ("", "_low", "_high")}

    def points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scores and gold values (N,), in the order of their data."""
        return self.rows.points()

    def per_class(self) -> list[dict[str, Any]]:
        """Nothing: similarities have no labels."""
        return []

    def confusion(self) -> NDArray[np.int64]:
        """(0, 0): similarities have no labels."""
        return np.zeros((0, 0), dtype=np.int64)
