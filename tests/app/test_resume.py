"""A training that was cut short and resumed gives what an undisturbed one does: weights bit for bit, scores, curves."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from resume_runs import result, struck, words, write_rows

from app.bench import faults_suite
from app.cli import main
from app.failures import OK, STOPPED, TRY_AGAIN
from tasks import state
from tasks.base import Task


class Crash(BaseException):
    """The end of a process, as far as the disk can tell."""


class Strike:
    """Cuts a training short after one of its steps, or in its validation."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at, self.how, self.steps = 0, "", 0
        train, validate = Task.training_step, Task.validation_step

        def training_step(task: Task, *args: Any) -> None:
            self.steps += 1
            train(task, *args)
            if self.steps == self.at and self.how != "validation":
                self.do()

        def validation_step(task: Task, *args: Any) -> None:
            if self.steps == self.at and self.how == "validation":
                self.do()
            validate(task, *args)

        monkeypatch.setattr(Task, "training_step", training_step)
        monkeypatch.setattr(Task, "validation_step", validation_step)

    def do(self) -> None:
        if self.how in ("SIGTERM", "SIGINT"):
            os.kill(os.getpid(), getattr(signal, self.how))
        else:
            raise Crash

    def run(self, line: list[str], at: int = 0, how: str = "") -> int | None:
        """The exit status of a command line; None where it crashed."""
        self.at, self.how, self.steps = at, how, 0
        try:
            return main(line)
        except Crash:
            return None


@pytest.fixture
def strike(monkeypatch: pytest.MonkeyPatch) -> Strike:
    return Strike(monkeypatch)


STATUS = {"crash": None, "validation": None, "SIGTERM": TRY_AGAIN, "SIGINT": STOPPED}
# 120 rows, 12 of them for validation: 4 steps an epoch, 12 in all.
CASES: dict[str, tuple[str, list[str], list[tuple[str, int]]]] = {
    "in each place": (
        "bert",
        ["trainer.checkpoint_every=3"],
        [("crash", 2), ("crash", 6), ("validation", 8), ("SIGTERM", 5), ("SIGINT", 12)],
    ),
    "validation in mid-epoch": (
        "modernbert",
        ["trainer.checkpoint_every=1", "trainer.validate_every=0.5", "trainer.patience=9"],
        [("validation", 6), ("SIGTERM", 3)],
    ),
    "by steps": ("bert", ["trainer.checkpoint_every=2", "trainer.max_steps=7"], [("SIGTERM", 6)]),
    "one step an epoch": ("bert", ["optim.batch_size=200", "trainer.checkpoint_every=1"], [("crash", 2)]),
    "early stopping": (
        "bert",
        ["trainer.max_epochs=9", "trainer.patience=1", "trainer.monitor=log_loss", "trainer.checkpoint_every=4"],
        [("crash", 6)],
    ),
    "without validation": (
        "modernbert",
        ["data.validation_share=0", "trainer.checkpoint_every=4"],
        [("crash", 7)],
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_resumed_is_undisturbed(
    tmp_path: Path, tiny_encoder: Callable[..., Path], strike: Strike, case: str
) -> None:
    family, more, strikes = CASES[case]
    line = words(tiny_encoder(family), write_rows(tmp_path / "rows.csv"), *more)
    assert strike.run([*line, f"run_dir={tmp_path / 'whole'}"]) == OK
    whole, steps = result(tmp_path / "whole"), strike.steps
    for how, at in strikes:
        run = tmp_path / f"{how}-{at}"
        assert strike.run([*line, f"run_dir={run}"], at, how) == STATUS[how], (how, at)
        assert not (run / "task.json").exists()
        assert strike.run(["train", f"resume={run}"]) == OK, (how, at)
        assert strike.steps <= steps - (at > 3), "it began again"
        assert result(run) == whole, (how, at)
        assert not (run / "checkpoints").exists()


#: task -> its words; the tiny encoder knows few of the words of these files, which matters to nothing here.
OTHERS = {
    "ner": ["task=ner", "data.train={examples}/support_ner.jsonl", "task.head=crf", "optim.batch_size=24"],
    "retrieval": ["task=retrieval", "data.train={examples}/manual_questions.csv", "optim.batch_size=16"],
    "reranking": ["task=reranking", "data.train={pairs}", "task.loss=lambda", "optim.batch_size=8"],
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_tasks(
    tmp_path: Path, tiny_encoder: Callable[..., Path], strike: Strike, root: Path, name: str
) -> None:
    pairs = tmp_path / "pairs.csv"
    lines = [f"where is order {i},{text} {i},{int(text == 'parcel')}" for i in range(30) for text in ("parcel", "map")]
    pairs.write_text("\n".join(["query,document,label", *lines]) + "\n", encoding="utf-8")
    words = [word.format(examples=root / "examples", pairs=pairs) for word in OTHERS[name]]
    line = ["train", f"encoder.source={tiny_encoder('bert')}", *words, "trainer=cpu", "trainer.threads=1",
            "trainer.checkpoint_every=2", "trainer.max_epochs=2", "optim.lr=1e-3", "data.cache=false"]  # fmt: skip
    assert strike.run([*line, f"run_dir={tmp_path / 'whole'}"]) == OK
    run = tmp_path / "cut"
    assert strike.run([*line, f"run_dir={run}"], strike.steps - 1, "SIGTERM") == TRY_AGAIN
    assert strike.run(["train", f"resume={run}"]) == OK
    assert strike.steps == 1
    assert result(run) == result(tmp_path / "whole")


@pytest.mark.slow
def test_resumed_three_times(tmp_path: Path, tiny_encoder: Callable[..., Path], strike: Strike) -> None:
    line = words(tiny_encoder("bert"), write_rows(tmp_path / "rows.csv"), "trainer.checkpoint_every=1")
    assert strike.run([*line, f"run_dir={tmp_path / 'whole'}"]) == OK
    run = tmp_path / "cut"
    assert strike.run([*line, f"run_dir={run}"], 3, "crash") is None
    assert strike.run(["train", f"resume={run}"], 2, "SIGTERM") == TRY_AGAIN
    assert strike.run(["train", f"resume={run}"], 5, "crash") is None
    assert strike.run(["train", f"resume={run}"]) == OK
    assert result(run) == result(tmp_path / "whole")


@pytest.mark.slow
def test_scoring_that_was_cut_short_does_not_train_again(
    tmp_path: Path, tiny_encoder: Callable[..., Path], strike: Strike, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = words(tiny_encoder("bert"), write_rows(tmp_path / "rows.csv"))
    for share in ("0.1", "0"):
        whole, run = tmp_path / f"whole-{share}", tmp_path / f"cut-{share}"
        more = f"data.validation_share={share}"
        assert strike.run([*line, more, f"run_dir={whole}"]) == OK
        with monkeypatch.context() as patched:
            patched.setattr("app.finish.score", lambda *args: os.kill(os.getpid(), signal.SIGTERM))
            assert strike.run([*line, more, f"run_dir={run}"]) == TRY_AGAIN
        assert strike.run(["train", f"resume={run}"]) == OK
        assert strike.steps == 0
        assert result(run) == result(whole)


@pytest.mark.slow
def test_what_cannot_be_resumed(
    tmp_path: Path, tiny_encoder: Callable[..., Path], strike: Strike, capsys: pytest.CaptureFixture
) -> None:
    data = write_rows(tmp_path / "rows.csv")
    run = tmp_path / "run"
    line = [*words(tiny_encoder("bert"), data, "trainer.checkpoint_every=2"), f"run_dir={run}"]
    assert strike.run(line, 5, "crash") is None
    capsys.readouterr()
    for wrong, said in [
        ([f"resume={run}", "optim.lr=1"], "'optim.lr=1': resume=<run> takes every key"),
        ([f"resume={tmp_path}"], "no config.yaml, so nothing to resume"),
    ]:
        assert main(["train", *wrong]) == 2
        assert said in capsys.readouterr().err
    assert main(line) == 2
    assert f"go on with the training in it: modernbert train resume={run}" in capsys.readouterr().err
    rows = data.read_bytes()
    data.write_bytes(rows + b"good one more,a\n")
    assert main(["train", f"resume={run}"]) == 2
    said = capsys.readouterr().err
    assert f"data.train={data}: this file is not the one that {run} was made of" in said
    data.write_bytes(rows)
    assert main(["train", f"resume={run}"]) == OK
    assert main(["train", f"resume={run}"]) == OK
    assert "is complete" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_without_a_checkpoint_begins_again(
    tmp_path: Path, tiny_encoder: Callable[..., Path], strike: Strike, capsys: pytest.CaptureFixture
) -> None:
    line = words(tiny_encoder("bert"), write_rows(tmp_path / "rows.csv"))
    assert strike.run([*line, f"run_dir={tmp_path / 'whole'}"]) == OK
    run = tmp_path / "run"
    assert strike.run([*line, f"run_dir={run}"], 3, "crash") is None  # checkpoint_every=auto: none in the first minute
    assert not list(run.glob("checkpoints/step-*"))
    assert strike.run(["train", f"resume={run}"]) == OK
    assert "from the beginning" in capsys.readouterr().err
    assert result(run) == result(tmp_path / "whole")


@pytest.mark.slow
def test_a_real_process_survives_ten_faults(
    tmp_path: Path, tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At ten random steps of one training; `modernbert bench faults` strikes with each kind as often as is asked."""
    monkeypatch.setattr(faults_suite, "run", struck)
    line = words(tiny_encoder("modernbert"), write_rows(tmp_path / "rows.csv"))[1:]
    line = [word.replace("max_epochs=3", "max_epochs=8") for word in line]
    line.append(f"trainer.checkpoint_every={faults_suite.EVERY}")
    whole = faults_suite.undisturbed(line, tmp_path / "whole")
    assert sorted(whole.rows) == list(range(32))
    names = ["kill", "checkpoint", "terminate", "kill", "disk", "interrupt", "kill", "checkpoint", "terminate", "kill"]
    outcome = faults_suite.survive(names, random.Random(4), line, whole, tmp_path / "cut")
    assert outcome["survived"], outcome
    assert len({strike["at"] for strike in outcome["strikes"]}) > 1


@pytest.mark.slow
def test_a_torn_checkpoint_is_told_and_the_one_before_it_taken(
    tmp_path: Path, tiny_encoder: Callable[..., Path], strike: Strike, capsys: pytest.CaptureFixture
) -> None:
    line = words(tiny_encoder("bert"), write_rows(tmp_path / "rows.csv"), "trainer.checkpoint_every=1")
    assert strike.run([*line, f"run_dir={tmp_path / 'whole'}"]) == OK
    run = tmp_path / "run"
    assert strike.run([*line, f"run_dir={run}"], 7, "crash") is None
    kept = sorted((run / "checkpoints").glob("step-*.safetensors"))
    assert [state.read_about(path)["step"] for path in kept] == [5, 6]
    kept[-1].write_bytes(kept[-1].read_bytes()[:-100])
    capsys.readouterr()
    assert strike.run(["train", f"resume={run}"]) == OK
    said = capsys.readouterr().err
    assert "step-00000006.safetensors is torn (its SHA-256 is" in said
    assert "resuming" in said
    assert "after step 5" in said
    assert result(run) == result(tmp_path / "whole")
    assert json.loads((run / "origin.json").read_text())["seed"] == 0
