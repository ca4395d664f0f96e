"""Kinds of label are read off the cells, and become the right targets."""

from __future__ import annotations

import numpy as np
import pytest

from modernbert.errors import ConfigError, DataError
from tasks.labels import Labels, fit_labels, is_on, is_switch, merge_columns


@pytest.mark.parametrize(
    ("cells", "kind", "names"),
    [
        (["spam", "ham", "spam"], "binary", ("ham", "spam")),
        (["10", "9", "2"], "multiclass", ("2", "9", "10")),
        ([1.0, 2.0, 3.0], "multiclass", ("1", "2", "3")),
        ([" a", "a ", "b"], "binary", ("a", "b")),
        (["news;sport", "sport", "news"], "multilabel", ("news", "sport")),
        ([["x", "y"], ["y"]], "multilabel", ("x", "y")),
        (["say; hello", "wave", "nod"], "multiclass", ("nod", "say; hello", "wave")),
        (["0.5", "1.25", "3"], "regression", ()),
        ([True, False], "binary", ("False", "True")),
        (["null", "NA", "null"], "binary", ("NA", "null")),
    ],
)
def test_kind_and_names_are_read_off_the_cells(cells: list, kind: str, names: tuple[str, ...]) -> None:
    labels = fit_labels(cells, "auto")
    assert (labels.kind, labels.names) == (kind, names)


def test_ordinal_levels_ascend_and_have_one_output_a_step() -> None:
    labels = fit_labels(["3", "1", "2", "10"], "ordinal")
    assert labels.names == ("1", "2", "3", "10")
    assert labels.outputs == 3
    assert labels.targets(["10", "1"]).tolist() == [3, 0]


def test_regression_targets_are_standardised_by_training_values() -> None:
    labels = fit_labels(["1", "2,5", "4"], "regression")
    assert labels.mean == pytest.approx(2.5)
    np.testing.assert_allclose(labels.targets(["2.5", "4"]), [0.0, 1.5 / labels.std], rtol=1e-6)


def test_multi_hot_targets() -> None:
    labels = Labels("multilabel", ("a", "b", "c"))
    assert labels.targets(["a;c", None, ["b", "b"]]).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_one_column_a_label() -> None:
    cells = merge_columns([["1", "0"], ["x", ""]], ["toxic", "rude"])
    assert cells == [("toxic", "rude"), ()]
    labels = fit_labels(cells, "auto", columns=["toxic", "rude"])
    assert (labels.kind, labels.names) == ("multilabel", ("toxic", "rude"))
    assert labels.targets(cells).tolist() == [[1, 1], [0, 0]]


@pytest.mark.parametrize(("value", "on"), [("1", True), (1.0, True), ("True", True), ("0", False), ("", False)])
def test_what_counts_as_on(value: object, on: bool) -> None:
    assert is_on(value) is on


@pytest.mark.parametrize(("value", "known"), [("1", True), (None, True), ("No ", True), (0.0, True), ("maybe", False)])
def test_a_switch_says_yes_or_no(value: object, known: bool) -> None:
    assert is_switch(value) is known


def test_refusals_say_what_was_given_and_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"task.kind=many: allowed is auto, binary"):
        fit_labels(["a", "b"], "many")
    with pytest.raises(DataError, match="Every row has the label 'a'"):
        fit_labels(["a", "a"], "auto")
    with pytest.raises(DataError, match=r"60 different labels in 60 rows look like text or ids"):
        fit_labels([f"text number {i}" for i in range(60)], "auto")
    with pytest.raises(ConfigError, match="no label is a number"):
        fit_labels(["a", "b"], "regression")
    with pytest.raises(ConfigError, match=r"task\.kind=binary, but there are 3 labels"):
        fit_labels(["a", "b", "c"], "binary")
    with pytest.raises(DataError, match=r"labels \['z'\] are not among the 2 of training"):
        fit_labels(["a", "b"], "auto").targets(["z"])
