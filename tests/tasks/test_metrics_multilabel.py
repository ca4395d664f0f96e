"""The multi-label report against scikit-learn, brute-force thresholds and a brute-force bootstrap."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle
from torch import Tensor

from modernbert.errors import BackendError, ConfigError, DataError
from modernbert.weights import load_encoder
from tasks.classification import Classification, ClassificationSchema
from tasks.data.readers import Table
from tasks.metrics import MultilabelReport
from tasks.metrics.histogram import THRESHOLD_LIMIT, best_threshold


def example(rows: int, labels: int) -> tuple[Tensor, Tensor]:
    """Labels that go together, as in real data: a shared part makes their errors correlate."""
    logits = torch.randn(rows, labels) * 1.5 + torch.randn(rows, 1) - 1
    gold = torch.rand(rows, labels) < torch.sigmoid(logits + torch.randn(rows, 1))
    return logits, gold.long()


def filled(
    logits: Tensor, gold: Tensor, thresholds: list[float] | None = None, batch: int = 91
) -> MultilabelReport:
    report = MultilabelReport([f"l{i}" for i in range(logits.shape[1])], thresholds)
    for rows in torch.arange(len(gold)).split(batch):
        report.update(logits[rows], gold[rows], rows)
    return report


def decisions(gold: np.ndarray, yes: np.ndarray) -> dict[str, float]:
    return {
        "f1_macro": oracle.f1_score(gold, yes, average="macro"),
        "f1_micro": oracle.f1_score(gold, yes, average="micro"),
        "f1_weighted": oracle.f1_score(gold, yes, average="weighted"),
        "precision_macro": oracle.precision_score(gold, yes, average="macro"),
        "recall_macro": oracle.recall_score(gold, yes, average="macro"),
        "subset_accuracy": oracle.accuracy_score(gold, yes),
        "hamming_loss": oracle.hamming_loss(gold, yes),
    }


def test_values_are_scikit_learns() -> None:
    logits, gold = example(800, 5)
    thresholds = [0.3, 0.4, 0.5, 0.25, 0.6]
    report = filled(logits, gold, thresholds)
    ours, y, p = report.compute(), gold.numpy(), torch.sigmoid(logits).numpy()
    for suffix, yes in (("", p >= 0.5), ("_tuned", p >= np.array(thresholds))):
        for name, value in decisions(y, yes).items():
            assert ours[name + suffix] == pytest.approx(value, abs=1e-9), name + suffix
            assert ours[f"{name}{suffix}_low"] < value < ours[f"{name}{suffix}_high"]  # type: ignore[operator]
    assert ours["roc_auc_macro"] == pytest.approx(oracle.roc_auc_score(y, p, average="macro"), abs=1e-4)
    assert ours["average_precision_macro"] == pytest.approx(
        oracle.average_precision_score(y, p, average="macro"), abs=1e-3
    )
    assert ours["log_loss"] == pytest.approx(-np.log(np.where(y == 1, p, 1 - p)).mean(), abs=2e-6)
    assert ours["brier"] == pytest.approx(((p - y) ** 2).mean(), abs=2e-6)
    np.testing.assert_array_equal(report.confusion(), oracle.multilabel_confusion_matrix(y, p >= 0.5))
    row = report.per_class()[3]
    assert row["threshold"] == pytest.approx(0.25)
    assert row["f1_tuned"] == pytest.approx(oracle.f1_score(y[:, 3], p[:, 3] >= 0.25))
    assert row["roc_auc"] == pytest.approx(oracle.roc_auc_score(y[:, 3], p[:, 3]), abs=5e-4)
    json.dumps([ours, report.per_class(), report.reliability()], allow_nan=False)


def test_tuned_thresholds_reach_the_best_f1() -> None:
    logits, gold = example(500, 4)
    report = filled(logits, gold)
    ours = report.compute()
    p = torch.sigmoid(logits.double()).numpy()
    reached = []
    for label, threshold in enumerate(report.tuned_thresholds()):
        precision, recall, _ = oracle.precision_recall_curve(gold[:, label], p[:, label])
        best = np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))
        reached.append(oracle.f1_score(gold[:, label], p[:, label] >= threshold))
        assert reached[-1] == pytest.approx(
            best, abs=2e-3
        )  # rows of one bin (0.016 of a logit) stay together
        assert report.per_class()[label]["threshold"] == pytest.approx(threshold)
    assert ours["f1_macro_tuned"] == pytest.approx(np.mean(reached), abs=1e-9)
    # The second pass, with the thresholds given, sees the same rows on the same side.
    given = filled(logits, gold, report.tuned_thresholds()).compute()
    for name in ("f1_macro_tuned", "f1_micro_tuned", "hamming_loss_tuned"):
        assert given[name] == pytest.approx(ours[name], abs=1e-9)
        width = given[f"{name}_high"] - given[f"{name}_low"]  # type: ignore[operator]
        # Groups against rows: two estimates of one spread, the former with about 9% of noise.
        assert ours[f"{name}_high"] - ours[f"{name}_low"] == pytest.approx(width, rel=0.35)  # type: ignore[operator]


def test_thresholds_lie_in_the_middle_of_the_gap() -> None:
    bins, limit = 64, 32.0  # a bin is one logit wide
    pos, neg = np.zeros(bins, int), np.zeros(bins, int)
    neg[30], pos[41] = 5, 5  # cuts 31 .. 41 part them perfectly: the middle is 36, logit 4
    assert best_threshold(pos, neg, limit) == 4.0
    assert best_threshold(np.zeros(bins, int), neg, limit) == 0.0
    pos[63], neg[30] = 5, 0  # everything is positive: yes to all seen, no lower
    assert best_threshold(pos, neg, limit) == pytest.approx(41 - 32)
    far = np.zeros(bins, int)
    far[60] = 1
    assert best_threshold(far, neg, limit) == THRESHOLD_LIMIT


def test_intervals_are_those_of_a_bootstrap_over_examples() -> None:
    logits, gold = example(500, 4)
    ours = filled(logits, gold).compute()
    y, p = gold.numpy(), torch.sigmoid(logits).numpy()
    rng = np.random.default_rng(1)
    draws: dict[str, list[float]] = {}
    for _ in range(250):
        i = rng.integers(500, size=500)
        values = {
            "f1_macro": oracle.f1_score(y[i], p[i] >= 0.5, average="macro"),
            "subset_accuracy": (y[i] == (p[i] >= 0.5)).all(axis=1).mean(),
            "roc_auc_macro": oracle.roc_auc_score(y[i], p[i], average="macro"),
            "average_precision_macro": oracle.average_precision_score(y[i], p[i], average="macro"),
        }
        for name, value in values.items():
            draws.setdefault(name, []).append(value)
    for name, values_drawn in draws.items():
        low, high = np.quantile(values_drawn, [0.025, 0.975])
        # A quantile of 250 replicates has a standard error of 6% of the width; groups add 9% to their spread.
        tolerance = (0.3 if name in ("roc_auc_macro", "average_precision_macro") else 0.2) * (high - low)
        assert ours[f"{name}_low"] == pytest.approx(low, abs=tolerance), name
        assert ours[f"{name}_high"] == pytest.approx(high, abs=tolerance), name


def test_order_batches_and_ranks_do_not_change_a_digit() -> None:
    logits, gold = example(300, 3)
    whole = filled(logits, gold, batch=300).compute()
    shuffled = MultilabelReport(["l0", "l1", "l2"])
    for rows in torch.randperm(300).split(37):
        shuffled.update(logits[rows], gold[rows], rows)
    assert shuffled.compute() == whole


def test_autocast_does_not_round() -> None:
    logits, gold = example(300, 3)
    before = filled(logits, gold).compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert filled(logits, gold).compute() == before


def test_edge_cases() -> None:
    with pytest.raises(DataError, match="no rows were evaluated"):
        MultilabelReport(["a", "b"]).compute()
    one = filled(torch.tensor([[2.0, -2.0]]), torch.tensor([[1, 0]]))
    result = one.compute()
    assert result["f1_macro"] == 1.0  # the second label is neither gold nor predicted
    assert (result["subset_accuracy"], result["hamming_loss"]) == (1.0, 0.0)
    assert result["roc_auc_macro"] is None
    assert one.per_class()[1]["f1"] is None
    none = filled(torch.full((6, 2), -1.0), torch.zeros(6, 2, dtype=torch.long)).compute()
    assert none["f1_micro"] is None  # nothing to find and nothing found
    assert none["subset_accuracy"] == 1.0
    with pytest.raises(ConfigError, match="2 probabilities"):
        MultilabelReport(["a", "b"], thresholds=[0.5])
    with pytest.raises(BackendError, match=r"\(B, 2\)"):
        MultilabelReport(["a", "b"]).update(torch.zeros(3, 2), torch.zeros(3), torch.arange(3))


def test_only_validation_rows_tune_a_run(tiny_encoder: Callable[..., Path]) -> None:
    table = Table("rows.csv", {"text": ["good", "bad", "map"], "label": ["a", "b", "a;b"]}, [2, 3, 4])
    schema = ClassificationSchema.fit(table, {"text": "text", "label": "label"}, {}, max_length=16)
    task = Classification(load_encoder(tiny_encoder("bert")), schema)
    gold = torch.tensor([[1, 0], [0, 1], [1, 1]] * 5)
    logits = 2.0 * gold - 3.0  # told apart by -2, while the usual threshold is 0

    def tuned(split: str) -> tuple[float, MultilabelReport]:
        report = task.new_report(split)
        report.update(logits, gold, torch.arange(len(gold)))
        return float(report.compute()["f1_macro_tuned"]), report

    assert tuned("test")[0] == 0.0
    found, report = tuned("validation")
    assert found == 1.0
    task.fit(report)
    assert tuned("test")[0] == 1.0
