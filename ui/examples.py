"""Texts of a run's own rows to click."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain, zip_longest

from tasks.data import readers
from tasks.run import Run, has_text

#: How many, and the longest that still reads as a button, in characters.
MOST, LONGEST = 6, 110
#: Rows looked at.
ROWS = 1000


def examples_of(run: Run) -> list[list[str]]:
    """A few short texts (with their second texts) of predictions.csv, as many different labels as there are."""
    path = run.folder / "predictions.csv"
    columns = run.schema.text_columns()
    if not path.is_file():
        return []
    table = next(readers.stream(str(path), ROWS), None)
    if table is None or any(column not in table.columns for column in columns):
        return []
    by_label: dict[str, list[list[str]]] = defaultdict(list)
    answers = table.columns.get("prediction", [""] * len(table))
    for *texts, answer in zip(*(table.columns[column] for column in columns), answers, strict=True):
        if all(map(has_text, texts)) and sum(map(len, texts)) <= LONGEST and texts not in by_label[str(answer)]:
            by_label[str(answer)].append(texts)
    in_turn = chain.from_iterable(zip_longest(*by_label.values()))
    return [texts for texts in in_turn if texts is not None][:MOST]
