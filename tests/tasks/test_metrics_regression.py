"""The report of scores against scipy and scikit-learn."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn import metrics as oracle
from torch import Tensor

from modernbert.errors import BackendError, DataError
from tasks.metrics import RegressionReport


def filled(
    scores: Tensor, gold: Tensor, grades: list[float] | None = None, order: Tensor | None = None
) -> RegressionReport:
    report = RegressionReport(grades)
    for rows in (torch.arange(len(gold)) if order is None else order).split(77):
        report.update(scores[rows], gold[rows], rows)
    return report


def test_values_are_the_oracles() -> None:
    gold = torch.randint(0, 5, (600,))  # ties, as real grades have
    scores = ((gold + torch.randn(600)) * 4).round() / 4
    report = filled(scores[:, None], gold, [0, 1, 2, 3, 4])
    ours, x, y = report.compute(), scores.double().numpy(), gold.double().numpy()
    near = np.clip(np.floor(x + 0.5), 0, 4)
    expected = {
        "mse": oracle.mean_squared_error(y, x),
        "rmse": oracle.root_mean_squared_error(y, x),
        "mae": oracle.mean_absolute_error(y, x),
        "r2": oracle.r2_score(y, x),
        "pearson": stats.pearsonr(x, y)[0],
        "spearman": stats.spearmanr(x, y)[0],
        "accuracy": np.mean(near == y),
        "qwk": oracle.cohen_kappa_score(near, y, weights="quadratic"),
    }
    for name, value in expected.items():
        assert ours[name] == pytest.approx(value, abs=1e-9), name
        assert ours[f"{name}_low"] < value < ours[f"{name}_high"], name  # type: ignore[operator]
    np.testing.assert_array_equal(report.confusion(), oracle.confusion_matrix(y, near))
    assert [row["label"] for row in report.per_class()] == ["0", "1", "2", "3", "4"]
    assert (report.headline, report.mode) == ("qwk", "max")
    json.dumps([ours, report.per_class()], allow_nan=False)


def test_intervals_are_those_of_a_bootstrap_over_examples() -> None:
    gold = torch.rand(200) * 3
    scores = gold + torch.randn(200) * 0.5
    ours, x, y = filled(scores, gold).compute(), scores.double().numpy(), gold.double().numpy()
    rng = np.random.default_rng(1)
    draws = []
    for _ in range(600):
        i = rng.integers(200, size=200)
        draws.append((stats.spearmanr(x[i], y[i])[0], np.mean((x[i] - y[i]) ** 2)))
    low, high = np.quantile(np.array(draws), [0.025, 0.975], axis=0)
    for i, name in enumerate(("spearman", "mse")):
        tolerance = 0.15 * (high[i] - low[i])
        assert ours[f"{name}_low"] == pytest.approx(low[i], abs=tolerance), name
        assert ours[f"{name}_high"] == pytest.approx(high[i], abs=tolerance), name


def test_order_and_ranks_do_not_change_a_digit() -> None:
    gold, scores = torch.rand(150), torch.rand(150)
    whole = filled(scores, gold).compute()
    assert filled(scores, gold, order=torch.randperm(150)).compute() == whole
    first, second = (
        filled(scores, gold, order=torch.arange(0, 60)),
        filled(scores, gold, order=torch.arange(60, 150)),
    )
    first.merge_state(second)
    assert first.compute() == whole
    first.reset()
    with pytest.raises(DataError, match="no rows"):
        first.compute()


def test_edge_cases() -> None:
    one = filled(torch.tensor([1.5]), torch.tensor([2.0]))
    result = one.compute()
    assert (result["mse"], result["mse_low"], result["mae"]) == (0.25, 0.25, 0.5)
    assert result["pearson"] is None
    assert result["r2"] is None
    assert one.confusion().shape == (0, 0)
    assert one.per_class() == []
    constant = filled(torch.full((9,), 0.1), torch.rand(9)).compute()
    assert constant["spearman"] is None
    assert constant["pearson"] is None
    with pytest.raises(BackendError, match=r"\(B,\)"):
        RegressionReport().update(torch.zeros(3, 2), torch.zeros(3), torch.arange(3))
    with pytest.raises(DataError, match="rising"):
        RegressionReport([3, 1])
