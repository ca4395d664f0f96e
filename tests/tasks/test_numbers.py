"""A loss that is not a number: the rows of the file are named, the batch is kept, the step is left out or all stops."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.cli import main
from modernbert.errors import ConfigError
from tasks import state
from tasks.classification import Classification
from tasks.data.examples import Batch
from tasks.numbers import IN_A_ROW, Numbers

POISON = 17  # the example that spoils the loss


@pytest.fixture
def line(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> list[str]:
    """A training of 40 rows, each on two lines of its file, all of them learned from, in 5 steps an epoch."""
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows([f"good order\nnumber {i}", "ab"[i % 2]] for i in range(40))
    return ["train", "task=classification", f"encoder.source={tiny_encoder('bert')}", "trainer=cpu",
            f"data.train={tmp_path / 'rows.csv'}", f"run_dir={tmp_path / 'run'}", "optim.batch_size=8",
            "data.validation_share=0", "trainer.max_epochs=2", "data.cache=false"]  # fmt: skip


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of one example is not a number, while the model learns and when it is asked for each example's."""
    loss_sum = Classification.loss_sum

    def spoilt(task: Classification, outputs: torch.Tensor, batch: Batch, reduce: bool = True) -> torch.Tensor:
        losses = loss_sum(task, outputs, batch, reduce=False)
        losses = losses * torch.where(batch.index == POISON, float("inf"), 1.0)
        return losses.sum() if reduce else losses

    monkeypatch.setattr(Classification, "loss_sum", spoilt)


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
def test_it_stops_with_the_row_and_keeps_the_batch(
    line: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(line) == 1
    said = capsys.readouterr().err
    place = 2 + 2 * POISON  # the header is line 1, a row takes two
    assert f"rows {place} of {tmp_path / 'rows.csv'} (whose own loss is not a number)" in said
    assert "Traceback" not in said
    (kept,) = (tmp_path / "run" / "spoilt").glob("*.safetensors")
    about, held = state.read_about(kept), state.read(kept)
    assert about["guilty"] == [POISON]
    assert len(about["rows"]) == 8
    assert place in about["rows"]
    index = torch.cat([batch["index"] for batch in held["batches"]])
    assert sorted(index.tolist()) == sorted((row - 2) // 2 for row in about["rows"])
    assert all(torch.isfinite(value).all() for value in held["weights"].values())


@pytest.mark.slow
@pytest.mark.usefixtures("poisoned")
def test_the_step_can_be_left_out(line: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert main([*line, "trainer.on_nan=skip"]) == 0
    training = json.loads((tmp_path / "run" / "task.json").read_text())["training"]
    assert (training["steps"], training["steps_left_out"]) == (8, 2)  # one of five in each epoch
    assert "The step is left out (trainer.on_nan=skip)." in caplog.text
    assert len(list((tmp_path / "run" / "spoilt").glob("*.safetensors"))) == 2


class Weightless:
    """What `sound` asks of a task, without one."""

    global_rank = 0
    trainer = type("Trainer", (), {"world_size": 2})


def test_spoilt_weights_stop_it_all_the_same() -> None:
    numbers = Numbers("skip", source="x.csv", rows=range(5, 9))
    batch = Batch(None, None, torch.tensor([2, 0]))  # type: ignore[arg-type]
    for _ in range(IN_A_ROW - 1):
        assert not numbers.sound(Weightless(), [batch], 3, float("nan"), 1.0)
    with pytest.raises(Exception, match=rf"rows 5, 7 of x\.csv .*{IN_A_ROW} steps in a row were left out"):
        numbers.sound(Weightless(), [batch], 3, float("nan"), 1.0)
    assert numbers.sound(Weightless(), [batch], 3, 1.0, 1.0)
    assert numbers.in_a_row == 0
    assert numbers.skipped == IN_A_ROW


def test_a_full_disk_does_not_hide_the_rows(tmp_path: Path) -> None:
    (tmp_path / "spoilt").write_text("a file where the folder should be")
    numbers = Numbers("skip", folder=tmp_path / "spoilt", rows=range(5, 9), source="x.csv")
    assert "could not be kept" in numbers.keep(Weightless(), [], 1, 0.0, 0.0, [], weights=False)


def test_another_word_is_refused() -> None:
    with pytest.raises(ConfigError, match="allowed is stop or skip"):
        Numbers("ignore")  # type: ignore[arg-type]
