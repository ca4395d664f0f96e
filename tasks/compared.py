"""Answers of a run as numbers an example, and metrics as functions of their sums: what `tasks.metrics.paired` compares.

One function a kind of answer. N examples, K numbers of each, L labels; a leading `...` is nothing for the sums of all
examples and R for replicates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks.metrics.paired import Measures
from tasks.metrics.ranking import HEADLINE
from tasks.metrics.ranking import measures as rank_metrics
from tasks.metrics.rates import mean_defined, rates

Array = NDArray[np.float64]

F1_SINGLE, F1_MULTILABEL = ("accuracy", "f1_macro"), ("f1_micro", "f1_macro", "subset_accuracy")
F1_ENTITIES = ("f1", "precision", "recall", "f1_macro")


@dataclass(frozen=True)
class Answers:
    """One run's answers: what each example is (to tell that the other run saw the same), its numbers (N, K), and the
    metrics of their sums; `names` in the order to show them. `is_means`: each number is a metric, to be averaged."""

    where: Path
    examples: list[Any]
    numbers: Array
    measures: Callable[[int], Measures]
    names: tuple[str, ...]
    is_means: bool = False

    def select(self, names: Sequence[str]) -> Answers:
        """These metrics alone, of answers whose numbers are metrics."""
        numbers = self.numbers[:, [self.names.index(name) for name in names]]
        return Answers(self.where, self.examples, numbers, means(names), tuple(names), is_means=True)


def means(names: Sequence[str]) -> Callable[[int], Measures]:
    """The mean of each number."""

    def measures(total: int) -> Measures:
        return lambda sums: {name: sums[..., i] / total for i, name in enumerate(names)}

    return measures


def classified(
    where: Path, labels: Any, texts: list[Any], golds: Sequence[Any], said: Sequence[Any], names: Sequence[str]
) -> Answers:
    """Answers of a classification of any kind; a gold or predicted cell as in predictions.csv."""
    right = [labels.parse(cell) if cell is not None or labels.kind == "multilabel" else None for cell in golds]
    found = [labels.parse(cell) if cell is not None or labels.kind == "multilabel" else None for cell in said]
    examples = list(zip(texts, right, strict=True))
    if labels.kind == "regression":
        return valued(where, examples, np.asarray(right, dtype=float), np.asarray(found, dtype=float))
    index = {name: i for i, name in enumerate(names)}
    hot = np.zeros((2, len(right), len(names)))
    for side, cells in enumerate((right, found)):
        for row, cell in enumerate(cells):
            for name in cell if isinstance(cell, tuple) else () if cell is None else (cell,):
                hot[side, row, index[name]] = 1
    same = (hot[0] == hot[1]).all(axis=1)
    numbers = np.concatenate([hot[0] * hot[1], hot[1], hot[0], same[:, None]], axis=1)
    if labels.kind == "multilabel":
        return Answers(where, examples, numbers, f1_measures(len(names), "subset_accuracy"), F1_MULTILABEL)
    return Answers(where, examples, numbers, f1_measures(len(names), "accuracy"), F1_SINGLE)


def f1_measures(size: int, equal: str) -> Callable[[int], Measures]:
    """Metrics of sums (..., 3 L + 1): right, predicted and gold of each label, and rows answered exactly right."""

    def measures(total: int) -> Measures:
        def of_sums(sums: Array) -> dict[str, Array]:
            right, predicted, gold = (sums[..., i * size : (i + 1) * size] for i in range(3))
            precision, recall, f1 = rates(right.sum(-1), predicted.sum(-1), gold.sum(-1))
            macro = mean_defined(rates(right, predicted, gold)[2])
            micro = {"f1": f1, "f1_micro": f1, "precision": precision, "recall": recall}
            return micro | {"f1_macro": macro, equal: sums[..., -1] / total}

        return of_sums

    return measures


def valued(where: Path, examples: list[Any], gold: Array, found: Array) -> Answers:
    """Answers that are numbers: mean absolute and squared error."""
    error, names = np.abs(found - gold), ("mae", "mse")
    return Answers(where, examples, np.stack([error, error**2], axis=1), means(names), names)


def entities(
    where: Path, texts: Sequence[Any], golds: Sequence[Any], said: Sequence[Any], names: Sequence[str]
) -> Answers:
    """Answers of named entities, one right where its borders and its type are; cells as in predictions.csv."""
    index, size = {name: i for i, name in enumerate(names)}, len(names)
    right, found = ([spans(cell) for cell in cells] for cells in (golds, said))
    numbers = np.zeros((len(right), 3 * size + 1))
    for row, (own, other) in enumerate(zip(right, found, strict=True)):
        for block, chosen in enumerate((own & other, other, own)):
            for _, _, name in chosen:
                numbers[row, block * size + index[name]] += 1
        numbers[row, -1] = own == other
    examples = list(zip(texts, right, strict=True))
    return Answers(where, examples, numbers, f1_measures(size, "sentence_accuracy"), F1_ENTITIES)


def correlated(where: Path, examples: list[Any], gold: Array, score: Array) -> Answers:
    """Scores of graded pairs. Ranks are those among all pairs, also in a replicate: an approximation for Spearman."""
    columns = []
    for of_gold, of_score in ((ordered(gold), ordered(score)), (gold, score)):
        x, y = standard(of_gold), standard(of_score)
        columns += [x, y, x * x, y * y, x * y]

    def measures(total: int) -> Measures:
        def correlation(sums: Array) -> Array:
            x, y, xx, yy, xy = np.moveaxis(sums / total, -1, 0)
            return (xy - x * y) / np.sqrt(np.maximum((xx - x * x) * (yy - y * y), 1e-300))

        return lambda sums: {"spearman": correlation(sums[..., :5]), "pearson": correlation(sums[..., 5:])}

    return Answers(where, examples, np.stack(columns, axis=1), measures, ("spearman", "pearson"))


def ordered(values: Array) -> Array:
    """Ranks (N,), the mean of them for equal values."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def standard(values: Array) -> Array:
    """Mean 0 and spread 1, so that sums of squares keep their digits."""
    return (values - values.mean()) / (values.std() or 1.0)


def ranked(where: Path, keys: Sequence[Any], pairs: list[Any], grades: Array, scores: Array) -> Answers:
    """Candidates of each query in the order of their scores; queries without a relevant one are left out."""
    rows_of: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        rows_of.setdefault(key, []).append(row)
    examples, found = [], []
    for key, rows in rows_of.items():
        order = sorted(rows, key=lambda row: (-scores[row], grades[row]))  # of equal scores the less relevant first
        if grades[rows].max() <= 0:
            continue
        ideal = np.sort(grades[rows])[::-1]
        found.append({name: float(value[0]) for name, value in rank_metrics(grades[order][None], ideal[None]).items()})
        examples.append((key, sorted((pairs[row][1], float(grades[row])) for row in rows)))
    names = (HEADLINE, *(name for name in found[0] if name != HEADLINE)) if found else ()
    numbers = np.array([[row[name] for name in names] for row in found])
    return Answers(where, examples, numbers, means(names), names, is_means=True)


def spans(cell: Any) -> set[tuple[int, int, str]]:
    """Entities of a cell: a JSON list of [start, end, label] or of {start, end, label, …}."""
    listed = json.loads(cell) if isinstance(cell, str) else cell or []
    found = [(s["start"], s["end"], s["label"]) if isinstance(s, dict) else tuple(s[:3]) for s in listed]
    return {(int(start), int(end), str(label)) for start, end, label in found}
