"""A reranker on a split: its ranking of each query's candidates, measured and written for a person.

Dimensions: P pairs, Q queries, K most candidates of a query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modernbert.errors import DataError
from tasks.candidates import Candidates
from tasks.data.module import AUTO_TOKENS
from tasks.data.readers import Table
from tasks.data.writers import open_writer
from tasks.listwise import to_lists
from tasks.run import forward

#: Queries in worst_errors.csv.
WORST = 50

IntArray = npt.NDArray[np.int64]
Array = npt.NDArray[np.float64]


def score_all(
    task: Any, examples: Candidates, tokens_per_batch: int | None, advance: Callable[[int], None] | None
) -> Tensor:
    """Logits (N,) of every pair, in the order of the table. Long lists are scored in parts."""
    budget = tokens_per_batch or AUTO_TOKENS[task.device.type]
    scores = torch.empty(len(examples.query))
    for batch, outputs in forward(task, examples.parts(budget), budget):
        scores[batch.index.cpu()] = outputs[:, 0].cpu()
        if advance:
            advance(len(batch))
    return scores


def measure_ranking(
    task: Any,
    examples: Candidates,
    table: Table,
    split: str,
    folder: Path,
    tokens_per_batch: int | None = None,
    advance: Callable[[int], None] | None = None,
) -> Any:
    """Metrics over the given candidates; predictions.csv and worst_errors.csv into `folder`.

    Args:
        task: a `tasks.reranking.Reranking`, which keeps the logits (N,) to be calibrated on.

    Raises:
        DataError: rows without labels.
    """
    if examples.labels is None:
        raise DataError(f"{table.source} has no labels to measure a ranking by.")
    logits = score_all(task, examples, tokens_per_batch, advance)
    report = task.new_report(split)
    if task.schema.grades == "scored":
        report.update(logits, examples.labels, torch.arange(len(logits)))
    else:
        add_rankings(report, logits, examples.labels, torch.from_numpy(examples.query))
    write_predictions(task, folder / "predictions.csv", table, logits, examples)
    write_worst(folder / "worst_errors.csv", table, task.values(logits).tolist(), examples.labels, examples.query)
    task.measured = logits, examples.labels
    return report


def best_first(scores: Tensor, labels: Tensor, query: Tensor) -> Tensor:
    """(P,) the pairs by query and, in it, by falling score. Of equal scores the less relevant comes first, so that a
    model that tells nothing apart gains nothing from the order of the file."""
    keys = [values.detach().cpu().numpy() for values in (labels, -scores, query)]
    return torch.from_numpy(np.lexsort(keys))


def add_rankings(report: Any, scores: Tensor, labels: Tensor, query: Tensor) -> None:
    """Add the queries that have a relevant candidate to a `RankingReport`.

    Args:
        scores, labels, query: (P,) of pairs, all candidates of each query among them.
    """
    order = best_first(scores, labels, query)
    numbers, graded = query.cpu()[order], labels.cpu()[order]
    grades, real = to_lists(graded, numbers)
    grades = torch.where(real, grades, -1.0)  # (Q, K)
    ideal = grades.clamp_min(0).sort(dim=1, descending=True).values
    relevant = ideal[:, 0] > 0
    report.update(grades[relevant], ideal[relevant], numbers.unique_consecutive()[relevant])


def ranks_within(scores: Sequence[float], query: Sequence[int]) -> list[int]:
    """The place of each pair among those of its query, from 1; of equal scores the earlier pair is first."""
    order = np.lexsort((-np.asarray(scores, dtype=np.float64), np.asarray(query)))
    numbers = np.asarray(query)[order]
    first = np.concatenate([[True], numbers[1:] != numbers[:-1]])
    place = np.arange(len(order))
    ranks = np.empty(len(order), dtype=np.int64)
    ranks[order] = place - np.maximum.accumulate(np.where(first, place, 0)) + 1
    return ranks.tolist()


def write_predictions(task: Any, path: Path, table: Table, scores: Tensor, examples: Candidates) -> None:
    """predictions.csv: every row with its score and its rank within the query."""
    outputs = task.scored(scores[:, None], torch.from_numpy(examples.query), examples.cut.tolist())
    with open_writer(path) as writer:
        writer.write(task.readable(table, outputs))


def write_worst(path: Path, table: Table, values: Sequence[float], labels: Tensor, query: IntArray) -> None:
    """worst_errors.csv: the queries whose first relevant document came lowest, with what stood above it."""
    order = best_first(torch.tensor(values), labels, torch.from_numpy(query)).numpy()
    starts = np.flatnonzero(np.diff(query[order], prepend=-1))
    found = []
    for rows in np.split(order, starts[1:]):
        relevant = np.flatnonzero(labels.numpy()[rows] > 0)
        if len(relevant) and relevant[0] > 0:
            found.append((int(relevant[0]) + 1, rows))
    found.sort(key=lambda item: -item[0])
    first = [int(rows[place - 1]) for place, rows in found[:WORST]]
    top = [int(rows[0]) for _, rows in found[:WORST]]
    documents = table.columns["document"]
    columns: dict[str, list[Any]] = {"row": [table.rows[i] for i in first]}
    asked = [name for name in ("query_id", "query") if name in table.columns]
    columns |= {name: [table.columns[name][i] for i in first] for name in asked}
    columns |= {
        "rank": [place for place, _ in found[:WORST]],
        "candidates": [len(rows) for _, rows in found[:WORST]],
        "relevant": [documents[i] for i in first],
        "score": [values[i] for i in first],
        "ranked_first": [documents[i] for i in top],
        "its_score": [values[i] for i in top],
    }
    with open_writer(path) as writer:
        writer.write(columns)
