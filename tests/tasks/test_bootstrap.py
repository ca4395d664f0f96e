"""The resampling itself: its distribution, and that it hangs on nothing but the index."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tasks.metrics import bootstrap


def test_poisson_weights_are_poisson() -> None:
    w = bootstrap.poisson_weights(torch.arange(2000)).numpy()
    assert w.shape == (2000, bootstrap.REPLICATES)
    for k in range(5):  # 2 million draws: a share's standard error is below 4e-4
        assert np.mean(w == k) == pytest.approx(math.exp(-1) / math.factorial(k), abs=1.5e-3)
    assert w.mean() == pytest.approx(1.0, abs=2e-3)
    assert w.var() == pytest.approx(1.0, abs=5e-3)


def test_poisson_weights_of_rows_and_replicates_are_independent() -> None:
    w = bootstrap.poisson_weights(torch.arange(1000)).numpy()
    for side in (w, w.T):
        correlation = np.corrcoef(side[:300])
        off = correlation[~np.eye(300, dtype=bool)]
        # Of independent rows of 1,000: mean 0, standard deviation 1/sqrt(1000) = 0.0316.
        assert abs(off.mean()) < 1e-3
        assert off.std() == pytest.approx(0.0316, rel=0.05)


def test_poisson_weights_hang_on_the_index_alone() -> None:
    index = torch.tensor([5, 2**40 + 3, 0, 17])
    w = bootstrap.poisson_weights(index)
    assert torch.equal(bootstrap.poisson_weights(index[[2, 0]]), w[[2, 0]])
    assert torch.equal(bootstrap.poisson_weights(index, replicates=10), w[:, :10])
    assert not torch.equal(bootstrap.poisson_weights(index, seed=1), w)


def test_groups_are_even_and_hang_on_the_index_alone() -> None:
    group = bootstrap.group_of(torch.arange(64_000), 64)
    counts = torch.bincount(group, minlength=64)
    assert counts.shape == (64,)
    assert counts.min() > 850  # 1,000 +- 32 each
    assert counts.max() < 1150
    assert torch.equal(bootstrap.group_of(torch.tensor([9, 4]), 64), group[[9, 4]])


def test_resampled_counts_add_up_in_every_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "CHUNK_NUMBERS", 30)
    chunks = list(bootstrap.resampled_counts(np.array([5, 0, 95]), replicates=25))
    assert [len(chunk) for chunk in chunks] == [10, 10, 5]
    draws = np.concatenate(chunks)
    assert (draws.sum(1) == 100).all()
    assert (draws[:, 1] == 0).all()


def test_interval_and_mean_interval() -> None:
    assert bootstrap.interval(np.arange(1001.0)) == (pytest.approx(25.0), pytest.approx(975.0))
    assert bootstrap.interval(np.array([math.nan, 2.0])) == (2.0, 2.0)
    assert all(math.isnan(x) for x in bootstrap.interval(np.array([math.nan])))
    low, high = bootstrap.mean_interval(50.0, 50.0, 100)  # 50 ones of 100: sd 0.5, error 0.05
    assert (low, high) == (pytest.approx(0.5 - 0.098, abs=1e-5), pytest.approx(0.5 + 0.098, abs=1e-5))
