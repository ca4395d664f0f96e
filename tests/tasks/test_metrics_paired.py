"""Paired comparison: against closed forms, against F1 by hand, and its size under no difference."""

from __future__ import annotations

import math

import numpy as np
import pytest

from modernbert.errors import BackendError, DataError
from tasks.metrics.paired import paired, paired_measures


def test_mean_against_the_paired_t_interval_and_the_exact_test() -> None:
    rng = np.random.default_rng(0)
    first = rng.random(300)
    second = first + rng.normal(0.01, 0.1, 300)
    found = paired(first, second)
    change = second - first
    half = 1.96 * change.std(ddof=1) / math.sqrt(300)
    assert (found.first, found.second) == pytest.approx((first.mean(), second.mean()))
    assert found.difference == pytest.approx(change.mean())
    assert (found.low, found.high) == pytest.approx((change.mean() - half, change.mean() + half), abs=2e-3)
    z = abs(change.mean()) / (np.sqrt((change**2).sum()) / 300)  # the randomisation's own spread
    assert found.p_value == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)


def test_p_value_of_few_changes_is_the_sign_test() -> None:
    first = np.zeros(50)
    second = np.zeros(50)
    second[:5] = 1  # five examples better, none worse: two-sided 2 * (1/2)^5
    found = paired(first, second)
    assert found.p_value == pytest.approx(2 / 32, abs=0.01)
    assert found.difference == pytest.approx(0.1)


def test_equal_models() -> None:
    values = np.arange(10.0)
    found = paired(values, values)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_is_antisymmetric_and_seeded() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.random(80), rng.random(80)
    there, back = paired(first, second), paired(second, first)
    assert there == paired(first, second)
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))
    assert back.p_value == pytest.approx(there.p_value, abs=0.01)


def test_f1_of_sums_by_hand() -> None:
    def f1(sums: np.ndarray) -> dict[str, np.ndarray]:
        return {"f1": 2 * sums[..., 0] / np.maximum(sums[..., 1] + sums[..., 2], 1)}

    rng = np.random.default_rng(2)
    gold = rng.integers(1, 4, 200)
    counts = []
    for chance in (0.5, 0.8):
        right = rng.binomial(gold, chance)
        counts.append(np.stack([right, gold + rng.integers(0, 2, 200), gold], axis=1))
    found = paired_measures(counts[0], counts[1], f1)["f1"]
    wanted = [2 * c[:, 0].sum() / (c[:, 1].sum() + c[:, 2].sum()) for c in counts]
    assert (found.first, found.second) == pytest.approx(tuple(wanted))
    assert found.low < found.difference < found.high
    assert found.low > 0
    assert found.p_value == pytest.approx(1 / 10_001)


def test_chance_is_called_chance() -> None:
    rng = np.random.default_rng(3)
    small = sum(paired(*rng.integers(0, 2, (2, 60)).astype(float), seed=i).p_value <= 0.05 for i in range(60))
    assert small <= 8  # 3 expected; 8 or more has a chance of 1%


def test_errors() -> None:
    with pytest.raises(BackendError, match=r"\(N, K\)"):
        paired(np.zeros(3), np.zeros(4))
    with pytest.raises(DataError):
        paired(np.zeros(0), np.zeros(0))
