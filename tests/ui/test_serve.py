"""`modernbert ui` as a person starts and stops it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from app import serve
from app.cli import main
from modernbert.errors import ConfigError
from tasks.run import Run
from ui.ports import free_port


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_page_that_opens_and_ends_quietly(run: Run, root: Path, tmp_path: Path, number: signal.Signals) -> None:
    port = free_port("127.0.0.1", 21_000)
    command = [sys.executable, "-m", "app.cli", "ui", f"run={run.folder}", f"port={port}", "device=cpu", "threads=1"]
    piped = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=root, env=os.environ | {"TMPDIR": str(tmp_path)}, **piped) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert f"http://127.0.0.1:{port}" in line, process.stderr.read() if process.stderr else line
            assert httpx.get(f"http://127.0.0.1:{port}", timeout=30).status_code == 200
            assert [path.name.partition("-")[0] for path in tmp_path.glob("modernbert-*")] == ["modernbert"]
        finally:
            process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "stopped\n")
    assert list(tmp_path.glob("modernbert-*")) == []


def test_a_busy_port_is_one_line_before_the_run_is_loaded(busy_port: int, capsys) -> None:
    assert main(["ui", "run=nowhere", f"port={busy_port}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error port={busy_port} on 127.0.0.1 is in use")
    assert "Use port=" in error
    assert len(error.splitlines()) == 1


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys) -> None:
    assert main(["ui", f"run={tmp_path}", f"port={free_port('127.0.0.1', 22_000)}"]) == 2
    assert "is not a saved run" in capsys.readouterr().err


def test_runs_of_a_folder_come_newest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for age, name in enumerate(("runs/ner/c", "runs/ner/b", "runs/a")):
        (tmp_path / name).mkdir(parents=True)
        info = tmp_path / name / "task.json"
        info.write_text("{}", encoding="utf-8")
        os.utime(info, (1000 - age, 1000 - age))
    monkeypatch.chdir(tmp_path)
    expected = ["runs/ner/c", "runs/ner/b", "runs/a"]
    assert [str(path) for path in serve.find_runs("runs")] == expected
    assert [str(path) for path in serve.find_runs(None)] == expected
    assert [str(path) for path in serve.find_runs(["runs/a", "runs/ner"])] == ["runs/a", "runs/ner/c", "runs/ner/b"]
    with pytest.raises(ConfigError, match="run=nowhere does not exist"):
        serve.find_runs(["runs/a", "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="is not a saved run"):
        serve.find_runs("empty")


def test_a_page_without_anything_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert serve.find_runs(None) == []
    assert main(["ui", "train=false", f"port={free_port('127.0.0.1', 22_000)}"]) == 2
    assert "there is no saved run in runs" in capsys.readouterr().err
