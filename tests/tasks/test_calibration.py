"""Temperature and calibration error, from sums, against fits and bins of the stored logits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor

from tasks.metrics import MulticlassReport, MultilabelReport
from tasks.metrics.calibration import GRID


def direct_temperature(logits: Tensor, targets: Tensor) -> float:
    z = logits.double()
    result = minimize_scalar(
        lambda u: F.cross_entropy(z / float(np.exp(u)), targets).item(),
        bounds=(-2, 2),
        method="bounded",
        options={"xatol": 1e-7},
    )
    return float(np.exp(result.x))


def direct_error(confidence: np.ndarray, right: np.ndarray) -> float:
    cell = np.ceil(confidence * 15)
    parts = [np.abs(right[cell == m].sum() - confidence[cell == m].sum()) for m in range(1, 16)]
    return float(np.sum(parts) / len(right))


@pytest.mark.parametrize(("labels", "scale"), [(2, 1.0), (5, 2.5), (5, 0.4), (40, 1.3)])
def test_temperature_and_error_are_those_of_the_stored_logits(labels: int, scale: float) -> None:
    true = torch.randn(3000, labels) * 1.5
    targets = torch.multinomial(true.softmax(1), 1).squeeze(1)
    logits = true * scale
    report = MulticlassReport([str(i) for i in range(labels)])
    for rows in torch.arange(3000).split(333):
        report.update(logits[rows], targets[rows])
    ours = report.compute()
    temperature = direct_temperature(logits, targets)
    assert ours["temperature"] == pytest.approx(temperature, rel=2e-4)
    assert temperature == pytest.approx(scale, rel=0.1)  # the fit finds what was done to the logits
    right = (logits.argmax(1) == targets).numpy()
    for name, t, tolerance in (("ece", 1.0, 1e-5), ("ece_calibrated", temperature, 6e-3)):
        confidence = (logits.double() / t).softmax(1).max(1).values.numpy()
        assert ours[name] == pytest.approx(direct_error(confidence, right), abs=tolerance)


def test_yes_no_decisions_agree_with_the_stored_logits() -> None:
    true = torch.randn(2000, 3) - 0.5
    gold = (torch.rand(2000, 3) < torch.sigmoid(true)).long()
    logits = true * 2
    report = MultilabelReport(["a", "b", "c"])
    report.update(logits, gold, torch.arange(2000))
    ours = report.compute()
    flat, answers = logits.reshape(-1), gold.reshape(-1)
    two = torch.stack([torch.zeros_like(flat), flat], 1)
    temperature = direct_temperature(two, answers)
    assert ours["temperature"] == pytest.approx(temperature, rel=1e-3)
    right = (two.argmax(1) == answers).numpy()
    for name, t in (("ece", 1.0), ("ece_calibrated", temperature)):
        confidence = (two.double() / t).softmax(1).max(1).values.numpy()
        assert ours[name] == pytest.approx(direct_error(confidence, right), abs=2e-3)


def test_reliability_bins() -> None:
    logits = torch.log(torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.45, 0.55]]))
    report = MulticlassReport(["a", "b"])
    report.update(logits, torch.tensor([0, 1, 1]))
    bins = report.reliability()
    assert [row["count"] for row in bins if row["count"]] == [1, 2]
    assert bins[13]["accuracy"] == 0.5  # (13/15, 14/15] holds 0.9
    assert bins[13]["confidence"] == pytest.approx(0.9, abs=1e-6)
    assert bins[8]["accuracy"] == 1.0
    assert bins[0]["accuracy"] is None
    # |0.5 - 0.9| * 2/3 + |1 - 0.55| * 1/3
    assert report.compute()["ece"] == pytest.approx(0.8 / 3 + 0.15, abs=1e-6)


def test_a_perfect_model_gets_the_lowest_temperature() -> None:
    report = MulticlassReport(["a", "b"])
    report.update(torch.tensor([[3.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 1]))
    assert report.compute()["temperature"] == GRID.min()
