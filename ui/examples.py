"""Rows that a run wrote about itself: to show, and texts of them to click."""

from __future__ import annotations

import csv
from collections import defaultdict
from itertools import chain, islice, zip_longest
from pathlib import Path

from tasks.data.readers.delimited import CELL_LIMIT
from tasks.run import Run, has_text

#: How many texts, and the longest (in characters); Gradio writes the first WHOLE characters on a button.
MOST, LONGEST, WHOLE = 6, 120, 60
#: Rows looked at.
ROWS = 1000


def own_rows(path: Path, most: int = ROWS) -> list[dict[str, str]]:
    """The first rows of a CSV of the run's folder; none where there is no such file, or only its header."""
    if not path.is_file():
        return []
    csv.field_size_limit(CELL_LIMIT)
    with path.open(encoding="utf-8", newline="") as file:
        return list(islice(csv.DictReader(file), most))


def examples_of(run: Run) -> list[list[str]]:
    """A few short texts (with their second texts) of predictions.csv, of as many answers as there are."""
    columns = run.schema.text_columns()
    by_answer: dict[str, list[list[str]]] = defaultdict(list)
    for row in own_rows(run.folder / "predictions.csv"):
        texts = [row.get(column, "") for column in columns]
        known = by_answer[row.get("prediction", "")]
        if all(map(has_text, texts)) and sum(map(len, texts)) <= LONGEST and texts not in known:
            known.append(texts)
    shortest = (sorted(known, key=lambda texts: max(map(len, texts)) > WHOLE) for known in by_answer.values())
    in_turn = chain.from_iterable(zip_longest(*shortest))
    return [texts for texts in in_turn if texts is not None][:MOST]
