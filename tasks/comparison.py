"""Two saved runs compared over the rows that both were scored on.

Everything is read from the tables that an evaluation left: predictions.csv, and for rankings per_query.csv. No model
is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modernbert.errors import ConfigError, DataError
from tasks.compared import Answers, classified, correlated, entities, ranked
from tasks.data import readers
from tasks.data.readers import Table
from tasks.metrics.paired import Paired, paired_measures
from tasks.per_query import PER_QUERY, read_queries
from tasks.run import read_info, task_class
from tasks.text_schema import label_cells

PREDICTIONS = "predictions.csv"


def compare(first: Path, second: Path, evaluation: str | None = None) -> dict[str, Paired]:
    """Compare two saved runs over the rows that both were scored on.

    Args:
        evaluation: name of the folder under <run>/evaluations to take; None: the run's own last split.

    Raises:
        ConfigError: runs of different tasks, no such evaluation, a task without answers to compare.
        DataError: the runs were scored on different rows.
    """
    infos = [read_info(path) for path in (first, second)]
    if infos[0]["task"] != infos[1]["task"]:
        raise ConfigError(f"{first} is {infos[0]['task']}, {second} is {infos[1]['task']}: compare runs of one task.")
    labels = all_labels(infos)
    own, other = (
        read_answers(evaluation_folder(path, evaluation), info, labels)
        for path, info in zip((first, second), infos, strict=True)
    )
    require_same(own, other)
    names = [name for name in own.names if name in other.names]
    if own.names != other.names:
        if not (own.is_means and other.is_means and names):
            raise ConfigError(f"{own.where} has {', '.join(own.names)}, {other.where} {', '.join(other.names)}.")
        own, other = own.select(names), other.select(names)  # rankings measured at other cuts
    found = paired_measures(own.numbers, other.numbers, own.measures(len(own.examples)))
    return {name: found[name] for name in names}


def evaluation_folder(run: Path, evaluation: str | None) -> Path:
    """Where the tables of an evaluation are."""
    folder = run if evaluation is None else run / "evaluations" / evaluation
    if not folder.is_dir():
        there = sorted(path.name for path in (run / "evaluations").glob("*") if path.is_dir())
        known = f"there are {', '.join(there)}" if there else "there is none"
        raise ConfigError(f"evaluation={evaluation}: {run} was not evaluated under that name; {known}.")
    return folder


def all_labels(infos: Sequence[Mapping[str, Any]]) -> list[str]:
    """The labels of both runs: one may have been trained without a rare one."""
    names: set[str] = set()
    for info in infos:
        schema = info["schema"]
        names |= set(schema.get("labels", {}).get("names", ())) | set(schema.get("tags", {}).get("labels", ()))
    return sorted(names)


def read_answers(folder: Path, info: Mapping[str, Any], labels: Sequence[str]) -> Answers:
    """The answers of one run."""
    if (folder / PER_QUERY).is_file():
        return read_queries(folder / PER_QUERY)
    file = folder / PREDICTIONS
    if not file.is_file():
        raise ConfigError(f"{folder} has neither {PREDICTIONS} nor {PER_QUERY}: score it with `modernbert evaluate`.")
    table = readers.read(str(file))
    if info["task"] == "ner":
        golds, said = table.columns["entities"], last_named(table, "entities")
        return entities(file, table.columns["text"], golds, said, labels)
    if info["task"] == "classification":
        schema = task_class(info["target"]).schema_type.from_json(info["schema"])
        texts = list(zip(*(table.columns[name] for name in schema.text_columns()), strict=True))
        golds = label_cells(table, schema.columns["label"])
        return classified(file, schema.labels, texts, golds, last_named(table, "prediction"), labels)
    gold = last_named(table, "right") if "right" in table.columns else table.columns.get("label")
    if gold is None or "score" not in table.columns:
        raise ConfigError(f"{file}: answers of task {info['task']} cannot be compared.")
    pairs = list(zip(table.columns["query"], table.columns["document"], strict=True))
    right, score = (np.array([float(cell) for cell in column]) for column in (gold, last_named(table, "score")))
    if info["schema"].get("grades", info["schema"].get("kind")) == "scored":
        return correlated(file, list(zip(pairs, right.tolist(), strict=True)), right, score)
    return ranked(file, table.columns.get("query_id", table.columns["query"]), pairs, right, score)


def require_same(own: Answers, other: Answers) -> None:
    """DataError, naming the first row that differs, unless both runs were scored on the same rows."""
    if len(own.examples) != len(other.examples):
        raise DataError(
            f"{own.where} has {len(own.examples):,} rows, {other.where} {len(other.examples):,}: score both runs on "
            "the same file (`modernbert evaluate run=… data.test=…`) and compare with evaluation=<its name>."
        )
    for row, (a, b) in enumerate(zip(own.examples, other.examples, strict=True), start=1):
        if a != b:
            raise DataError(
                f"row {row} of {own.where} is {shortened(a)}, that of {other.where} {shortened(b)}: only answers to "
                "the same rows, with the same right answers, can be compared."
            )


def last_named(table: Table, name: str) -> list[Any]:
    """The column that `with_columns` added under a name, which has "_predicted" behind it where the name was taken."""
    while f"{name}_predicted" in table.columns:
        name += "_predicted"
    return table.columns[name]


def shortened(value: Any, length: int = 80) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"
