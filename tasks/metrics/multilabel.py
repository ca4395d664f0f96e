"""Metrics of multi-label classification, streaming, with thresholds tuned a label and 95% bootstrap
intervals.

Shapes: B rows, L labels, R replicates, S sets of thresholds (0.5, and the tuned ones if they were given).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from modernbert.errors import BackendError, ConfigError

from . import bootstrap, calibration, histogram
from .rates import mean_defined, put, put_mean, rates
from .report import Report, check_scores, fixed, no_rows, plain, unfixed, without_autocast

SCORE_BINS = 1 << 12  # a label; 0.016 of a logit wide, at most 0.004 of probability

# Intervals of ranking metrics resample 64 groups of rows, each with a coarse histogram: 63 degrees of freedom
# leave 9% of noise in an interval's width. Coarse bins give its width alone; its place is the fine value.
GROUPS = 64
COARSE_BINS = 128
COARSE_LIMIT = 16.0

COUNTED = ("f1_macro", "f1_micro", "f1_weighted", "precision_macro", "recall_macro", "hamming_loss")
RANKED = ("roc_auc_macro", "average_precision_macro")

Array = NDArray[np.float64]


class MultilabelReport(Report):
    """F1, precision, recall, exact match, Hamming loss, macro ROC-AUC and AP, log loss, Brier score,
    calibration.

    Every decision metric is given at probability 0.5 under its plain name and at tuned thresholds as
    `<name>_tuned`. `thresholds` (L probabilities) are those of a saved model. Without them they are tuned on
    these very rows, one label at a time for the best F1: those values flatter the model a little, and
    `subset_accuracy_tuned` needs a second pass with the thresholds given.

    A macro average leaves out labels that occur neither among gold nor predictions (scikit-learn with
    `zero_division=nan`). Calibration and the temperature take each of the B * L decisions as a row.
    """

    counted: Tensor
    scores: Tensor
    grouped: Tensor
    cuts: Tensor

    def __init__(
        self, labels: Sequence[str], thresholds: Sequence[float] | None = None, headline: str = "f1_macro"
    ) -> None:
        super().__init__(labels, headline, (*COUNTED, *RANKED, "subset_accuracy", "log_loss", "brier", "ece"))
        size = len(self.labels)
        self.thresholds = None if thresholds is None else [float(t) for t in thresholds]
        sets = [torch.zeros(size)]
        if self.thresholds is not None:
            if len(self.thresholds) != size or not all(0.0 < t < 1.0 for t in self.thresholds):
                raise ConfigError(f"thresholds must be {size} probabilities within (0, 1), a label each")
            sets.append(torch.logit(torch.tensor(self.thresholds, dtype=torch.float64)).float())
        self.register_buffer("cuts", torch.stack(sets), persistent=False)  # (S, L) logits
        self._define(
            # Row 0: the rows themselves; rows 1 ..: the Poisson replicates. Columns: see `_features`.
            counted=(1 + bootstrap.REPLICATES, len(sets) * (2 * size + 1) + size + 1),
            scores=(2, size, SCORE_BINS),
            grouped=(GROUPS, size, 2, COARSE_BINS),
            losses=(2, 2),  # log loss and Brier score, mean over the labels of a row: sum and sum of squares
        )

    @without_autocast
    def update(self, logits: Tensor, targets: Tensor, index: Tensor) -> None:
        """Adds logits (B, L), gold (B, L) of 0 and 1, and the place (B,) of each row in its data."""
        size = len(self.labels)
        if logits.ndim != 2 or logits.shape[1] != size or targets.shape != logits.shape:
            raise BackendError(
                f"logits {tuple(logits.shape)} and targets {tuple(targets.shape)} do not fit {size} labels: "
                f"both must be (B, {size})"
            )
        if not len(targets):
            return
        logits, gold = logits.float(), targets > 0.5
        check_scores(logits, index)
        weights = bootstrap.poisson_weights(index.to(logits.device))  # (B, R)
        weights = torch.cat([torch.ones_like(weights[:, :1]), weights], dim=1)
        # Whole numbers below 2^24, so the fp32 product is exact.
        self._add("counted", weights.T @ self._features(logits, gold))

        place = torch.arange(size, device=logits.device)
        bins = histogram.bin_of(logits, SCORE_BINS)
        self._count("scores", (gold.long() * size + place) * SCORE_BINS + bins)
        group = bootstrap.group_of(index.to(logits.device), GROUPS)[:, None]
        coarse = histogram.bin_of(logits, COARSE_BINS, COARSE_LIMIT)
        self._count("grouped", ((group * size + place) * 2 + gold.long()) * COARSE_BINS + coarse)

        loss = F.binary_cross_entropy_with_logits(logits, gold.float(), reduction="none").mean(dim=1)
        brier = (torch.sigmoid(logits) - gold.float()).square().mean(dim=1)
        both = torch.stack([loss, brier])
        self._add("losses", torch.stack([fixed(both).sum(1), fixed(both.square()).sum(1)], dim=1))

    def _features(self, logits: Tensor, gold: Tensor) -> Tensor:
        """What a row adds to `counted`, (B, columns): hits, yeses, exact match a set; gold; 1."""
        columns = []
        for cut in self.cuts:
            yes = logits >= cut
            columns += [yes & gold, yes, (yes == gold).all(dim=1, keepdim=True)]
        return torch.cat([*columns, gold, torch.ones_like(gold[:, :1])], dim=1).float()

    def _set(self, position: int) -> tuple[NDArray, NDArray, NDArray]:
        """Hits, yeses (1 + R, L) and exact matches (1 + R,) of a set of thresholds."""
        size = len(self.labels)
        start = position * (2 * size + 1)
        block = self._totals["counted"][:, start : start + 2 * size + 1]
        return block[:, :size], block[:, size : 2 * size], block[:, -1]

    def _gold(self) -> tuple[NDArray, NDArray]:
        """Gold rows a label (1 + R, L) and rows (1 + R,)."""
        size = len(self.labels)
        return self._totals["counted"][:, -size - 1 : -1], self._totals["counted"][:, -1]

    def summary(self) -> dict[str, float]:
        gold, rows = self._gold()
        if not rows[0]:
            raise no_rows()
        result: dict[str, float] = {}
        for position, suffix in enumerate(("", "_tuned")[: len(self.cuts)]):
            hits, yes, exact = self._set(position)
            values = _from_counts(hits, yes, gold, rows)
            with np.errstate(invalid="ignore"):  # a replicate of few rows may draw none at all
                values["subset_accuracy"] = exact / rows
            for name, samples in values.items():
                put(result, name + suffix, float(samples[0]), samples[1:])
        self._add_ranked(result)
        losses = unfixed(self._totals["losses"]).tolist()
        for name, (total, squares) in zip(("log_loss", "brier"), losses, strict=True):
            put_mean(result, name, total, squares, int(rows[0]))
        neg, pos = self._totals["scores"].sum(1)
        return result | calibration.yes_no_summary(pos, neg, histogram.centres(SCORE_BINS))

    def _add_ranked(self, result: dict[str, float]) -> None:
        """ROC-AUC, AP, and the metrics at thresholds tuned on these rows, with intervals from the groups."""
        neg, pos = self._totals["scores"]
        cuts = self._best_cuts()
        coarse = _group_replicates(self._totals["grouped"], cuts)
        fine = {
            "roc_auc_macro": histogram.roc_auc(pos, neg),
            "average_precision_macro": histogram.average_precision(pos, neg),
        }
        for name, areas in fine.items():
            _put_shifted(result, name, float(mean_defined(areas)), mean_defined(coarse[name]))
        if self.thresholds is None:
            hits, yes = _at_or_above(pos, neg, cuts, histogram.LIMIT)
            gold, rows = self._gold()
            values = _from_counts(hits, yes, gold[0], rows[0])
            replicates = _from_counts(coarse["hits"], coarse["yes"], coarse["gold"], coarse["rows"])
            for name in COUNTED:
                _put_shifted(result, f"{name}_tuned", float(values[name]), replicates[name])

    def _best_cuts(self) -> Array:
        """The logit (L,) of the best F1 of each label on these rows."""
        neg, pos = self._totals["scores"]
        return np.array([histogram.best_threshold(p, n) for p, n in zip(pos, neg, strict=True)])

    def tuned_thresholds(self) -> list[float]:
        """Probabilities (L) of the best F1 of each label on these rows, to save with the model.

        They are for the sigmoid of the logits as they are, before any temperature.
        """
        self.totals()
        return (1 / (1 + np.exp(-self._best_cuts()))).tolist()

    def per_class(self) -> list[dict[str, Any]]:
        """A row a label: counts and rates at 0.5, `threshold` and rates at it, ROC-AUC, average precision."""
        neg, pos = self.totals()["scores"]
        gold, _ = self._gold()
        hits, yes, _ = self._set(0)
        cuts = self._best_cuts() if self.thresholds is None else self.cuts[1].cpu().double().numpy()
        plainly = rates(hits[0], yes[0], gold[0])
        if self.thresholds is None:
            tuned = rates(*_at_or_above(pos, neg, cuts, histogram.LIMIT), gold[0])
        else:
            hits_tuned, yes_tuned, _ = self._set(1)
            tuned = rates(hits_tuned[0], yes_tuned[0], gold[0])
        columns = {
            "label": self.labels,
            "precision": plainly[0],
            "recall": plainly[1],
            "f1": plainly[2],
            "support": gold[0],
            "predicted": yes[0],
            "threshold": 1 / (1 + np.exp(-cuts)),
            "precision_tuned": tuned[0],
            "recall_tuned": tuned[1],
            "f1_tuned": tuned[2],
            "roc_auc": histogram.roc_auc(pos, neg),
            "average_precision": histogram.average_precision(pos, neg),
        }
        return [
            plain(dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)
        ]

    def confusion(self) -> NDArray[np.int64]:
        """Counts (L, 2, 2) at 0.5: [[true no, false yes], [false no, true yes]] of each label."""
        self.totals()
        (gold, rows), (hits, yes, _) = self._gold(), self._set(0)
        missed, wrong = gold[0] - hits[0], yes[0] - hits[0]
        cells = [rows[0] - hits[0] - missed - wrong, wrong, missed, hits[0]]
        return np.stack(cells, axis=1).reshape(-1, 2, 2)

    def reliability(self) -> list[dict[str, Any]]:
        """The bins of a reliability diagram over all decisions; see `calibration.yes_no_reliability`."""
        neg, pos = self.totals()["scores"].sum(1)
        return calibration.yes_no_reliability(pos, neg, histogram.centres(SCORE_BINS))


def _from_counts(hits: NDArray, yes: NDArray, gold: NDArray, rows: NDArray) -> dict[str, Array]:
    """Each of COUNTED (...) from right yeses, yeses and gold rows a label (..., L), and rows (...)."""
    precision, recall, f1 = rates(hits, yes, gold)
    support = gold.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):  # undefined is NaN: no gold label, no row drawn
        return {
            "f1_macro": mean_defined(f1),
            "f1_micro": 2.0 * hits.sum(-1) / (yes + gold).sum(-1),
            "f1_weighted": np.nansum(f1 * gold, axis=-1) / support,
            "precision_macro": mean_defined(precision),
            "recall_macro": mean_defined(recall),
            "hamming_loss": (yes + gold - 2.0 * hits).sum(-1) / (rows * hits.shape[-1]),
        }


def _group_replicates(grouped: NDArray, cuts: Array) -> dict[str, Array]:
    """Ranking metrics and counts at the cuts for all rows (first) and for resampled groups, each (1 + R, L).

    `grouped` (G, L, 2, bins) is the coarse histogram of each group; "rows" is (1 + R,).
    """
    weights = bootstrap.group_weights(len(grouped), bootstrap.REPLICATES)
    weights = np.vstack([np.ones_like(weights[:1]), weights])
    columns: dict[str, list[Array]] = {
        "roc_auc_macro": [],
        "average_precision_macro": [],
        "hits": [],
        "yes": [],
        "gold": [],
    }
    for label, cut in enumerate(cuts):  # a label at a time bounds the memory
        neg, pos = ((weights @ grouped[:, label, gold]) for gold in (0, 1))
        hits, yes = _at_or_above(pos, neg, np.full(len(pos), cut), COARSE_LIMIT)
        values = (histogram.roc_auc(pos, neg), histogram.average_precision(pos, neg), hits, yes, pos.sum(-1))
        for name, value in zip(columns, values, strict=True):
            columns[name].append(value)
    result = {name: np.stack(values, axis=1) for name, values in columns.items()}
    result["rows"] = (pos + neg).sum(-1)
    return result


def _at_or_above(pos: NDArray, neg: NDArray, cuts: Array, limit: float) -> tuple[NDArray, NDArray]:
    """Right yeses and yeses (N,) of N histograms (N, bins), each cut at the bin edge nearest to its logit."""
    bins = pos.shape[-1]
    first = np.rint((cuts + limit) * (bins / (2 * limit)))
    taken = np.arange(bins) >= first[:, None]
    hits = (pos * taken).sum(-1)
    return hits, hits + (neg * taken).sum(-1)


def _put_shifted(result: dict[str, float], name: str, value: float, coarse: Array) -> None:
    """Adds a metric within 0 .. 1: the replicates' spread about their own value, coarse[0], from `value`."""
    put(result, name, value, np.clip(value + coarse[1:] - coarse[0], 0.0, 1.0))
