"""Rows that a run wrote about itself: to show, and texts of them to click."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from itertools import chain, islice, zip_longest
from pathlib import Path

from tasks.answers import Span
from tasks.data.readers.delimited import CELL_LIMIT
from tasks.outputs import output_type
from tasks.run import Run, has_text

#: How many texts, and the longest (in characters); Gradio writes the first WHOLE characters on a button.
MOST, LONGEST, WHOLE = 6, 120, 60
#: Rows looked at.
ROWS = 1000
#: Documents of an example of a list, at least and at most.
SHORTEST_LIST, LONGEST_LIST = 2, 12


def own_rows(path: Path, most: int = ROWS) -> list[dict[str, str]]:
    """The first rows of a CSV of the run's folder; none where there is no such file, or only its header."""
    if not path.is_file():
        return []
    csv.field_size_limit(CELL_LIMIT)
    with path.open(encoding="utf-8", newline="") as file:
        return list(islice(csv.DictReader(file), most))


def examples_of(run: Run) -> list[list[str]]:
    """A few short texts (with their second texts) of predictions.csv, of as many answers as there are."""
    columns, answer = run.schema.text_columns(), reader_of(run)
    by_answer: dict[str, list[list[str]]] = defaultdict(list)
    for row in own_rows(run.folder / "predictions.csv"):
        texts = [row.get(column, "") for column in columns]
        known = by_answer[answer(row)]
        if all(map(has_text, texts)) and sum(map(len, texts)) <= LONGEST and texts not in known:
            known.append(texts)
    shortest = (sorted(known, key=lambda texts: max(map(len, texts)) > WHOLE) for known in by_answer.values())
    in_turn = chain.from_iterable(zip_longest(*shortest))
    return [texts for texts in in_turn if texts is not None][:MOST]


def reader_of(run: Run) -> Callable[[Mapping[str, str]], str]:
    """Reads off a row of predictions.csv what it was taken for: its label, or the labels of its entities."""
    name = next(iter(run.task.to_columns([])))
    spans = output_type(run.task) is Span

    def answer(row: Mapping[str, str]) -> str:
        # Rows keep their own columns; `with_columns` gave ours another name where it was taken.
        own = [column for column in row if re.fullmatch(rf"{name}(_predicted)*", column)]
        cell = row[own[-1]] if own else ""
        return ", ".join(sorted({span["label"] for span in json.loads(cell or "[]")})) if spans else cell

    return answer


def queries_of(run: Run) -> list[str]:
    """A few short queries that the run was measured with."""
    queries = dict.fromkeys(row.get("query", "").strip() for row in own_rows(run.folder / "predictions.csv"))
    short = (query for query in queries if 0 < len(query) <= LONGEST)
    return sorted(short, key=lambda query: len(query) > WHOLE)[:MOST]


def lists_of(run: Run) -> list[tuple[str, list[str]]]:
    """A few queries that the run was measured with, each with its candidates, a line each."""
    found: dict[str, list[str]] = defaultdict(list)
    for row in own_rows(run.folder / "predictions.csv"):
        query, document = row.get("query", "").strip(), " ".join(row.get("document", "").split())
        if 0 < len(query) <= LONGEST and document:
            found[query].append(document)
    lists = [(query, documents[:LONGEST_LIST]) for query, documents in found.items()]
    return [(query, documents) for query, documents in lists if len(documents) >= SHORTEST_LIST][:MOST]
