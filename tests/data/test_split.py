"""The validation split: shares of each class, groups whole, singles in training, fixed by seed."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modernbert.errors import ConfigError, DataError
from tasks.data.split import by_class, by_labels, by_quantile, folds, validation_split


def test_each_class_gives_its_share() -> None:
    labels = ["a"] * 800 + ["b"] * 150 + ["c"] * 50
    train, validation = validation_split(by_class(labels), 0.1, seed=0)
    assert Counter(labels[i] for i in validation) == {"a": 80, "b": 15, "c": 5}
    assert np.array_equal(np.sort(np.concatenate([train, validation])), np.arange(1000))
    assert np.array_equal(train, np.sort(train))


def test_a_class_with_one_example_stays_in_training() -> None:
    labels = ["a"] * 20 + ["single", "other single"]
    for seed in range(20):
        train, _ = validation_split(by_class(labels), 0.5, seed)
        assert {20, 21} <= set(train.tolist())


def test_many_small_classes_still_give_the_share() -> None:
    labels = [number // 4 for number in range(4000)]
    _, validation = validation_split(by_class(labels), 0.1, seed=0)
    assert abs(len(validation) - 400) <= 1
    assert max(Counter(labels[i] for i in validation).values()) == 1


def test_single_classes_take_nothing_from_the_others() -> None:
    labels = [f"single {number}" for number in range(100)] + ["a"] * 100
    _, validation = validation_split(by_class(labels), 0.1, seed=0)
    assert 9 <= len(validation) <= 11


@given(
    st.lists(st.integers(0, 4), min_size=12, max_size=120),
    st.sampled_from([0.1, 0.2, 0.5, 0.8]),
    st.integers(0, 99),
)
def test_properties_of_a_split_by_class(labels: list[int], share: float, seed: int) -> None:
    sizes = Counter(labels)
    if max(sizes.values()) * share < 1:
        return
    train, validation = validation_split(by_class(labels), share, seed)
    again = validation_split(by_class(labels), share, seed)
    assert np.array_equal(train, again[0])
    assert np.array_equal(validation, again[1])
    assert sorted([*train.tolist(), *validation.tolist()]) == list(range(len(labels)))
    held = Counter(labels[i] for i in validation)
    for label, size in sizes.items():
        assert held[label] < size
        assert abs(held[label] - share * size) <= 1.5 or held[label] == size - 1


def test_another_seed_gives_another_split() -> None:
    strata = by_class(["a", "b"] * 50)
    assert not np.array_equal(validation_split(strata, 0.2, 0)[1], validation_split(strata, 0.2, 1)[1])


def test_a_group_is_never_on_both_sides() -> None:
    generator = np.random.default_rng(0)
    groups = generator.integers(0, 60, 1000).tolist()
    labels = [int(generator.random() < 0.2 + 0.6 * (group % 2)) for group in groups]
    train, validation = validation_split(by_class(labels), 0.2, seed=0, groups=groups)
    assert not {groups[i] for i in train} & {groups[i] for i in validation}
    assert 0.15 < len(validation) / 1000 < 0.25
    assert abs(np.mean([labels[i] for i in validation]) - np.mean(labels)) < 0.08


def test_a_missing_group_is_a_group_of_its_own() -> None:
    train, validation = validation_split(by_class(["a"] * 40), 0.25, 0, groups=[None] * 40)
    assert (len(train), len(validation)) == (30, 10)


def test_every_label_of_several_gets_its_share() -> None:
    generator = np.random.default_rng(0)
    chances = np.array([0.5, 0.2, 0.05, 0.02])
    matrix = (generator.random((1000, 4)) < chances).astype(int)
    _, validation = validation_split(by_labels(matrix), 0.2, seed=0)
    share = matrix[validation].sum(0) / matrix.sum(0)
    assert np.all(np.abs(share - 0.2) < 0.05), share
    names = [{"abcd"[i] for i in np.flatnonzero(row)} for row in matrix]
    assert abs(len(validation_split(by_labels(names), 0.2, seed=0)[1]) - 200) < 20
    assert by_labels(np.array([[1, 0, 1], [0, 0, 0]])) == [(0, 2), ()]


def test_scores_are_split_by_quantile() -> None:
    scores = np.random.default_rng(0).exponential(size=1000)
    _, validation = validation_split(by_quantile(scores), 0.1, seed=0)
    assert len(validation) == 100
    held = np.sort(scores[validation])
    for tenth in np.quantile(scores, [0.1, 0.5, 0.9]):
        assert abs((held < tenth).mean() - (scores < tenth).mean()) < 0.02
    assert Counter(by_quantile(scores)) == {(bin_,): 100 for bin_ in range(10)}
    assert set(by_quantile([1.0, 1.0, 1.0])) == {(0,)}
    assert by_quantile([]) == []


def test_the_split_is_the_same_in_every_process(root: Path) -> None:
    """Names of labels come in sets, whose order differs from process to process."""
    labels = "[{'abc'[i % 3], 'cde'[i % 2], 'xyz'[i % 3]} for i in range(60)]"
    code = f"from tasks.data.split import *; print(validation_split(by_labels({labels}), 0.2, 0)[1].tolist())"
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    here = validation_split(
        by_labels([{"abc"[i % 3], "cde"[i % 2], "xyz"[i % 3]} for i in range(60)]), 0.2, 0
    )
    assert other.stdout.strip() == str(here[1].tolist())


def test_what_cannot_be_split_says_so() -> None:
    with pytest.raises(DataError, match=r"each class or label has a single example.*data\.validation"):
        validation_split(by_class(["a", "b", "c"]), 0.3, 0)
    with pytest.raises(DataError, match="single group"):
        validation_split(by_class(["a"] * 9), 0.3, 0, groups=["one"] * 9)
    with pytest.raises(DataError, match="3 examples but 2 groups"):
        validation_split(by_class(["a"] * 3), 0.3, 0, groups=[1, 2])
    for share in (0, 1, -0.1):
        with pytest.raises(ConfigError, match="between 0 and 1"):
            validation_split(by_class(["a"] * 3), share, 0)


@given(st.lists(st.integers(8, 40), min_size=1, max_size=4), st.integers(2, 4), st.integers(0, 99))
def test_each_example_is_in_one_fold(sizes: list[int], count: int, seed: int) -> None:
    labels = [label for label, size in enumerate(sizes) for _ in range(size)]
    parts = folds(by_class(labels), count, seed)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(labels)))
    again = folds(by_class(labels), count, seed)
    assert [part.tolist() for part in again] == [part.tolist() for part in parts]
    for label, size in Counter(labels).items():
        for part in parts:
            assert abs(sum(labels[i] == label for i in part) - size / count) <= 2


def test_folds_keep_groups_whole_and_alike() -> None:
    labels = ["a", "b"] * 100
    groups = [number // 4 for number in range(200)]
    parts = folds(by_class(labels), 10, 0, groups)
    assert [len(part) for part in parts] == [20] * 10
    homes = {group: {n for n, part in enumerate(parts) for i in part if groups[i] == group} for group in groups}
    assert all(len(found) == 1 for found in homes.values())


def test_a_label_of_one_row_has_no_folds() -> None:
    with pytest.raises(DataError, match=r"'lonely'.*too few rows for 5 folds"):
        folds(by_class(["a"] * 20 + ["b"] * 20 + ["lonely"]), 5, 0)
    with pytest.raises(ConfigError, match="1 folds"):
        folds(by_class(["a"] * 20), 1, 0)
