"""Scores as probabilities by a slope and an offset (Platt 1999, "Probabilistic outputs for SVMs")."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modernbert.errors import DataError

STEPS = 50  # Newton's method on two parameters is there in about ten


def fit_platt(scores: npt.ArrayLike, relevant: npt.ArrayLike) -> tuple[float, float]:
    """Slope and offset such that sigmoid(slope * score + offset) fits best, for scores (N,) and 0/1 labels (N,).

    Targets are drawn in as in the paper, (N1 + 1) / (N1 + 2) and 1 / (N0 + 2), so that perfectly parted scores give no
    infinite slope. The likelihood is convex; Newton's method with halved steps.

    Raises:
        DataError: only one kind of label.
    """
    s, positive = np.asarray(scores, dtype=np.float64), np.asarray(relevant, dtype=bool)
    ones = int(positive.sum())
    if ones in (0, len(positive)):
        raise DataError("task.calibrate=platt needs relevant and other candidates among the validation rows.")
    targets = np.where(positive, (ones + 1) / (ones + 2), 1 / (len(positive) - ones + 2))
    centre, width = s.mean(), s.std() or 1.0
    x = np.stack([(s - centre) / width, np.ones_like(s)], axis=1)  # (N, 2), so that both steps have one size
    w = np.array([0.0, np.log(targets.mean() / (1 - targets.mean()))])
    lost = _loss(x @ w, targets)
    for _ in range(STEPS):
        p = 1 / (1 + np.exp(-(x @ w)))
        slope = x.T @ (p - targets)
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 1e-12 * np.eye(2)
        move, size = np.linalg.solve(curvature, slope), 1.0
        while size > 1e-10 and _loss(x @ (w - size * move), targets) > lost:
            size /= 2
        w = w - size * move
        if lost - (lost := _loss(x @ w, targets)) < 1e-12 * len(s):
            break
    return float(w[0] / width), float(w[1] - w[0] * centre / width)


def _loss(logits: npt.NDArray[np.float64], targets: npt.NDArray[np.float64]) -> float:
    return float((np.logaddexp(0, logits) - targets * logits).sum())
