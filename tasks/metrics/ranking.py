"""Metrics of rankings with intervals over queries: nDCG, reciprocal rank, average precision, recall, precision, hits.

The definitions are those of trec_eval: nDCG with the grade itself as the gain and 1 / log2(rank + 1) as the discount
(Järvelin and Kekäläinen 2002), a document of grade 1 or more is relevant, an unjudged one is not, and a query without
any relevant document counts as 0 everywhere. Equal scores are ranked by document id, the greater first (`trec_order`).

Q queries, K ranks, G relevant documents of a query, M metrics, N documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modernbert.errors import BackendError, ConfigError

from . import bootstrap
from .rates import put
from .report import Report, no_rows

CUTS = (1, 3, 5, 10, 100)
HEADLINE = "ndcg@10"
KINDS = ("ndcg", "mrr", "recall", "precision", "hits")

#: From this many queries on the central limit theorem gives the same interval as 1,000 replicates, and at once.
MANY_QUERIES = 20_000

Array = NDArray[np.float64]


class RankingReport(Report):
    """nDCG@k, MRR@k, recall@k, precision@k, hits@k (a relevant document among the first k) for each k, and MAP.

    `map` looks at every rank that is given. Only the metrics of each query are kept, 4 bytes each and 8 for its
    place (112 bytes a query with the usual cuts), never a ranking: memory does not grow with the corpus. Under DDP
    the queries of all ranks are gathered.
    """

    places: list[Tensor]
    values: list[Tensor]

    def __init__(self, ks: Sequence[int] = CUTS, headline: str = HEADLINE) -> None:
        self.ks = tuple(sorted({int(k) for k in ks}))
        if not self.ks or self.ks[0] < 1:
            raise ConfigError(f"cuts of a ranking {list(ks)}: allowed are whole numbers from 1 on, such as {CUTS}.")
        super().__init__([], headline, metric_names(self.ks))
        self.add_state("places", [], dist_reduce_fx="cat")
        self.add_state("values", [], dist_reduce_fx="cat")
        self._seed()

    def reset(self) -> None:
        super().reset()
        self._seed()

    def _seed(self) -> None:
        # A rank without queries would else gather a tensor of another shape (torchmetrics 1.9, _sync_dist).
        self.places.append(torch.empty(0, dtype=torch.int64, device=self.device))
        self.values.append(torch.empty(0, len(self.headlines), device=self.device))

    def update(self, grades: Tensor, ideal: Tensor, index: Tensor) -> None:
        """Adds Q rankings.

        Args:
            grades: (Q, K) grades of the ranked documents, the best ranked first; 0 is unjudged or not relevant, -1
                no document at that rank. Fewer ranks than the largest k stand for a list that ends there.
            ideal: (Q, G) grades of all relevant documents of each query, descending, 0 behind them.
            index: (Q,) the place of each query in its data.

        Raises:
            BackendError: shapes that do not fit.
        """
        if grades.ndim != 2 or ideal.ndim != 2 or not len(grades) == len(ideal) == len(index):
            raise BackendError(
                f"grades {tuple(grades.shape)}, ideal {tuple(ideal.shape)} and index {tuple(index.shape)} must be "
                "(Q, K), (Q, G) and (Q,)"
            )
        if not len(index):
            return
        found = measures(grades.detach().cpu().numpy(), ideal.detach().cpu().numpy(), self.ks)
        columns = np.stack([found[name] for name in self.headlines], axis=1)
        self.places.append(index.to(self.device).long())
        self.values.append(torch.from_numpy(columns).float().to(self.device))

    def summary(self) -> dict[str, float]:
        places, values = self._columns()
        if not len(places):
            raise no_rows()
        table = np.stack(list(values.values()), axis=1)  # (Q, M)
        result: dict[str, float] = {}
        if len(places) > MANY_QUERIES:
            for name, column in values.items():
                low, high = bootstrap.mean_interval(float(column.sum()), float((column**2).sum()), len(column))
                result |= {name: float(column.mean()), f"{name}_low": max(low, 0.0), f"{name}_high": min(high, 1.0)}
            return result
        ones = np.ones(len(places), dtype=np.int64)
        replicates = np.concatenate([counts @ table / len(places) for counts in bootstrap.resampled_counts(ones)])
        for name, value, samples in zip(values, table.mean(axis=0), replicates.T, strict=True):
            put(result, name, float(value), samples)
        return result

    def per_query(self) -> tuple[NDArray[np.int64], dict[str, Array]]:
        """The places (Q,) of the queries in their data, ascending, and each metric of each query (Q,)."""
        self.compute()  # torchmetrics keeps the result, so a second call costs nothing
        return self._columns()

    def _columns(self) -> tuple[NDArray[np.int64], dict[str, Array]]:
        places, values = self._totals["places"].astype(np.int64), self._totals["values"].astype(np.float64)
        order = np.argsort(places, kind="stable")
        return places[order], dict(zip(self.headlines, values[order].T, strict=True))

    def per_class(self) -> list[dict[str, Any]]:
        """Nothing: a ranking has no labels."""
        return []

    def confusion(self) -> NDArray[np.int64]:
        """(0, 0): a ranking has no labels."""
        return np.zeros((0, 0), dtype=np.int64)


def metric_names(ks: Sequence[int]) -> list[str]:
    """`ndcg@1` …, by kind, then `map`."""
    return [f"{kind}@{k}" for kind in KINDS for k in ks] + ["map"]


def measures(grades: NDArray, ideal: NDArray, ks: Sequence[int] = CUTS) -> dict[str, Array]:
    """Every metric (Q,) of rankings, from the grades (Q, K) as ranked and those of an ideal ranking (Q, G)."""
    width = max(grades.shape[1], ideal.shape[1], *ks)
    gain, best = _widened(np.maximum(grades, 0), width), _widened(np.maximum(ideal, 0), width)
    ranks = np.arange(1, width + 1)
    discount = 1 / np.log2(ranks + 1)
    dcg, best_dcg = np.cumsum(gain * discount, axis=1), np.cumsum(best * discount, axis=1)
    relevant = gain > 0
    right = np.cumsum(relevant, axis=1)  # relevant documents up to each rank
    wanted = (best > 0).sum(axis=1)
    first = np.where(relevant.any(axis=1), relevant.argmax(axis=1), width) + 1
    result: dict[str, Array] = {}
    for k in ks:
        result[f"ndcg@{k}"] = _share(dcg[:, k - 1], best_dcg[:, k - 1])
        result[f"mrr@{k}"] = np.where(first <= k, 1 / first, 0.0)
        result[f"recall@{k}"] = _share(right[:, k - 1], wanted)
        result[f"precision@{k}"] = right[:, k - 1] / k
        result[f"hits@{k}"] = (right[:, k - 1] > 0).astype(np.float64)
    result["map"] = _share((relevant * right / ranks).sum(axis=1), wanted)
    return result


def judged(found: Tensor, queries: Tensor, qrels: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """What `RankingReport.update` takes, for some queries of a collection.

    Args:
        found: (Q, K) numbers of the ranked documents, the best first; -1 is no document.
        queries: (Q,) the number of each query.
        qrels: query numbers, document numbers and grades, each (J,), in any order; of a pair that is judged twice
            the last one counts.

    Returns:
        grades (Q, K) and ideal (Q, G), int64; G is at least 1.
    """
    asked, documents, given = (column.cpu().numpy().astype(np.int64) for column in qrels)
    numbers, ranked = queries.cpu().numpy(), found.cpu().numpy().astype(np.int64)
    own = np.isin(asked, numbers)
    asked, documents, given = asked[own], documents[own], given[own]
    size = max(int(documents.max(initial=0)), int(ranked.max(initial=0))) + 1
    # Backwards, as `unique` keeps the first of equal keys.
    keys, kept = np.unique((asked * size + documents)[::-1], return_index=True)
    values = given[::-1][kept]
    wanted = numbers[:, None] * size + np.maximum(ranked, 0)
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    hit = (keys[place] == wanted) if len(keys) else np.zeros(wanted.shape, dtype=bool)
    grades = np.where(hit, np.maximum(values[place], 0) if len(keys) else 0, 0)
    grades[ranked < 0] = -1
    return torch.from_numpy(grades), torch.from_numpy(_ideal(keys // size, values, numbers))


def trec_order(scores: Tensor, found: Tensor, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Scores and document numbers (Q, K) in the order of trec_eval: by score, of equal ones the greater id first.

    Args:
        found: document numbers; -1, no document, goes to the end.
        names: the id of each document (N,).
    """
    place = np.empty(len(names), dtype=np.int64)
    # By bytes, as C's strcmp does.
    place[sorted(range(len(names)), key=lambda i: names[i].encode())] = np.arange(len(names))
    numbers, values = found.cpu().numpy(), scores.cpu().numpy()
    by_name = np.where(numbers >= 0, place[numbers], -1) if len(names) else numbers
    values = np.where(numbers >= 0, values, -np.inf)
    order = torch.from_numpy(np.lexsort((-by_name, -values), axis=1)).to(found.device)
    return scores.gather(1, order), found.gather(1, order)


def _ideal(asked: NDArray, values: NDArray, numbers: NDArray) -> NDArray[np.int64]:
    """The positive grades (Q, G) of each query, descending, 0 behind them."""
    asked, values = asked[values > 0], values[values > 0]
    order = np.lexsort((-values, asked))
    asked, values = asked[order], values[order]
    start, end = np.searchsorted(asked, numbers), np.searchsorted(asked, numbers, side="right")
    columns = start[:, None] + np.arange(max(int((end - start).max(initial=0)), 1))
    inside = columns < end[:, None]
    if not len(values):
        return np.zeros(columns.shape, dtype=np.int64)
    return np.where(inside, values[np.minimum(columns, len(values) - 1)], 0)


def _widened(values: NDArray, width: int) -> NDArray:
    return np.pad(values, ((0, 0), (0, width - values.shape[1])))


def _share(top: NDArray, bottom: NDArray) -> Array:
    return np.divide(top, bottom, out=np.zeros(len(top)), where=bottom > 0)
