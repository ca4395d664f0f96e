"""per_query.csv: the metrics of each query, beside predictions.csv of every run that ranks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tasks.compared import Answers, means
from tasks.data import readers
from tasks.data.writers import open_writer
from tasks.metrics import RankingReport

PER_QUERY = "per_query.csv"
QUERY, QUERY_ID = "query", "query_id"


def write_queries(folder: Path, ids: Sequence[str], queries: Sequence[str], report: RankingReport) -> None:
    """Write per_query.csv: each query's id, text and metrics.

    Args:
        ids, queries: by the place of the query in its data, as `RankingReport.update` was given in `index`.
    """
    places, values = report.per_query()
    # The metric that a person looks at first stands first.
    values = {report.headline: values[report.headline]} | values
    columns: dict[str, Any] = {QUERY_ID: [ids[i] for i in places], QUERY: [queries[i] for i in places]}
    with open_writer(folder / PER_QUERY) as writer:
        writer.write(columns | {name: np.round(column, 6) for name, column in values.items()})


def read_queries(where: Path) -> Answers:
    """The metrics of each query, as `write_queries` wrote them."""
    table = readers.read(str(where))
    names = tuple(name for name in table.columns if name not in (QUERY_ID, QUERY))
    examples = list(zip(table.columns[QUERY_ID], table.columns[QUERY], strict=True))
    numbers = np.array([[float(cell) for cell in table.columns[name]] for name in names]).T
    return Answers(where, examples, numbers, means(names), names, is_means=True)
