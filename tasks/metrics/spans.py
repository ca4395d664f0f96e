"""Metrics of named entities, streaming: exact, partial and type-only F1, and what kind of error was made.

An entity is right where its borders and its type are (CoNLL-2003; Tjong Kim Sang and De Meulder). Beside it stand
two measures of SemEval-2013 task 9.1 (Segura-Bedmar et al. 2013), after MUC-5 (Chinchor and Sundheim 1993): *partial*
looks at the borders alone and counts an overlap as half, *type* wants the right type and some overlap.

Only counts are kept. Intervals are the bootstrap over sentences, by Poisson weights (see bootstrap.py).
K counts of a sentence, B sentences, L labels, R replicates; a leading `...` is nothing for the value itself and R
for its replicates.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tasks.spans import Pairs, Spans, pair_up

from . import bootstrap
from .rates import mean_defined, put, rates
from .report import Report, no_rows, plain

#: What can be wrong with an entity: the last two stand alone, the others are a gold and a predicted one that overlap.
ERRORS = ("wrong_type", "wrong_boundary", "wrong_both", "missed", "spurious")
HEADLINES = ("f1", "precision", "recall", "f1_macro", "f1_partial", "f1_type", "token_accuracy")
#: Counts of a sentence beside right, predicted and gold entities of each label.
OVERALL = ("tokens", "tokens_right", "same_bounds", "overlaps", "same_type")

Array = NDArray[np.float64]


class SpanReport(Report):
    """Precision, recall and F1 of entities with intervals, per type too; token accuracy; a table of errors.

    `labels` are the types. `f1/<label>` and the like are of one type.
    """

    counts: Tensor
    replicates: Tensor
    errors: Tensor
    confused: Tensor

    def __init__(self, labels: Sequence[str], headline: str = "f1") -> None:
        super().__init__(labels, headline, HEADLINES)
        size = len(self.labels)
        width = 3 * size + len(OVERALL)
        self._define(
            counts=(width,),
            replicates=(bootstrap.REPLICATES, width),
            errors=(size, len(ERRORS)),  # by gold label, spurious ones by the predicted
            confused=(size + 1, size + 1),  # gold by predicted, the last is "no entity"
        )

    def update(self, predicted: Spans, gold: Spans, tokens: Tensor, tokens_right: Tensor, index: Tensor) -> None:
        """Adds B sentences.

        Args:
            tokens, tokens_right: (B,) tags of each sentence, and how many of them are right.
            index: (B,) place of each sentence in the data; decides its bootstrap weights.
        """
        pairs = pair_up(gold, predicted)
        counts = self.sentence_counts(predicted, gold, pairs, tokens, tokens_right)  # (B, K)
        self._add("counts", counts.sum(0))
        # Whole numbers below 2^24 a batch, so that the product in fp32 is exact.
        with torch.autocast(counts.device.type, enabled=False):
            self._add("replicates", (bootstrap.poisson_weights(index).T @ counts.float()).round())
        self.count_errors(predicted, gold, pairs)

    def sentence_counts(
        self, predicted: Spans, gold: Spans, pairs: Pairs, tokens: Tensor, tokens_right: Tensor
    ) -> Tensor:
        """Every count of each sentence (B, K) int64."""
        size = len(self.labels)
        counts = tokens.new_zeros(len(tokens), 3 * size + len(OVERALL))

        def add(column: int, row: Tensor, label: Tensor | int = 0) -> None:
            cells = row * counts.shape[1] + column + label
            counts.view(-1).index_add_(0, cells, torch.ones_like(cells))

        row, label = gold.row[pairs.gold], gold.label[pairs.gold]
        add(0, row[pairs.exact], label[pairs.exact])
        add(size, predicted.row, predicted.label)
        add(2 * size, gold.row, gold.label)
        counts[:, 3 * size] = tokens
        counts[:, 3 * size + 1] = tokens_right
        add(3 * size + 2, row[pairs.same_bounds])
        add(3 * size + 3, row[~pairs.same_bounds])
        add(3 * size + 4, row[pairs.same_label])
        return counts

    def count_errors(self, predicted: Spans, gold: Spans, pairs: Pairs) -> None:
        """Fill the table of errors and that of confusions."""
        size = len(self.labels)
        kind = torch.where(pairs.same_bounds, 0, torch.where(pairs.same_label, 1, 2))
        wrong = ~pairs.exact
        missed, spurious = left_over(len(gold), pairs.gold), left_over(len(predicted), pairs.predicted)
        columns = len(ERRORS)
        self._count("errors", gold.label[pairs.gold[wrong]] * columns + kind[wrong])
        self._count("errors", gold.label[missed] * columns + 3)
        self._count("errors", predicted.label[spurious] * columns + 4)
        self._count("confused", gold.label[pairs.gold] * (size + 1) + predicted.label[pairs.predicted])
        self._count("confused", gold.label[missed] * (size + 1) + size)
        self._count("confused", size * (size + 1) + predicted.label[spurious])

    def summary(self) -> dict[str, float]:
        counts = self._totals["counts"]
        size = len(self.labels)
        if not counts[3 * size]:
            raise no_rows()
        values, replicates = measures(counts, size), measures(self._totals["replicates"], size)
        result: dict[str, float] = {}
        for name, value in values.items():
            if value.ndim == 0:
                put(result, name, float(value), replicates[name])
        for i, label in enumerate(self.labels):
            for name in ("f1", "precision", "recall"):
                put(result, f"{name}/{label}", float(values[f"{name}/"][i]), replicates[f"{name}/"][:, i])
            result[f"support/{label}"] = int(counts[2 * size + i])
        return result | dict(zip(ERRORS, self._totals["errors"].sum(0).tolist(), strict=True))

    def per_class(self) -> list[dict[str, Any]]:
        """A row a label: `label`, `precision`, `recall`, `f1`, `support`, `predicted`, `right` and its errors."""
        totals, size = self.totals(), len(self.labels)
        right, predicted, gold = totals["counts"][: 3 * size].reshape(3, size)
        names = ("label", "precision", "recall", "f1", "support", "predicted", "right", *ERRORS)
        columns = (self.labels, *rates(right, predicted, gold), gold, predicted, right, *totals["errors"].T)
        return [plain(dict(zip(names, row, strict=True))) for row in zip(*columns, strict=True)]

    def confusion(self) -> NDArray[np.int64]:
        """Counts (L+1, L+1) of overlapping entities, gold by predicted; the last row and column are "no entity"."""
        return self.totals()["confused"]


def measures(counts: NDArray, size: int) -> dict[str, Array]:
    """Every metric (...) from counts (..., K); those of each label (..., L) under a name that ends in "/"."""
    right, predicted, gold = (counts[..., i * size : (i + 1) * size] for i in range(3))
    tokens, tokens_right, same_bounds, overlaps, same_type = np.moveaxis(counts[..., 3 * size :], -1, 0)
    by_label = dict(zip(("precision/", "recall/", "f1/"), rates(right, predicted, gold), strict=True))
    asked, given = gold.sum(-1), predicted.sum(-1)
    precision, recall, f1 = rates(right.sum(-1), given, asked)
    return {
        "f1": f1,
        "precision": precision,
        "recall": recall,
        "f1_macro": mean_defined(by_label["f1/"]),
        "f1_partial": rates(same_bounds + 0.5 * overlaps, given, asked)[2],
        "f1_type": rates(same_type, given, asked)[2],
        "token_accuracy": np.divide(tokens_right, tokens, out=np.full(np.shape(tokens), np.nan), where=tokens > 0),
        **by_label,
    }


def left_over(count: int, used: Tensor) -> Tensor:
    """Positions among `count` that are not in `used`."""
    free = torch.ones(count, dtype=torch.bool, device=used.device)
    free[used] = False
    return free.nonzero().squeeze(1)
