"""Two gloo processes by the command line, DDP and FSDP2: whole metrics, one whole run; one that dies ends the job.

What they learn in a step is tested in tests/tasks/test_processes.py.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from resume_runs import result, words, write_rows

from app.bench import faults_suite
from app.bench.fault_child import Fault
from app.cli import main
from tasks.run import Run


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[..., Path]) -> list[str]:
    """`modernbert train` on some rows."""
    # Without dropout, which draws other numbers in each process, both learn the same but for rounding.
    still = ("encoder.dropout=0", "task.head_dropout=0", f"trainer.checkpoint_every={faults_suite.EVERY}")
    return words(tiny_encoder("bert"), write_rows(tmp_path_factory.mktemp("data") / "rows.csv"), *still)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, line: list[str]) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone")
    assert main([*line, f"run_dir={folder}"]) == 0
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "fsdp"])
def test_the_command_line_trains_with_two_processes_and_survives_the_death_of_one(
    tmp_path: Path, line: list[str], alone: Path, monkeypatch: pytest.MonkeyPatch, root: Path, way: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(tmp_path)
    both = [*line[1:], *faults_suite.PROCESSES, f"trainer.strategy={way}"]
    # The folder is named by the clock, by the first process alone.
    status, said = faults_suite.run(Fault("step", 0, journal=str(tmp_path / "whole.jsonl")), both)
    assert status == 0, said
    assert said.count("the run is in") == 1
    assert "Traceback" not in said
    (run,) = (tmp_path / "runs" / "classification").iterdir()
    assert {path.name for path in run.iterdir()} == {path.name for path in alone.iterdir()}
    one, two = result(alone), result(run)
    assert two["training"] == one["training"]
    validations = [[row for row in found["curves"] if "val_accuracy" in row] for found in (one, two)]
    assert len(validations[0]) == 3
    for before, now in zip(*validations, strict=True):
        # Counts over all validation rows, each once: any other number of rows would show in these.
        for name in ("val_accuracy", "val_accuracy_low", "val_f1_macro", "val_mcc"):
            assert float(now[name]) == pytest.approx(float(before[name]), abs=1e-6), name
        assert float(now["val_log_loss"]) == pytest.approx(float(before["val_log_loss"]), abs=1e-4)
    answers = [Run.load(folder).answer(["good money", "bad parcel"]) for folder in (alone, run)]
    for before, now in zip(*answers, strict=True):
        assert now.scores == pytest.approx(before.scores, abs=1e-3)

    whole = faults_suite.undisturbed(both, Path(shutil.move(run, tmp_path / "whole")))
    outcome = faults_suite.survive(["process"], random.Random(3), both, whole, tmp_path / "cut")
    assert outcome["survived"], outcome
    (strike,) = outcome["strikes"]
    if strike["status"] == 1:  # else Lightning's watch over its processes was quicker
        assert "process 0 of 2 has lost another one" in " ".join(strike["said"])
