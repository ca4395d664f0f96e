"""Which rows are of one query.

Dimensions: N rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from tasks.data import readers
from tasks.data.readers import Table


def group_keys(table: Table) -> list[Any]:
    """What says which rows are of one query: its id, or where that is missing its text."""
    texts = table.columns["query"]
    ids = table.columns.get("query_id")
    if ids is None:
        return list(texts)
    return [text if name is None or name == "" else ("id", str(name)) for name, text in zip(ids, texts, strict=True)]


def number_queries(table: Table) -> npt.NDArray[np.int64]:
    """(N,) the number of each row's query, in order of first appearance."""
    numbers: dict[Any, int] = {}
    found = [numbers.setdefault(key, len(numbers)) for key in group_keys(table)]
    return np.array(found, dtype=np.int64)


def rows_of_queries(numbers: npt.NDArray[np.int64]) -> list[npt.NDArray[np.int64]]:
    """The rows of each query, in order of the queries' numbers."""
    order = np.argsort(numbers, kind="stable")
    counts = np.bincount(numbers) if len(numbers) else np.zeros(0, np.int64)
    return np.split(order, np.cumsum(counts)[:-1]) if len(numbers) else []


def scattered(tables: Iterable[Table]) -> bool:
    """Whether rows of one query are apart, with others between."""
    seen: set[int] = set()
    last: Any = None
    for table in tables:
        for key in group_keys(table):
            if key != last and hash(key) in seen:
                return True
            seen.add(hash(key))
            last = key
    return False


def whole_queries(tables: Iterable[Table], chunk: int) -> Iterator[Table]:
    """Tables of about `chunk` rows in which no query is cut, from tables whose queries stand together."""
    waiting: Table | None = None
    for table in tables:
        waiting = table if waiting is None else readers.join([waiting, table])
        keys, start, last = group_keys(waiting), 0, 0
        for border in [*(i for i in range(1, len(keys)) if keys[i] != keys[i - 1]), len(keys)]:
            if border - start > chunk and last > start:
                yield waiting.select(range(start, last))
                start = last
            last = border
        waiting = waiting.select(range(start, len(keys)))
    if waiting is not None and len(waiting):
        yield waiting
