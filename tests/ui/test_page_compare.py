"""Two runs on one page: answers side by side, the paired comparison, names, what spoke for an answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from modernbert.errors import ConfigError
from tasks.attribution import attribute
from tasks.comparison import compare
from tasks.embedding import Embedder
from tasks.run import Run
from tasks.vectors import similarity
from tasks.verdict import verdict
from ui.shelf import LOADED, Shelf
from ui.text_tab import explained

OpenPage = Callable[..., AbstractContextManager[Client]]
TEXT = "Where is my parcel, {and} who pays <b>for</b> it?"


@pytest.fixture(scope="module")
def other(make_run: Callable[..., Run]) -> Run:
    return make_run(["delivery", "billing", "account", "returns", "app"], name="other", seed=5)


@pytest.fixture(scope="module")
def both(run: Run, other: Run, ner_run: Run, open_page: OpenPage) -> Iterator[Client]:
    with open_page(run, other, ner_run) as client:
        yield client


def test_the_same_text_side_by_side(both: Client, run: Run, other: Run) -> None:
    shown, exact = both.predict(TEXT, "", "", api_name="/both")
    assert re.findall(r"<h3>(.*?)</h3>", shown) == ["auto-run", "other"]
    for each in (run, other):
        assert exact[each.folder.name]["scores"] == pytest.approx(each.answer([TEXT])[0].scores, abs=1e-6)


def test_the_paired_comparison_is_that_of_the_library(both: Client, run: Run, other: Run) -> None:
    found = compare(run.folder, other.folder)
    shown = both.predict(api_name="/paired")
    one = found["accuracy"]
    assert verdict("auto-run", "other", found) in shown
    assert f"<td>accuracy</td><td>{one.first:.4f}</td><td>{one.second:.4f}</td>" in shown


@pytest.mark.parametrize(
    ("name", "second", "message"),
    [("auto-run", "nobody", "There is no run 'nobody' here"), ("auto-run", "ner-run", "compare runs of one task")],
)
def test_what_cannot_be_compared_is_a_message(both: Client, name: str, second: str, message: str) -> None:
    with pytest.raises(AppError, match=message):
        both.predict(other=second, name=name, api_name="/paired")


def test_two_rankings_side_by_side(
    make_search_run: Callable[..., Run], open_page: OpenPage
) -> None:
    runs = [make_search_run(name="one"), make_search_run("multi_vector", "two")]
    with open_page(*runs) as client:
        _, exact = client.predict("my parcel", "", "the parcel has come\nmy money", api_name="/both")
        assert [len(numbers["documents"]) for numbers in exact.values()] == [2, 2]
        for run, numbers in zip(runs, exact.values(), strict=True):
            embedder = Embedder.from_run(run)
            texts = embedder.encode(["the parcel has come", "my money"], "document")
            right = similarity(embedder.encode(["my parcel"], "query"), texts)[0].tolist()
            found = {row["id"]: row["score"] for row in numbers["documents"]}
            assert found == pytest.approx({"line 1": right[0], "line 2": right[1]}, abs=1e-5)


def test_what_spoke_for_an_answer(both: Client, run: Run) -> None:
    label = run.answer([TEXT])[0].labels[0]
    found = attribute(run, [TEXT], label)
    shown = both.predict(TEXT, "", None, api_name="/explain")
    assert shown == explained(found, [TEXT])
    assert f"What spoke for {label}" in shown
    assert not {"{", "$"} & set(shown)
    assert "<b>" not in shown
    strongest = max(found.words, key=lambda word: abs(word.score))
    side = "for" if strongest.score > 0 else "against"
    mark = f'<mark class="{side}" style="--strength: 1.00" title="{strongest.score:+.3f}">'
    assert f"{mark}{TEXT[strongest.start : strongest.end]}" in shown
    assert "What spoke for account" in both.predict(TEXT, "", "account", api_name="/explain")
    with pytest.raises(AppError, match="'nothing' is no output"):
        both.predict(TEXT, "", "nothing", api_name="/explain")
    with pytest.raises(AppError, match="words are weighed for classification alone"):
        both.predict(TEXT, "", "account", name="ner-run", api_name="/explain")


def test_the_worst_errors_of_one_label(both: Client) -> None:
    everything = both.predict("", api_name="/errors")
    some = both.predict("billing", api_name="/errors")
    assert 1 < some.count("<tr>") < everything.count("<tr>")


def test_runs_of_one_name_are_told_apart(run: Run, other: Run, tmp_path: Path) -> None:
    for task in ("a", "b"):
        (tmp_path / task).mkdir()
        (tmp_path / task / "same").symlink_to(run.folder)
    first = tmp_path / "a" / "same"
    shelf = Shelf([run.folder, other.folder])
    assert shelf.add(first) == "auto-run", "the same folder, another way"
    assert shelf.names == ["auto-run", "other"]
    twin = tmp_path / "c" / "auto-run"
    twin.mkdir(parents=True)
    (twin / "task.json").write_bytes((run.folder / "task.json").read_bytes())
    assert shelf.add(twin) == "c/auto-run"
    with pytest.raises(ConfigError, match="is not a saved run"):
        shelf.add(tmp_path)


def test_few_runs_stay_in_memory(run: Run, tmp_path: Path) -> None:
    import shutil

    folders = [tmp_path / f"run-{i}" for i in range(LOADED + 1)]
    for folder in folders:
        folder.mkdir()
        shutil.copytree(run.folder / "model", folder / "model")
        shutil.copyfile(run.folder / "task.json", folder / "task.json")
    shelf = Shelf(folders, "cpu")
    first = shelf.get("run-0")
    assert shelf.get("run-0") is first
    for name in shelf.names[1:]:
        shelf.get(name)
    assert len(shelf.recent) == LOADED
    assert shelf.get("run-0") is not first
