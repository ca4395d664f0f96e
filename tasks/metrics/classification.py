"""Metrics of single-label classification, streaming, with 95% bootstrap intervals.

The counts, two sums and (for two classes) a histogram of scores hold all there is to know: no logits are
kept. Intervals resample the counts, which is exactly the bootstrap over examples (see bootstrap.py).
Array shapes: L labels, R replicates; a leading `...` is nothing for the value itself and R for its
replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from modernbert.errors import BackendError

from . import bootstrap, calibration, histogram
from .rates import label_rows, margins, mean_defined, put, put_mean, rates
from .report import Report, check_classes, check_scores, fixed, no_rows, unfixed, without_autocast

# 2^14 bins of the logit difference: 0.004 wide, under 1e-4 of probability where a class is decided.
SCORE_BINS = 1 << 14

COUNTED = (
    "accuracy",
    "f1_macro",
    "f1_micro",
    "f1_weighted",
    "precision_macro",
    "recall_macro",
    "mcc",
)
RANKED = ("roc_auc", "average_precision")

Array = NDArray[np.float64]


class MulticlassReport(Report):
    """Accuracy, F1, precision, recall, MCC, log loss, Brier score, calibration; for two labels ROC-AUC and AP
    too.

    `labels` in the order of the logits; for two of them the second is the positive one of ROC-AUC and average
    precision (scored by the difference of the logits). A macro average is over the labels that occur among
    gold or predictions, like scikit-learn's.
    """

    confused: Tensor
    losses: Tensor
    scores: Tensor

    def __init__(self, labels: Sequence[str], headline: str = "f1_macro") -> None:
        binary = len(labels) == 2
        ranked = RANKED if binary else ()
        super().__init__(labels, headline, (*COUNTED, *ranked, "log_loss", "brier", "ece"))
        size = len(self.labels)
        self._define(
            confused=(size, size),  # gold by predicted
            losses=(2, 2),  # log loss and Brier score: sum and sum of squares, fixed point
            **calibration.STATES,
        )
        if binary:
            self._define(scores=(2, SCORE_BINS))

    @without_autocast
    def update(self, logits: Tensor, targets: Tensor, index: Tensor | None = None) -> None:
        """Adds logits (B, L) and class numbers (B,); `index` (B,) only names rows in an error."""
        size = len(self.labels)
        if logits.ndim != 2 or logits.shape[1] != size or targets.shape != logits.shape[:1]:
            raise BackendError(
                f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not fit {size} labels: "
                f"(B, {size}) and (B,) do"
            )
        if not len(targets):
            return
        logits, targets = logits.float(), targets.long()
        check_scores(logits, index)
        check_classes(targets, size)
        self._count("confused", targets * size + logits.argmax(dim=1))
        log_p = F.log_softmax(logits, dim=1)
        loss = -log_p.gather(1, targets[:, None]).squeeze(1)
        p = log_p.exp()
        # The squared distance to the one-hot gold, without building it.
        brier = p.square().sum(dim=1) - 2 * torch.exp(-loss) + 1
        self._add("losses", torch.stack([_moments(loss), _moments(brier)]))
        for name, sums in calibration.grid_sums(logits, targets).items():
            self._add(name, sums)
        if size == 2:
            bins = histogram.bin_of(logits[:, 1] - logits[:, 0], SCORE_BINS)
            self._count("scores", targets * SCORE_BINS + bins)

    def summary(self) -> dict[str, float]:
        confused = self._totals["confused"]
        count = int(confused.sum())
        if not count:
            raise no_rows()
        values = _from_confusion(*margins(confused))
        replicates = _confusion_replicates(confused)
        if "scores" in self._totals:
            neg, pos = self._totals["scores"]
            values |= _from_scores(pos, neg)
            replicates |= _score_replicates(pos, neg)
        result: dict[str, float] = {}
        for name, value in values.items():
            put(result, name, float(value), replicates[name])
        losses = unfixed(self._totals["losses"]).tolist()
        for name, (total, squares) in zip(("log_loss", "brier"), losses, strict=True):
            put_mean(result, name, total, squares, count)
        return result | calibration.summary(self._totals)

    def per_class(self) -> list[dict[str, Any]]:
        """`label`, `precision`, `recall`, `f1`, `support`, `predicted`; None where undefined."""
        return label_rows(self.labels, self.confusion())

    def confusion(self) -> NDArray[np.int64]:
        """Counts (L, L), gold by predicted."""
        return self.totals()["confused"]

    def reliability(self) -> list[dict[str, Any]]:
        """The bins of a reliability diagram; see `calibration.reliability`."""
        return calibration.reliability(self.totals())


def _moments(values: Tensor) -> Tensor:
    return torch.stack([fixed(values).sum(), fixed(values.square()).sum()])


def _from_confusion(right: NDArray, predicted: NDArray, gold: NDArray) -> dict[str, Array]:
    """Each of COUNTED (...) from the right, predicted and gold rows a label (..., L)."""
    precision, recall, f1 = rates(right, predicted, gold)
    total = gold.sum(-1)
    accuracy = right.sum(-1) / total
    # Matthews' coefficient for L classes: Gorodkin 2004, equation 8.
    gold, predicted = gold.astype(np.float64), predicted.astype(np.float64)
    top = right.sum(-1) * total.astype(np.float64) - (gold * predicted).sum(-1)
    bottom = np.sqrt((total**2.0 - (gold**2).sum(-1)) * (total**2.0 - (predicted**2).sum(-1)))
    return {
        "accuracy": accuracy,
        "f1_macro": mean_defined(f1),
        "f1_micro": accuracy,  # one label a row: each false positive is another label's false negative
        "f1_weighted": np.nansum(f1 * gold, axis=-1) / total,
        "precision_macro": mean_defined(precision),
        "recall_macro": mean_defined(recall),
        "mcc": np.divide(top, bottom, out=np.zeros(np.shape(top)), where=bottom > 0),
    }


def _confusion_replicates(confused: NDArray) -> dict[str, Array]:
    """Each of COUNTED for the bootstrap replicates, (R,)."""
    size = len(confused)
    gold_of, predicted_of = np.nonzero(confused)  # the cells with rows, at most as many as rows; gold ascends
    by_predicted = np.argsort(predicted_of, kind="stable")
    right = np.flatnonzero(gold_of == predicted_of)
    chunks = []
    for cells in bootstrap.resampled_counts(confused[gold_of, predicted_of]):
        margins = (
            _sum_runs(cells[:, right], gold_of[right], size),
            _sum_runs(cells[:, by_predicted], predicted_of[by_predicted], size),
            _sum_runs(cells, gold_of, size),
        )
        chunks.append(_from_confusion(*margins))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in COUNTED}


def _sum_runs(cells: NDArray, label_of: NDArray, size: int) -> NDArray:
    """Counts (r, K) of cells with ascending labels (K,), summed by label to (r, size)."""
    result = np.zeros((len(cells), size), dtype=cells.dtype)
    labels, starts = np.unique(label_of, return_index=True)
    if len(labels):
        result[:, labels] = np.add.reduceat(cells, starts, axis=1)
    return result


def _from_scores(pos: NDArray, neg: NDArray) -> dict[str, Array]:
    return {
        "roc_auc": histogram.roc_auc(pos, neg),
        "average_precision": histogram.average_precision(pos, neg),
    }


def _score_replicates(pos: NDArray, neg: NDArray) -> dict[str, Array]:
    """Each of RANKED for the bootstrap replicates, (R,), from the histograms (bins,) of the two classes."""
    used = pos + neg > 0
    chunks = []
    for cells in bootstrap.resampled_counts(np.concatenate([pos[used], neg[used]])):
        half = cells.shape[1] // 2
        chunks.append(_from_scores(cells[:, :half], cells[:, half:]))
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in RANKED}
