"""Two gloo processes: disjoint rows, one gradient, whole metrics, one run folder; and one that dies ends the job."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ddp_step
import pytest
import torch
from resume_runs import result, words, write_rows

from app.bench import faults_suite
from app.bench.fault_child import Fault
from app.cli import main


@pytest.mark.slow
def test_two_processes_have_the_gradient_of_one(tmp_path: Path, tiny_encoder: Callable[..., Path], root: Path) -> None:
    encoder = tiny_encoder("modernbert")
    ddp_step.main(encoder, tmp_path, 1)
    command = [sys.executable, ddp_step.__file__, str(encoder), str(tmp_path), "2"]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    alone = torch.load(tmp_path / "weights-1.pt", weights_only=True)
    together = torch.load(tmp_path / "weights-2.pt", weights_only=True)
    for name, value in alone.items():
        torch.testing.assert_close(together[name], value, atol=1e-5, rtol=0, msg=name)
    one, first, second = (json.loads((tmp_path / f"seen-{n}.json").read_text()) for n in ("1-0", "2-0", "2-1"))
    rows = [sorted(i for batch in seen["micro_batches"] for i in batch) for seen in (first, second)]
    assert sorted(rows[0] + rows[1]) == list(range(7))  # disjoint and whole
    assert min(len(seen["micro_batches"]) for seen in (first, second)) > 1  # exchanged once, at the last
    assert first["loss"] == second["loss"] == pytest.approx(one["loss"], abs=1e-6)


@pytest.mark.slow
def test_the_command_line_trains_with_two_processes_and_survives_the_death_of_one(
    tmp_path: Path, tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(root))
    monkeypatch.chdir(tmp_path)
    # Without dropout, which draws other numbers in each process, both learn the same but for rounding.
    still = ("encoder.dropout=0", "task.head_dropout=0", f"trainer.checkpoint_every={faults_suite.EVERY}")
    line = words(tiny_encoder("bert"), write_rows(tmp_path / "rows.csv"), *still)
    assert main([*line, f"run_dir={tmp_path / 'alone'}"]) == 0
    both = [*line[1:], *faults_suite.PROCESSES]
    # The folder is named by the clock, by the first process alone.
    status, said = faults_suite.run(Fault("step", 0, journal=str(tmp_path / "whole.jsonl")), both)
    assert status == 0, said
    assert said.count("the run is in") == 1
    assert "Traceback" not in said
    (run,) = (tmp_path / "runs" / "classification").iterdir()
    alone, together = result(tmp_path / "alone"), result(run)
    assert together["training"] == alone["training"]
    validations = [[row for row in found["curves"] if "val_accuracy" in row] for found in (alone, together)]
    assert len(validations[0]) == 3
    for before, now in zip(*validations, strict=True):
        # Counts over all validation rows, each once: any other number of rows would show in these.
        for name in ("val_accuracy", "val_accuracy_low", "val_f1_macro", "val_mcc"):
            assert float(now[name]) == pytest.approx(float(before[name]), abs=1e-6), name
        assert float(now["val_log_loss"]) == pytest.approx(float(before["val_log_loss"]), abs=1e-4)

    whole = faults_suite.undisturbed(both, Path(shutil.move(run, tmp_path / "whole")))
    outcome = faults_suite.survive(["process"], random.Random(3), both, whole, tmp_path / "cut")
    assert outcome["survived"], outcome
    (strike,) = outcome["strikes"]
    if strike["status"] == 1:  # else Lightning's watch over its processes was quicker
        assert "process 0 of 2 has lost another one" in " ".join(strike["said"])
