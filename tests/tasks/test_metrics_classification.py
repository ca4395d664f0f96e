"""The single-label report against scikit-learn, a brute-force bootstrap, and its edge cases."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle
from torch import Tensor

from modernbert.errors import BackendError, ConfigError, DataError, ModernBertError
from tasks.metrics import MulticlassReport, WorstErrors


def example(rows: int, labels: int, noise: float = 2.0) -> tuple[Tensor, Tensor]:
    logits = torch.randn(rows, labels) * 2
    return logits, (logits + noise * torch.randn(rows, labels)).argmax(1)


def filled(logits: Tensor, targets: Tensor, batch: int = 97) -> MulticlassReport:
    report = MulticlassReport([f"c{i}" for i in range(logits.shape[1])])
    index = torch.arange(len(targets))
    for start in range(0, len(targets), batch):
        rows = slice(start, start + batch)
        report.update(logits[rows], targets[rows], index[rows])
    return report


def test_values_are_scikit_learns() -> None:
    logits, targets = example(1500, 6)
    targets[targets == 5] = 0  # a label that is predicted but never gold
    report = filled(logits, targets)
    ours, p, y = report.compute(), logits.softmax(1).double().numpy(), targets.numpy()
    guess = logits.argmax(1).numpy()
    expected = {
        "accuracy": oracle.accuracy_score(y, guess),
        "f1_macro": oracle.f1_score(y, guess, average="macro"),
        "f1_micro": oracle.f1_score(y, guess, average="micro"),
        "f1_weighted": oracle.f1_score(y, guess, average="weighted"),
        "precision_macro": oracle.precision_score(y, guess, average="macro"),
        "recall_macro": oracle.recall_score(y, guess, average="macro", zero_division=0),
        "mcc": oracle.matthews_corrcoef(y, guess),
        "log_loss": -np.log(p[np.arange(len(y)), y]).mean(),
        "brier": ((p - np.eye(6)[y]) ** 2).sum(1).mean(),
    }
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=2e-6), name
        assert ours[f"{name}_low"] < value < ours[f"{name}_high"], name  # type: ignore[operator]
    np.testing.assert_array_equal(report.confusion(), oracle.confusion_matrix(y, guess, labels=range(6)))
    scores = oracle.precision_recall_fscore_support(y, guess, labels=range(6), zero_division=0)
    for i, row in enumerate(report.per_class()):
        assert row["label"] == f"c{i}"
        values = (row["precision"], row["recall"], row["f1"], row["support"])
        assert values == pytest.approx([s[i] for s in scores])
    json.dumps([ours, report.per_class(), report.reliability()], allow_nan=False)


def test_two_labels_have_ranking_metrics() -> None:
    logits, targets = example(3000, 2)
    ours = filled(logits, targets).compute()
    score = (logits[:, 1] - logits[:, 0]).numpy()
    assert ours["roc_auc"] == pytest.approx(oracle.roc_auc_score(targets, score), abs=1e-4)
    assert ours["average_precision"] == pytest.approx(
        oracle.average_precision_score(targets, score), abs=1e-3
    )
    assert "roc_auc" not in filled(*example(50, 3)).compute()


def test_ranking_metrics_are_exact_in_distinct_bins() -> None:
    score = torch.randperm(60).float() / 4 - 7  # quarters of a logit: 64 bins apart
    targets = (score + 4 * torch.randn(60) > 0).long()
    ours = filled(torch.stack([torch.zeros(60), score], 1), targets).compute()
    assert ours["roc_auc"] == pytest.approx(oracle.roc_auc_score(targets, score), abs=1e-12)
    assert ours["average_precision"] == pytest.approx(
        oracle.average_precision_score(targets, score), abs=1e-12
    )


def test_intervals_are_those_of_a_bootstrap_over_examples() -> None:
    logits, targets = example(400, 4)
    ours = filled(logits, targets).compute()
    rng = np.random.default_rng(1)
    guess, y = logits.argmax(1).numpy(), targets.numpy()
    draws = []
    for _ in range(500):
        i = rng.integers(400, size=400)
        f1 = oracle.f1_score(y[i], guess[i], average="macro")
        draws.append((np.mean(y[i] == guess[i]), f1, oracle.matthews_corrcoef(y[i], guess[i])))
    low, high = np.quantile(np.array(draws), [0.025, 0.975], axis=0)
    for i, name in enumerate(("accuracy", "f1_macro", "mcc")):
        # With 500 replicates a quantile's standard error is about 5% of the interval's width.
        tolerance = 0.15 * (high[i] - low[i])
        assert ours[f"{name}_low"] == pytest.approx(low[i], abs=tolerance), name
        assert ours[f"{name}_high"] == pytest.approx(high[i], abs=tolerance), name


def test_ranking_intervals_are_those_of_a_bootstrap_over_examples() -> None:
    logits, targets = example(300, 2)
    ours = filled(logits, targets).compute()
    score, y = (logits[:, 1] - logits[:, 0]).numpy(), targets.numpy()
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(400):
        i = rng.integers(300, size=300)
        draws.append((oracle.roc_auc_score(y[i], score[i]), oracle.average_precision_score(y[i], score[i])))
    low, high = np.quantile(np.array(draws), [0.025, 0.975], axis=0)
    for i, name in enumerate(("roc_auc", "average_precision")):
        # Quantiles of average precision spread a little more: 0.2 is 3 standard errors of the difference.
        tolerance = 0.2 * (high[i] - low[i])
        assert ours[f"{name}_low"] == pytest.approx(low[i], abs=tolerance), name
        assert ours[f"{name}_high"] == pytest.approx(high[i], abs=tolerance), name


def test_order_batches_and_ranks_do_not_change_a_digit() -> None:
    logits, targets = example(500, 2)
    whole = filled(logits, targets, batch=500).compute()
    order = torch.randperm(500)
    assert filled(logits[order], targets[order], batch=33).compute() == whole
    first, second = filled(logits[:123], targets[:123]), filled(logits[123:], targets[123:])
    first.merge_state(second)
    assert first.compute() == whole


def test_reset_and_inference_mode() -> None:
    logits, targets = example(100, 3)
    report = filled(logits, targets)
    before = report.compute()
    with torch.inference_mode():
        report.reset()
        report.update(logits[:50], targets[:50], torch.arange(50))
    report.update(
        logits[50:], targets[50:], torch.arange(50, 100)
    )  # outside: the state is an inference tensor
    assert report.compute() == before


def test_autocast_does_not_round() -> None:
    logits, targets = example(300, 3)
    before = filled(logits, targets).compute()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert filled(logits, targets).compute() == before


def test_edge_cases() -> None:
    with pytest.raises(DataError, match="no rows were evaluated"):
        MulticlassReport(["a", "b"]).compute()
    one = filled(torch.tensor([[1.0, 3.0]]), torch.tensor([1]))
    result = one.compute()
    assert (result["accuracy"], result["accuracy_low"], result["accuracy_high"]) == (1.0, 1.0, 1.0)
    assert result["roc_auc"] is None
    assert result["roc_auc_low"] is None
    assert result["mcc"] == 0.0
    assert one.per_class()[0]["f1"] is None  # neither gold nor predicted
    assert result["f1_macro"] == 1.0
    wrong = filled(torch.tensor([[1.0, 3.0, 0.0]] * 4), torch.zeros(4, dtype=torch.long)).compute()
    assert (wrong["accuracy"], wrong["f1_macro"]) == (0.0, 0.0)
    assert wrong["temperature"] == 4.0  # every answer wrong: as unsure as the grid allows
    empty = MulticlassReport(["a", "b"])
    empty.update(torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    with pytest.raises(DataError):
        empty.compute()


def test_bad_input_is_named() -> None:
    report = MulticlassReport(["a", "b"])
    with pytest.raises(BackendError, match=r"\(B, 2\)"):
        report.update(torch.zeros(3, 4), torch.zeros(3, dtype=torch.long))
    with pytest.raises(DataError, match=r"0 \.\. 1"):
        report.update(torch.zeros(2, 2), torch.tensor([0, 2]))
    with pytest.raises(ModernBertError, match="examples 7"):
        report.update(torch.tensor([[0.0, 1], [float("nan"), 0]]), torch.tensor([0, 1]), torch.tensor([3, 7]))
    with pytest.raises(ConfigError, match="roc_auc"):
        MulticlassReport(["a", "b"], headline="auc")


def test_headline_says_which_way_is_better() -> None:
    assert (MulticlassReport(["a", "b"]).headline, MulticlassReport(["a", "b"]).mode) == ("f1_macro", "max")
    assert MulticlassReport(["a", "b"], headline="log_loss").mode == "min"


def test_150_classes_are_quick() -> None:
    logits, targets = example(10_000, 150)
    report = MulticlassReport([str(i) for i in range(150)])
    start = time.process_time()
    report.update(logits, targets)
    report.compute()
    # About 0.7 s on one core of the machine it was written on.
    assert time.process_time() - start < 5.0


def test_worst_errors_are_the_worst_whatever_the_order() -> None:
    loss = torch.rand(1000)
    loss[::7] = 0.9999  # ties
    predicted, gold = torch.randint(0, 3, (1000,)), torch.randint(0, 3, (1000,))
    expected = sorted(
        ((float(loss[i]), -i) for i in range(1000) if predicted[i] != gold[i]), key=lambda e: e, reverse=True
    )[:50]
    for order in (torch.arange(1000), torch.randperm(1000)):
        worst, other = WorstErrors(), WorstErrors()
        for part, rows in enumerate(order.split(64)):
            (worst if part % 2 else other).update(loss[rows], predicted[rows], gold[rows], rows)
        worst.merge(other)
        assert [(row["loss"], -row["index"]) for row in worst.rows()] == expected
    assert worst.rows()[0]["predicted"] == int(predicted[worst.rows()[0]["index"]])


def test_worst_errors_of_label_sets() -> None:
    worst = WorstErrors(k=2)
    gold = torch.tensor([[1, 0], [0, 1], [1, 1]])
    worst.update(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([[1, 0], [1, 1], [0, 0]]), gold, torch.arange(3))
    assert worst.rows() == [
        {"index": 1, "loss": 2.0, "predicted": [1, 1], "gold": [0, 1]},
        {"index": 2, "loss": 1.0, "predicted": [0, 0], "gold": [1, 1]},
    ]
