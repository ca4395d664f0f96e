"""What two saved runs answered to the same rows, as numbers an example that `tasks.metrics.paired` compares.

Everything is read from the tables that an evaluation left: predictions.csv, and for rankings per_query.csv. No model
is loaded. N examples, L labels; a leading `...` is nothing for the sums of all examples and R for replicates.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modernbert.errors import ConfigError, DataError
from tasks.data import readers
from tasks.data.readers import Table
from tasks.data.writers import open_writer
from tasks.metrics import RankingReport
from tasks.metrics.paired import Measures, Paired, paired_measures
from tasks.metrics.ranking import HEADLINE
from tasks.metrics.ranking import measures as rank_metrics
from tasks.metrics.rates import mean_defined, rates
from tasks.run import read_info, task_class
from tasks.text_schema import label_cells

#: Written beside predictions.csv by every task that ranks.
PER_QUERY = "per_query.csv"
PREDICTIONS = "predictions.csv"
QUERY, QUERY_ID = "query", "query_id"

Array = NDArray[np.float64]


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
        return entities(file, table, labels)
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


def classified(
    where: Path, labels: Any, texts: list[Any], golds: Sequence[Any], said: Sequence[Any], names: Sequence[str]
) -> Answers:
    """Answers of a classification of any kind; a gold or predicted cell as in predictions.csv."""
    right = [labels.parse(cell) if cell is not None or labels.kind == "multilabel" else None for cell in golds]
    found = [labels.parse(cell) if cell is not None or labels.kind == "multilabel" else None for cell in said]
    examples = list(zip(texts, right, strict=True))
    if labels.kind == "regression":
        return valued(where, examples, np.asarray(right, dtype=float), np.asarray(found, dtype=float), ("mae", "mse"))
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


F1_SINGLE, F1_MULTILABEL = ("accuracy", "f1_macro"), ("f1_micro", "f1_macro", "subset_accuracy")
F1_ENTITIES = ("f1", "precision", "recall", "f1_macro")


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


def valued(where: Path, examples: list[Any], gold: Array, found: Array, names: tuple[str, ...]) -> Answers:
    """Answers that are numbers: mean absolute and squared error."""
    error = np.abs(found - gold)
    return Answers(where, examples, np.stack([error, error**2], axis=1), means(("mae", "mse")), names)


def entities(where: Path, table: Table, labels: Sequence[str]) -> Answers:
    """Answers of named entities; one is right where its borders and its type are."""
    index = {label: i for i, label in enumerate(labels)}
    golds = [spans(cell) for cell in table.columns["entities"]]
    founds = [spans(cell) for cell in last_named(table, "entities")]
    size = len(labels)
    numbers = np.zeros((len(golds), 3 * size + 1))
    for row, (gold, found) in enumerate(zip(golds, founds, strict=True)):
        for block, chosen in enumerate((gold & found, found, gold)):
            for _, _, label in chosen:
                numbers[row, block * size + index[label]] += 1
        numbers[row, -1] = gold == found
    examples = list(zip(table.columns["text"], golds, strict=True))
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


def means(names: Sequence[str]) -> Callable[[int], Measures]:
    """The mean of each number."""

    def measures(total: int) -> Measures:
        return lambda sums: {name: sums[..., i] / total for i, name in enumerate(names)}

    return measures


def last_named(table: Table, name: str) -> list[Any]:
    """The column that `with_columns` added under a name, which has "_predicted" behind it where the name was taken."""
    while f"{name}_predicted" in table.columns:
        name += "_predicted"
    return table.columns[name]


def shortened(value: Any, length: int = 80) -> str:
    text = str(value)
    return text if len(text) <= length else text[: length - 1] + "…"
