"""`modernbert compare` over saved tables of every task: metrics by hand, rows that differ, real runs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from search_runs import WORDS, read_csv, write_csv

from app.cli import main
from tasks.answers import Span
from tasks.comparison import compare
from tasks.data.entities import TagSet
from tasks.data.readers import Table
from tasks.data.writers import open_writer, with_columns
from tasks.labels import Labels
from tasks.metrics import RankingReport
from tasks.ner_schema import NerSchema
from tasks.ner_tables import readable
from tasks.per_query import write_queries
from tasks.run import write_json
from tasks.text_schema import ClassificationSchema

pytest_plugins = "search_runs"

TEXTS = [f"text {i}" for i in range(40)]


def said(capsys: pytest.CaptureFixture) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def save(folder: Path, task: str, target: str, schema: dict[str, Any], columns: dict[str, Sequence[Any]]) -> Path:
    """The parts of a run that are compared."""
    folder.mkdir(parents=True)
    write_json(folder / "task.json", {"format": 1, "task": task, "target": target, "schema": schema})
    with open_writer(folder / "predictions.csv") as writer:
        writer.write(columns)
    return folder


def classifier(folder: Path, labels: Labels, gold: Sequence[Any], said_: Sequence[Any], texts: Any = None) -> Path:
    schema = ClassificationSchema({"text": "text", "label": "label"}, labels, 64)
    columns = {"text": texts or TEXTS[: len(gold)], "label": gold, "row": range(2, len(gold) + 2), "prediction": said_}
    return save(folder, "classification", "tasks.classification.Classification", schema.to_json(), columns)


def test_classes(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    gold = ["a", "b"] * 20
    first = classifier(tmp_path / "1", Labels("binary", ("a", "b")), gold, ["a"] * 40)
    second = classifier(tmp_path / "2", Labels("binary", ("a", "b")), gold, [*gold[:30], *["a"] * 10])
    found = compare(first, second)
    assert (found["accuracy"].first, found["accuracy"].second) == (0.5, 35 / 40)
    assert found["f1_macro"].first == pytest.approx((2 / 3 + 0) / 2)
    assert found["f1_macro"].second == pytest.approx((40 / 45 + 30 / 35) / 2)
    assert found["accuracy"].p_value < 1e-3
    assert found["accuracy"].low > 0.2
    output = tmp_path / "found.json"
    assert main(["compare", f"run={first}", f"other={second}", f"output={output}"]) == 0
    told = said(capsys)
    assert "accuracy 0.5000 0.8750 +0.3750" in told
    assert f"By accuracy, {second} is better than {first} by 0.3750" in told
    saved = json.loads(output.read_text())["metrics"]
    assert saved["accuracy"]["difference"] == 0.375
    assert main(["compare", f"run={second}", f"other={first}"]) == 0
    assert f"{second} is better than {first} by 0.3750" in said(capsys)


def test_several_labels_and_values(tmp_path: Path) -> None:
    several = Labels("multilabel", ("a", "b"))
    gold = ["a;b", "a", "", "b"]
    found = compare(
        classifier(tmp_path / "1", several, gold, ["a", "a", "", ""]), classifier(tmp_path / "2", several, gold, gold)
    )
    assert found["f1_micro"].first == pytest.approx(2 * 2 / (2 + 4))
    assert (found["subset_accuracy"].first, found["subset_accuracy"].second) == (0.5, 1.0)
    values = Labels("regression")
    found = compare(
        classifier(tmp_path / "3", values, ["1", "2.5"], ["1.5", "2.5"]),
        classifier(tmp_path / "4", values, ["1", "2.5"], ["3", "2.5"]),
    )
    assert (found["mae"].first, found["mae"].second) == (0.25, 1.0)
    assert (found["mse"].first, found["mse"].second) == (0.125, 2.0)


def test_less_error_is_better(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    gold = [str(i) for i in range(40)]
    worse = classifier(tmp_path / "1", Labels("regression"), gold, [str(i + 1 + i % 3) for i in range(40)])
    better = classifier(tmp_path / "2", Labels("regression"), gold, [str(i + 0.5) for i in range(40)])
    assert main(["compare", f"run={worse}", f"other={better}"]) == 0
    assert f"By mae, {better} is better than {worse} by 1.4750" in said(capsys)


def tagger(folder: Path, gold: list[list[tuple]], found: list[list[tuple]]) -> Path:
    """A run whose predictions.csv is written as the task writes it."""
    table = Table("rows", {"text": TEXTS[: len(gold)], "entities": gold}, list(range(2, len(gold) + 2)), [])
    spans = [[Span(*span, text, 0.9) for span in row] for row, text in zip(found, TEXTS, strict=False)]
    columns = with_columns(readable(table, spans), {"entities": [[vars(span) for span in row] for row in spans]})
    schema = dataclasses.asdict(NerSchema({"text": "text"}, TagSet(("PER", "ORG"), "BIO"), 64, 16))
    return save(folder, "ner", "tasks.ner.Ner", schema, columns)


def test_entities(tmp_path: Path) -> None:
    gold = [[(0, 4, "PER"), (5, 6, "ORG")], [], [(0, 4, "ORG")]]
    first = tagger(tmp_path / "1", gold, [[(0, 4, "PER"), (5, 6, "PER")], [(0, 2, "PER")], []])
    second = tagger(tmp_path / "2", gold, gold)
    found = compare(first, second)
    assert found["f1"].first == pytest.approx(2 * 1 / (3 + 3))
    assert (found["precision"].first, found["recall"].first) == pytest.approx((1 / 3, 1 / 3))
    assert found["f1_macro"].first == pytest.approx((2 * 1 / (3 + 1) + 0) / 2)
    assert found["f1"].second == 1


def ranking(folder: Path, places: Sequence[int], ks: tuple[int, ...] = (1, 10), queries: Any = TEXTS) -> Path:
    """A run whose queries have one relevant document, found at these ranks."""
    report = RankingReport(ks)
    grades = torch.zeros(len(places), 10, dtype=torch.int64)
    grades[torch.arange(len(places)), torch.tensor(places) - 1] = 1
    report.update(grades, torch.ones(len(places), 1), torch.arange(len(places)))
    save(folder, "retrieval", "tasks.retrieval.Retrieval", {"kind": "tuples"}, {"query": ["never read"]})
    write_queries(folder, [f"q{i}" for i in range(len(places))], list(queries), report)
    return folder


def test_rankings_also_at_other_cuts(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    first = ranking(tmp_path / "1", [2] * 40)
    second = ranking(tmp_path / "2", [1] * 20 + [2] * 20, ks=(1, 5, 10))
    found = compare(first, second)
    assert next(iter(found)) == "ndcg@10"
    assert found["ndcg@10"].first == pytest.approx(1 / math.log2(3), abs=1e-6)
    assert found["mrr@10"].difference == pytest.approx(0.25)
    assert "ndcg@5" not in found
    assert main(["compare", f"run={first}", f"other={second}"]) == 0
    told = said(capsys)
    assert "By ndcg@10" in told
    assert "hits@1" not in told


def test_scored_pairs(tmp_path: Path) -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 6, 200) / 5
    scores = [gold + rng.normal(0, spread, 200) for spread in (1.0, 0.2)]
    runs = [
        save(
            tmp_path / str(i), "retrieval", "tasks.retrieval.Retrieval", {"kind": "scored"},
            {"query": TEXTS * 5, "document": TEXTS * 5, "right": gold, "score": score},
        )
        for i, score in enumerate(scores)
    ]  # fmt: skip
    found = compare(*runs)
    for name, measure in (("spearman", stats.spearmanr), ("pearson", stats.pearsonr)):
        assert found[name].first == pytest.approx(measure(gold, scores[0]).statistic, abs=1e-6)
        assert found[name].second == pytest.approx(measure(gold, scores[1]).statistic, abs=1e-6)
        assert found[name].low > 0


def test_rerankings(tmp_path: Path) -> None:
    columns = {
        "query": ["q", "q", "q", "r", "r", "s"],
        "document": list("abcdef"),
        "label": ["0", "1", "0", "1", "0", "0"],  # s has no relevant document
    }
    runs = [
        save(
            tmp_path / str(i), "reranking", "tasks.reranking.Reranking", {"grades": "binary"},
            columns | {"score": scores, "rank": [1] * 6},
        )
        for i, scores in enumerate(([3, 2, 1, 1, 2, 0], [1, 2, 1, 3, 2, 0]))
    ]  # fmt: skip
    found = compare(*runs)
    assert (found["mrr@10"].first, found["mrr@10"].second) == (0.5, 1.0)
    assert found["ndcg@10"].first == pytest.approx(1 / math.log2(3))


def test_other_rows_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = Labels("binary", ("a", "b"))
    first = classifier(tmp_path / "1", labels, ["a", "b"], ["a", "b"])
    for name, other, message in (
        ("2", classifier(tmp_path / "2", labels, ["a", "b", "a"], ["a", "b", "a"]), "has 2 rows"),
        ("3", classifier(tmp_path / "3", labels, ["a", "a"], ["a", "b"]), "row 2 of"),
        ("4", classifier(tmp_path / "4", labels, ["a", "b"], ["a", "b"], ["text 0", "else"]), "row 2 of"),
    ):
        assert main(["compare", f"run={first}", f"other={other}"]) == 1, name
        assert message in said(capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["other={first}"], "are one run"),
        (["other={other}"], "compare runs of one task"),
        (["other={same}", "evaluation=held"], "was not evaluated under that name"),
        (["other={same}", "output=no/where.json"], "the folder is not there"),
        (["other=nowhere"], "does not exist"),
    ],
)
def test_mistakes(words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    labels = Labels("binary", ("a", "b"))
    places = {
        "first": classifier(tmp_path / "first", labels, ["a"], ["a"]),
        "same": classifier(tmp_path / "same", labels, ["a"], ["a"]),
        "other": ranking(tmp_path / "other", [1]),
    }
    assert main(["compare", f"run={places['first']}", *(word.format(**places) for word in words)]) == 2
    assert message in said(capsys)


@pytest.mark.slow
def test_two_trained_runs(train_run: Callable[..., Path], tmp_path: Path, corpus_folder: Path) -> None:
    first, second = train_run("dense"), train_run("other", "seed=1")
    found = compare(first, second)
    for run, side in ((first, "first"), (second, "second")):
        metrics = json.loads((run / "metrics.json").read_text())["test"]
        for name in ("ndcg@10", "map", "recall@100"):
            assert getattr(found[name], side) == pytest.approx(metrics[name], abs=2e-6)
        files = [f"data.test={corpus_folder / 'questions.csv'}", f"data.corpus={corpus_folder / 'docs.csv'}"]
        assert main(["evaluate", f"run={run}", *files, f"output={run / 'evaluations' / 'again'}"]) == 0
    again = compare(first, second, "again")
    assert again["ndcg@10"] == found["ndcg@10"]
    assert len(read_csv(first / "per_query.csv")) == len(read_csv(first / "evaluations" / "again" / "per_query.csv"))


@pytest.mark.slow
def test_trained_rerankers(zero_shot: str, tmp_path: Path) -> None:
    rows = [(f"where is my {word}", f"the {other} and the money", str(int(word == other)))
            for word in WORDS for other in WORDS]  # fmt: skip
    pairs = write_csv(tmp_path / "pairs.csv", ("query", "document", "label"), *rows)
    runs = [tmp_path / name for name in "ab"]
    for seed, run in enumerate(runs):
        words = [f"data.train={pairs}", f"data.test={pairs}", f"run_dir={run}", f"seed={seed}", "trainer=cpu"]
        assert main(["train", "task=reranking", zero_shot, *words, "trainer.max_epochs=1", "optim.batch_size=8"]) == 0
    found = compare(*runs)
    for run, side in zip(runs, ("first", "second"), strict=True):
        metrics = json.loads((run / "metrics.json").read_text())["test"]
        for name in ("map", "ndcg@10", "mrr@10"):
            assert getattr(found[name], side) == pytest.approx(metrics[name], abs=2e-6)
