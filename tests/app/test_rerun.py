"""A run trained again from its own configuration is the same run, and a run of other data is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from resume_runs import result, words, write_rows

from app import origin
from app.cli import main
from app.rerun import differences


@pytest.mark.slow
def test_a_rerun_is_the_same(tmp_path: Path, tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture) -> None:
    data, run = write_rows(tmp_path / "rows.csv"), tmp_path / "run"
    assert main([*words(tiny_encoder("bert"), data, "seed=3"), f"run_dir={run}"]) == 0
    info = json.loads((run / "task.json").read_text())
    assert {"torch", "transformers", "numpy", "modernbert"} <= set(info["packages"])
    assert info["seed"] == 3
    assert set(info["git"] or {"commit": "", "changed": ""}) == {"commit", "changed"}
    again = tmp_path / "again"
    assert main(["rerun", f"run={run}", f"run_dir={again}", "tolerance=0"]) == 0
    assert result(again) == result(run)
    assert "within the tolerance of 0" in capsys.readouterr().out
    found = json.loads((again / "rerun.json").read_text())
    assert (found["met"], found["run"]) == (True, str(run))
    assert {row["difference"] for row in found["metrics"]} == {0}
    # As if another machine had scored it otherwise.
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["validation"]["f1_macro"] += 0.02
    (run / "metrics.json").write_text(json.dumps(metrics))
    third = f"run_dir={tmp_path / 'third'}"
    assert main(["rerun", f"run={run}", third]) == 1
    assert "f1_macro differs by 0.02, outside the tolerance of 0.01" in capsys.readouterr().out
    data.write_bytes(data.read_bytes() + b"good one more,a\n")
    assert main(["rerun", f"run={run}", f"run_dir={tmp_path / 'fourth'}"]) == 2
    assert "this file is not the one that" in capsys.readouterr().err
    assert not (tmp_path / "fourth").exists()


def test_differences_leave_intervals_and_undefined_metrics_out() -> None:
    before = {"test": {"a": 0.5, "a_low": 0.4, "b": None, "c": 1.0}}
    now = {"test": {"a": 0.75, "a_low": 0.1, "b": 2.0}, "validation": {"a": 1.0}}
    assert differences(before, now, "a") == [
        {"split": "test", "metric": "a", "before": 0.5, "now": 0.75, "difference": 0.25}
    ]


def test_what_cannot_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["rerun", f"run={tmp_path}"]) == 2
    assert "has no task.json" in capsys.readouterr().err
    (tmp_path / "task.json").write_text('{"format": 1}')
    assert main(["rerun", f"run={tmp_path}"]) == 2
    assert "has no origin.json" in capsys.readouterr().err
    assert main(["rerun", f"run={tmp_path}", "tolerance=-1"]) == 2


def test_a_folder_has_a_hash_of_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("1")
    first = origin.digest(tmp_path)
    (tmp_path / ".hidden").write_text("x")
    assert origin.digest(tmp_path) == first
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert origin.digest(tmp_path) != first
