"""`modernbert bench faults`: what it refuses, what it counts, how it damages. What survives is in test_resume.py."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from app.bench import faults_suite
from app.bench.fault_child import Fault
from app.bench.faults_suite import ALLOWED, Whole
from app.checkpoint_files import FOLDER, last_good
from app.cli import main
from tasks import state

LINE = ["bench", "faults", "task=classification", "data.train=x.csv"]


@pytest.mark.parametrize(
    ("word", "said"),
    [("faults=[flood]", "allowed are kill, terminate"), ("times=0", "1 or more"), ("faults=[]", "allowed")],
)
def test_what_it_refuses(word: str, said: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*LINE, word]) == 2
    assert said in capsys.readouterr().err


def test_the_default_is_every_fault() -> None:
    text = (Path(__file__).parents[2] / "conf" / "bench_faults.yaml").read_text()
    assert f"faults: [{', '.join(ALLOWED)}]" in text


def test_rows_lost_and_rows_twice_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From journals written as processes would that lose step 2 and learn step 3 from the rows of step 1."""
    whole = Whole("0", {0: [1, 2], 1: [3, 4], 2: [5, 6], 3: [7, 8]}, 1)
    journal = tmp_path / "cut.jsonl"

    def run(fault: Fault, words: list[str]) -> tuple[int, str]:
        done = [[0, [1, 2]], [1, [3, 4]]] if fault.at else [[1, [4, 3]], [1, [3, 4]], [3, [3, 4]]]
        with journal.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in done)
        return (-9 if fault.at else 0), "said"

    monkeypatch.setattr(faults_suite, "run", run)
    found: dict[str, Any] = faults_suite.survive(["kill"], random.Random(0), [], whole, tmp_path / "cut")
    assert (found["lost"], found["twice"], found["survived"], found["same"]) == (4, 2, False, False)


@pytest.mark.parametrize("seed", range(4))
def test_a_torn_checkpoint_is_noticed(tmp_path: Path, seed: int) -> None:
    for step in (3, 6):
        state.write(tmp_path / FOLDER / f"step-{step:08d}.safetensors", {"a": [1.5] * 40}, {"step": step})
    faults_suite.tear(tmp_path, random.Random(seed))
    found = last_good(tmp_path / FOLDER)
    assert found is not None
    assert found.name == "step-00000003.safetensors"
