"""The reranking task: heads as others have them, losses, one gradient whatever the memory, saving, calibration."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, pipeline

from modernbert import weights
from modernbert.errors import ConfigError, DataError
from modernbert.packing import pack
from tasks.candidates import Candidates
from tasks.data.module import DataModule
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.evaluation import evaluate
from tasks.interaction import rescale
from tasks.optim import Optim
from tasks.reranking import IDENTITY, SIGMOID, Reranking, Score
from tasks.reranking_schema import RerankingSchema
from tasks.reranking_tables import add_rankings, ranks_within
from tasks.run import Run, save_run

FAMILIES = ["bert", "roberta", "modernbert"]
KINDS = ["cross", "poly", "uni"]
QUERIES = ["where is my order"] * 3 + ["refund please"] * 2 + ["shoes"] * 3
DOCUMENTS = ["the courier left it with a neighbour", "good", "the app closes again", "money back", "map",
             "send shoes back", "password does not work", "bad"]  # fmt: skip
LABELS = [1, 0, 0, 0, 1, 0, 2, 0]


def table(labels: list[Any] = LABELS, **more: list[Any]) -> Table:
    columns = {"query": list(QUERIES), "document": list(DOCUMENTS), "label": list(labels)} | more
    return Table("rows.csv", columns, list(range(2, 2 + len(QUERIES))))


def reranker(folder: Path, rows: Table | None = None, **settings: Any) -> tuple[Reranking, Any]:
    """A task with random weights whose scores are well apart, in evaluation mode, and its tokenizer."""
    read = {key: settings[key] for key in ("kind", "loss", "candidates") if key in settings}
    schema = RerankingSchema.fit(table() if rows is None else rows, {}, read, 60)
    torch.manual_seed(5)
    task = Reranking(weights.load_encoder(folder, dropout=0.0), schema, Optim(lr=1e-4), **settings).eval()
    tokenizer = load_tokenizer(folder)
    with torch.no_grad():
        for weight in task.encoder.parameters():
            weight.mul_(5 if weight.ndim == 2 else 1)  # texts of a tiny random encoder are else all alike
        own = table() if rows is None else rows
        logits = task(schema.examples(own, tokenizer, "evaluate").collate(range(3)).packed)
        rescale(task.head, float(1 / logits.std()), float(-logits.mean() / logits.std()))
    return task, tokenizer


def saved(task: Reranking, folder: Path, base: Path, **settings: Any) -> Path:
    save_run(folder, task, base, settings, {"data": {}})
    return folder


# -- the model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["bce", "lambda"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_run_is_a_cross_encoder(
    tmp_path: Path, tiny_encoder: Callable[..., Path], family: str, loss: str
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    base = tiny_encoder(family)
    task, _ = reranker(base, loss=loss)
    saved(task, tmp_path, base, loss=loss)
    ours = [score.value for score in Run.load(tmp_path).outputs(table())]
    model = sentence_transformers.CrossEncoder(str(tmp_path / "model"))
    theirs = model.predict(list(zip(QUERIES, DOCUMENTS, strict=True)))
    assert theirs.tolist() == pytest.approx(ours, abs=1e-5)
    assert max(ours) - min(ours) > 0.3
    assert (min(ours) >= 0) == (loss == "bce")
    ranked = model.rank("shoes", DOCUMENTS[5:])
    assert [hit["corpus_id"] for hit in ranked] == np.argsort([-value for value in ours[5:]]).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_run_loads_in_transformers(tmp_path: Path, tiny_encoder: Callable[..., Path], family: str) -> None:
    base = tiny_encoder(family)
    task, tokenizer = reranker(base)
    saved(task, tmp_path, base)
    oracle, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert oracle.config.num_labels == 1
    with torch.no_grad():
        ours = task(task.schema.examples(table(), tokenizer).collate(range(8)).packed)
        asked = zip(QUERIES, DOCUMENTS, strict=True)
        theirs = [oracle(**tokenizer(query, document, return_tensors="pt")).logits for query, document in asked]
    torch.testing.assert_close(ours, torch.cat(theirs), atol=1e-5, rtol=1e-5)
    scorer = pipeline("text-classification", model=str(tmp_path / "model"))
    found = scorer({"text": QUERIES[0], "text_pair": DOCUMENTS[0]})
    assert found["label"] == "relevance"
    assert found["score"] == pytest.approx(float(torch.sigmoid(ours[0])), abs=1e-5)


def test_which_activation_others_apply(tiny_encoder: Callable[..., Path]) -> None:
    bce, _ = reranker(tiny_encoder("bert"))
    margin, _ = reranker(tiny_encoder("bert"), loss="margin")
    assert bce.hf_config()["sentence_transformers"] == {"activation_fn": SIGMOID}
    assert margin.hf_config()["sentence_transformers"] == {"activation_fn": IDENTITY}
    assert margin.hf_config()["problem_type"] == "regression"


@pytest.mark.parametrize("kind", ["poly", "uni"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_other_kinds_are_saved_runs_of_ours(
    tmp_path: Path, tiny_encoder: Callable[..., Path], family: str, kind: str
) -> None:
    base = tiny_encoder(family)
    task, tokenizer = reranker(base, kind=kind)
    saved(task, tmp_path, base, kind=kind)
    run = Run.load(tmp_path)
    before = [score.value for score in Run(tmp_path, task, tokenizer, {}).outputs(table())]
    assert [score.value for score in run.outputs(table())] == pytest.approx(before, abs=1e-6)
    with pytest.raises(ConfigError, match=rf"A {kind}-encoder .* nothing but this package"):
        run.task(pack([[2, 5, 3]]))
    _, report = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert any("classifier" in name for name in report["missing_keys"])  # nobody takes it for a cross-encoder


# -- losses ------------------------------------------------------------------------------------------------


def test_bce_is_torchs_with_a_positive_weight(tiny_encoder: Callable[..., Path]) -> None:
    task, tokenizer = reranker(tiny_encoder("bert"), positive_weight=5)
    batch = task.schema.examples(table(), tokenizer).collate(range(8))
    with torch.no_grad():
        outputs = task(batch.packed)
    targets = torch.tensor(LABELS) / 2.0  # the largest grade is 2
    expected = F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets, pos_weight=torch.tensor(5.0))
    assert float(task.loss_sum(outputs, batch) / task.units(batch)) == pytest.approx(float(expected), rel=1e-6)
    balanced, _ = reranker(tiny_encoder("bert"), positive_weight="balanced")
    assert balanced.positive_weight == 5 / 3


def test_lists_count_queries(tiny_encoder: Callable[..., Path]) -> None:
    from tasks.listwise import margin

    task, tokenizer = reranker(tiny_encoder("bert"), loss="margin")
    batch = task.schema.examples(table(), tokenizer).collate([0, 1, 2])
    with torch.no_grad():
        outputs = task(batch.packed)
    scores = outputs.squeeze(1)
    expected = [
        margin(scores[rows][None], torch.tensor(LABELS)[rows][None], torch.ones(1, len(rows), dtype=torch.bool))
        for rows in ([0, 1, 2], [3, 4], [5, 6, 7])
    ]
    assert task.units(batch) == 3
    assert float(task.loss_sum(outputs, batch)) == pytest.approx(float(torch.cat(expected).sum()), rel=1e-6)
    assert task.loss_sum(outputs, batch, reduce=False).shape == (3,)


def test_a_teacher_is_what_distillation_follows(tiny_encoder: Callable[..., Path]) -> None:
    teacher = [8.0, 1.0, -2.0, 0.5, 3.0, 0.0, 9.0, 1.0]
    rows = table(teacher=teacher)
    task, tokenizer = reranker(tiny_encoder("bert"), rows, loss="mse")
    batch = task.schema.examples(rows, tokenizer).collate(range(8))
    outputs = task(batch.packed).detach()
    expected = F.mse_loss(outputs.squeeze(1), torch.tensor(teacher), reduction="sum")
    assert float(task.loss_sum(outputs, batch)) == pytest.approx(float(expected), rel=1e-6)
    task, _ = reranker(tiny_encoder("bert"), rows, loss="margin_mse")
    batch = task.schema.examples(rows, tokenizer).collate([1])
    s = task(batch.packed).detach().squeeze(1)
    assert float(task.loss_sum(s[:, None], batch)) == pytest.approx(float((s[1] - s[0] - 2.5) ** 2), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"loss": "hinge"}, "task.loss=hinge: allowed is bce, mse, listnet"),
        ({"kind": "bi"}, "task.kind=bi: allowed is cross, poly, uni"),
        ({"positive_weight": 0}, "task.positive_weight=0: allowed is null, balanced or a number above 0"),
        ({"positive_weight": 2, "loss": "margin"}, "task.positive_weight=2: allowed is null with task.loss=margin"),
        ({"calibrate": "isotonic"}, "task.calibrate=isotonic: allowed is none or platt"),
        ({"alarm": "off"}, "task.alarm=off: allowed is true or false"),
        ({"codes": 0}, "task.codes=0: allowed is 1 or more"),
    ],
)
def test_values_that_are_not_allowed(tiny_encoder: Callable[..., Path], settings: dict[str, Any], what: str) -> None:
    encoder = weights.load_encoder(tiny_encoder("bert"))
    with pytest.raises(ConfigError, match=what.replace(".", r"\.")):
        Reranking(encoder, RerankingSchema(60), **settings)


# -- training ----------------------------------------------------------------------------------------------


class Descent(Reranking):
    """Plain gradient descent, so that the weights after one step show the gradient itself."""

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        rate = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def trainer(**settings: Any) -> L.Trainer:
    return L.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0, **settings,
    )  # fmt: skip


def one_step(folder: Path, tokens_per_batch: int, **settings: Any) -> tuple[dict[str, torch.Tensor], Any]:
    read = {key: settings[key] for key in ("kind", "loss") if key in settings}
    schema = RerankingSchema.fit(table(), {}, read, 60)
    torch.manual_seed(3)
    task = Descent(weights.load_encoder(folder, dropout=0.0), schema, Optim(lr=1.0, clip=None), **settings).train()
    examples = {"train": schema.examples(table(), load_tokenizer(folder))}
    trainer(max_steps=1, limit_val_batches=0).fit(task, DataModule(examples, 8, tokens_per_batch, seed=0))
    return {name: value.detach().clone() for name, value in task.state_dict().items()}, task.throughput


@pytest.mark.parametrize(
    ("kind", "loss"),
    [("cross", "bce"), ("cross", "lambda"), ("cross", "listnet"), ("poly", "softmax"), ("uni", "bce"), ("uni", "mse")],
)
def test_micro_batches_do_not_change_the_gradient(tiny_encoder: Callable[..., Path], kind: str, loss: str) -> None:
    settings: dict[str, Any] = {"kind": kind, "loss": loss} | ({} if kind == "poly" else {"head_dropout": 0.0})
    whole, once = one_step(tiny_encoder("modernbert"), 4096, **settings)
    parts, often = one_step(tiny_encoder("modernbert"), 16, **settings)
    assert (once.micro_batches, often.micro_batches >= 3) == (1, True)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-4, msg=name)


def rule_rows(queries: int) -> Table:
    """Queries with three candidates, of which the one that says "good" is relevant."""
    words = ["parcel", "password", "shoes", "refund", "map", "money", "app", "order"]
    columns: dict[str, list[Any]] = {"query_id": [], "query": [], "document": [], "label": []}
    for i in range(queries):
        for place in range(3):
            relevant = place == i % 3
            columns["query_id"].append(str(i))
            columns["query"].append(f"where is {words[i % 8]}")
            columns["document"].append(f"the {words[(i + place) % 8]} is {'good' if relevant else 'back'} again")
            columns["label"].append(int(relevant))
    return Table("rule.csv", columns, list(range(2, 2 + len(columns["query"]))))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "loss"), [("cross", "bce"), ("cross", "lambda"), ("poly", "softmax"), ("uni", "bce")]
)
def test_each_kind_learns_a_rule(tiny_encoder: Callable[..., Path], kind: str, loss: str) -> None:
    folder = tiny_encoder("bert")
    rows = rule_rows(40)
    task, tokenizer = reranker(folder, rows, kind=kind, loss=loss)
    schema = task.schema
    torch.manual_seed(0)
    encoder = weights.load_encoder(folder, dropout=0.0)
    task = Reranking(encoder, schema, Optim(lr=2e-3), kind=kind, loss=loss).train()
    examples = {"train": schema.examples(rows, tokenizer), "validation": schema.examples(rows, tokenizer, "evaluate")}
    fit = trainer(max_epochs=8)
    fit.fit(task, DataModule(examples, 8, 4096, seed=0))
    assert float(fit.callback_metrics["val_map"]) > 0.9


# -- measuring ---------------------------------------------------------------------------------------------


def test_rankings_are_measured_over_queries_with_a_relevant_candidate(tiny_encoder: Callable[..., Path]) -> None:
    task, _ = reranker(tiny_encoder("bert"))
    report = task.new_report("test")
    scores = torch.tensor([0.1, 0.9, 0.5, 0.2, 0.7, 3.0, 2.0])
    labels = torch.tensor([1.0, 0.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    query = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    add_rankings(report, scores, labels, query)
    found = report.compute()
    assert found["map"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)
    assert found["mrr@10"] == pytest.approx((1 / 2 + 1) / 2)
    ideal = 1 + 1 / math.log2(3)
    assert found["ndcg@10"] == pytest.approx(((1 / math.log2(3) + 1 / 2) / ideal + 1) / 2)
    assert report.per_query()[0].tolist() == [0, 1]


def test_equal_scores_gain_nothing_from_the_order_of_the_file(tiny_encoder: Callable[..., Path]) -> None:
    task, _ = reranker(tiny_encoder("bert"))
    report = task.new_report("test")
    add_rankings(report, torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.zeros(4, dtype=torch.int64))
    assert report.compute()["mrr@10"] == pytest.approx(1 / 4)


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_a_split(tmp_path: Path, tiny_encoder: Callable[..., Path], kind: str) -> None:
    task, tokenizer = reranker(tiny_encoder("bert"), kind=kind)
    rows = table(query_id=list("aaabbccc"))
    examples = task.schema.examples(rows, tokenizer, "evaluate")
    seen: list[int] = []
    report = evaluate(task, examples, rows, "test", tmp_path, 30, seen.append)
    assert sum(seen) == 8
    with (tmp_path / "predictions.csv").open() as file:
        written = list(csv.DictReader(file))
    scores = [float(row["score"]) for row in written]
    assert [row["document"] for row in written] == DOCUMENTS
    assert [row["rank"] for row in written[:3]] == [str(1 + sum(s > score for s in scores[:3])) for score in scores[:3]]
    whole = [s.value for s in Run(tmp_path, task, tokenizer, {}).outputs(rows)]
    assert scores == pytest.approx(whole, abs=1e-5)
    first = [min(int(row["rank"]) for row in written if row["query_id"] == q and int(row["label"]) > 0) for q in "abc"]
    assert report.compute()["mrr@10"] == pytest.approx(sum(1 / rank for rank in first) / 3)
    with (tmp_path / "worst_errors.csv").open() as file:
        worst = list(csv.DictReader(file))
    assert [int(row["rank"]) for row in worst] == sorted((r for r in first if r > 1), reverse=True)
    for row in worst:
        assert float(row["its_score"]) >= float(row["score"])


def test_validation_in_training_measures_the_same(tiny_encoder: Callable[..., Path]) -> None:
    for kind in KINDS:
        task, tokenizer = reranker(tiny_encoder("bert"), kind=kind)
        examples = task.schema.examples(table(), tokenizer, "evaluate")
        fit = trainer(max_steps=1)
        found = fit.validate(task, DataModule({"train": examples, "validation": examples}, 8, 30, 0), verbose=False)
        report = task.new_report("test")
        with torch.no_grad():
            batch = examples.collate([0, 1, 2])
            task.eval().update_report(report, task(batch.packed), batch)
        assert found[0]["val_map"] == pytest.approx(report.compute()["map"], abs=1e-6)


def test_scores_are_measured_by_correlation(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    rows = table([0.5, 1.5, 2.0, 4.0, 5.0, 0.1, 3.3, 2.2])
    task, tokenizer = reranker(tiny_encoder("bert"), rows, loss="mse")
    report = evaluate(task, task.schema.examples(rows, tokenizer, "evaluate"), rows, "test", tmp_path)
    assert report.headline == "spearman"
    assert -1 <= report.compute()["spearman"] <= 1
    assert task.shown == ("spearman", "pearson")


# -- calibration -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_calibration_is_written_into_the_last_layer(
    tmp_path: Path, tiny_encoder: Callable[..., Path], family: str, kind: str
) -> None:
    base = tiny_encoder(family)
    task, tokenizer = reranker(base, kind=kind, loss="margin", calibrate="platt")
    examples = task.schema.examples(table(), tokenizer, "evaluate")
    evaluate(task, examples, table(), "validation", tmp_path)
    assert task.measured is not None
    logits = task.measured[0]
    task.measured = logits, (logits > logits.median()).float()  # so that the model is right
    assert task.fit(None)
    slope, offset = task.platt
    saved(task, tmp_path, base, kind=kind, loss="margin", calibrate="platt")
    run = Run.load(tmp_path)
    expected = torch.sigmoid(slope * logits + offset).tolist()
    assert [score.value for score in run.outputs(table())] == pytest.approx(expected, abs=1e-4)
    assert run.task.platt == pytest.approx((slope, offset))
    assert json.loads((tmp_path / "task.json").read_text())["fitted"]["platt"] == [slope, offset]


def test_a_model_that_has_it_backwards_is_not_calibrated(tiny_encoder: Callable[..., Path]) -> None:
    task, _ = reranker(tiny_encoder("bert"), calibrate="platt")
    task.measured = torch.tensor([3.0, 2.0, -1.0, -2.0]), torch.tensor([0.0, 0.0, 1.0, 1.0])
    with pytest.raises(DataError, match="the opposite of its task"):
        task.fit(None)


# -- answering ---------------------------------------------------------------------------------------------


def test_ranks_are_among_the_rows_of_a_query() -> None:
    assert ranks_within([0.1, 0.9, 0.9, 0.2], [0, 0, 0, 1]) == [3, 1, 2, 1]
    assert ranks_within([0.5, 0.1, 0.7], [1, 0, 1]) == [2, 1, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_of_a_table(tiny_encoder: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    task, tokenizer = reranker(tiny_encoder("bert"), kind=kind)
    rows = Table("x", {"query": [*QUERIES, "shoes"], "document": [*DOCUMENTS, None]}, list(range(9)))
    found = Run(tmp_path, task, tokenizer, {}).outputs(rows)
    assert found[8] is None
    assert [score.query for score in found[:8]] == [0, 0, 0, 1, 1, 2, 2, 2]
    columns = task.to_columns(found)
    assert sorted(columns["rank"][:3]) == [1, 2, 3]
    assert columns["rank"][8] is None
    assert columns["cut"][:8] == [False] * 8
    assert columns["score"][0] == pytest.approx(found[0].value)
    assert task.to_columns([None]) == {"score": [None], "rank": [None], "cut": [None]}
    assert task.decisions([Score(0.1, 0), Score(0.3, 0)]) == [2, 1]


def test_examples_are_candidates(tiny_encoder: Callable[..., Path]) -> None:
    task, tokenizer = reranker(tiny_encoder("bert"))
    predicted = task.schema.examples(table(), tokenizer, "predict")
    assert isinstance(predicted, Candidates)
    assert predicted.labels is None
    with pytest.raises(DataError, match="no labels to measure"):
        task.measure_ranking(predicted, table(), "test", Path())
