"""Cross-validation from its command line to its JSON, on an encoder and rows small enough for seconds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import forked
import pytest

from app import cli
from app.bench import child, folds_suite

ROWS = [(f"the parcel {n} is {label}", label) for n in range(20) for label in ("good", "bad")]


@pytest.fixture
def words(tiny_encoder: Callable[..., Path], tmp_path: Path) -> list[str]:
    file = tmp_path / "rows.csv"
    file.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS), encoding="utf-8")
    return ["bench", "folds", "task=classification", f"data.train={file}", f"encoder.source={tiny_encoder('bert')}"]


@pytest.mark.slow
def test_each_row_is_tested_once_and_by_a_training_without_it(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    tested, trained = Counter[str](), list[int]()

    def seen(module: str, given: Sequence[str]) -> str:
        files = {key: value.strip("'") for key, _, value in (word.partition("=") for word in given)}
        lines = {key: Path(files[f"data.{key}"]).read_text(encoding="utf-8").splitlines() for key in ("train", "test")}
        assert not set(lines["train"]) & set(lines["test"])
        tested.update(lines["test"])
        trained.append(len(lines["train"]))
        return forked.output(module, given)

    monkeypatch.setattr(child, "run", seen)
    more = ["folds=4", "trainer.max_epochs=20", "optim.lr=3e-3", "encoder.dropout=0", "task.head_dropout=0"]
    assert cli.main([*words, *more, "data.validation_share=0", "trainer.accelerator=cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(tested) == len(ROWS)
    assert set(tested.values()) == {1}
    assert trained == [30, 30, 30, 30]
    assert [fold["rows"] for fold in found["folds"]] == [10, 10, 10, 10]
    accuracies = [fold["quality"]["accuracy"] for fold in found["folds"]]
    assert found["summary"]["accuracy"]["mean"] == pytest.approx(sum(accuracies) / 4)
    assert found["summary"]["accuracy"]["mean"] > 0.9  # the label stands in the text


def test_a_metric_that_a_fold_has_not_is_left_out() -> None:
    qualities = [{"accuracy": 0.5, "roc_auc": None}, {"accuracy": 1.0, "roc_auc": 0.7}]
    found = [{"fold": i, "rows": 10, "cpu_seconds": 1.0, "quality": one} for i, one in enumerate(qualities, 1)]
    assert [str(column.header) for column in folds_suite.table(found).columns] == ["fold", "rows", "CPU s", "accuracy"]
    assert folds_suite.summary(found)["accuracy"]["mean"] == 0.75
    assert folds_suite.scores(qualities[0]) == "accuracy 0.5000"


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("data.test=rows.csv", "data.test is given"),
        ("folds=1", "1 folds: allowed is 2 or more"),
        ("data.group=writer", "data.group=writer: the columns are"),
    ],
)
def test_wrong_values(words: list[str], word: str, told: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main([*words, word]) == 2
    assert told in " ".join(capsys.readouterr().err.split())


def test_other_tasks_are_refused(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "folds", "task=ner", "data.train=rows.conll"]) == 2
    assert "bench folds parts the rows of a classification only" in " ".join(capsys.readouterr().err.split())
