"""What a person reads for each kind of label."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from modernbert.errors import ConfigError
from tasks.answers import Label
from tasks.outputs import output_type
from tasks.run import Run
from ui import renderers
from ui.markup import table
from ui.renderers import LabelRenderer, renderer_of

TEXT = "Where is my parcel?"


def names(shown: str) -> list[str]:
    return re.findall(r'role="meter" aria-label="([^"]*)"', shown)


def test_many_labels_show_ten_and_unfold_the_rest(make_run: Callable[..., Run]) -> None:
    run = make_run([f"intent {i}" for i in range(14)])
    label = run.answer([TEXT])[0]
    shown, exact = renderer_of(run).show(label)
    first, rest = shown.split("<details><summary>4 more labels</summary>")
    assert len(names(first)) == 10
    assert len(names(rest)) == 4
    assert names(shown) == sorted(label.scores, key=lambda name: -label.scores[name])
    assert exact["scores"] == label.scores


def test_multilabel_marks_what_reaches_its_threshold(make_run: Callable[..., Run]) -> None:
    run = make_run(["a;b", "b", "c", "a"], kind="multilabel", thresholds=[0.2, 0.5, 0.9])
    assert LabelRenderer(run).limits == {"a": 0.2, "b": 0.5, "c": 0.9}
    shown = LabelRenderer(run).show(Label(("a",), {"a": 0.25, "b": 0.4, "c": 0.8}))[0]
    assert 'class="verdict">a<' in shown
    assert re.findall(r"class=chosen><span>(\w)<", shown) == ["a"]
    assert 'style="left: 20.00%" title="threshold 20.0%"' in shown
    many = dict.fromkeys("abcd", 0.99)
    assert 'class="verdict">4 labels<' in LabelRenderer(run).verdict(Label(tuple(many), many))
    none = LabelRenderer(run).show(Label((), {"a": 0.1, "b": 0.4, "c": 0.8}))[0]
    assert "No label reaches its threshold" in none
    assert "chosen" not in none


def test_levels_of_a_scale_keep_their_order(make_run: Callable[..., Run]) -> None:
    run = make_run(["1", "2", "3", "10"], kind="ordinal")
    assert names(renderer_of(run).show(run.answer([TEXT])[0])[0]) == ["1", "2", "3", "10"]


def test_regression_shows_the_value_and_its_scale(make_run: Callable[..., Run]) -> None:
    run = make_run(["1.5", "2.5", "4.0", "2.0"], kind="regression")
    label = run.answer([TEXT])[0]
    shown, exact = renderer_of(run).show(label)
    assert f'class="verdict">{label.value:.4g}<' in shown
    assert "2.5 on average" in shown
    assert exact["value"] == label.value
    assert "meter" not in shown


def test_labels_are_text_never_markup(run: Run) -> None:
    evil = "<img src=x onerror=alert(1)>${1+1}{{value}}"
    shown = LabelRenderer(run).show(Label((evil,), {evil: 1.0}))[0]
    assert "<img" not in shown
    assert "{" not in shown
    assert "$" not in shown
    assert "&lt;img" in shown


def test_the_output_type_comes_from_the_task(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert output_type(run.task) is Label
    monkeypatch.setattr(renderers, "RENDERERS", {})
    with pytest.raises(ConfigError, match="the page cannot show what task=classification gives"):
        renderer_of(run)


def test_tables_are_text_too() -> None:
    shown = table("Rows", ["<b>"], [["{{x}}"], [None], ["long " * 10]])
    assert '<th scope="col">&lt;b&gt;</th>' in shown
    assert "<td>&#123;&#123;x&#125;&#125;</td>" in shown
    assert "<td></td>" in shown
    assert "<td class=long>" in shown
