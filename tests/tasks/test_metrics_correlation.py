"""Correlations of scored pairs against scipy; their intervals; ranks and states."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modernbert.errors import ConfigError, DataError
from tasks.metrics.correlation import CorrelationReport


def test_equals_scipy_on_other_scales() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    gold = rng.integers(0, 6, 300).astype(np.float32)  # many ties
    scores = (0.1 * gold + rng.normal(size=300)).astype(np.float32)
    report = CorrelationReport()
    for part in torch.randperm(300).split(64):
        report.update(torch.from_numpy(scores)[part], torch.from_numpy(gold)[part], part)
    result = report.compute()
    assert set(result) == {f"{n}{e}" for n in ("spearman", "pearson") for e in ("", "_low", "_high")}
    assert result["spearman"] == pytest.approx(stats.spearmanr(scores, gold).statistic, abs=1e-6)
    assert result["pearson"] == pytest.approx(stats.pearsonr(scores, gold).statistic, abs=1e-6)
    low, high = stats.pearsonr(scores, gold).confidence_interval()
    assert (result["pearson_low"], result["pearson_high"]) == pytest.approx((low, high), abs=0.03)
    assert (report.headline, report.mode) == ("spearman", "max")


def test_empty_reset_and_wrong_headline() -> None:
    report = CorrelationReport()
    report.update(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]), torch.tensor([0, 1]))
    assert report.compute()["spearman"] == pytest.approx(1)
    report.reset()
    with pytest.raises(DataError, match="no rows"):
        report.compute()
    with pytest.raises(ConfigError, match="mse"):
        CorrelationReport(headline="mse")
