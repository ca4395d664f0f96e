"""`modernbert ui` as a person starts and stops it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import httpx

from app.cli import main
from tasks.run import Run
from ui.page import free_port


def test_a_page_that_opens_and_ends_quietly_with_ctrl_c(run: Run, root: Path) -> None:
    port = free_port("127.0.0.1", 21_000)
    command = [sys.executable, "-m", "app.cli", "ui", f"run={run.folder}", f"port={port}", "device=cpu", "threads=1"]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            assert f"http://127.0.0.1:{port}" in line, process.stderr.read() if process.stderr else line
            assert httpx.get(f"http://127.0.0.1:{port}").status_code == 200
        finally:
            process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "stopped\n")


def test_a_busy_port_is_one_line_before_the_run_is_loaded(busy_port: int, capsys) -> None:
    assert main(["ui", "run=nowhere", f"port={busy_port}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error port={busy_port} on 127.0.0.1 is in use")
    assert "Use port=" in error
    assert len(error.splitlines()) == 1


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys) -> None:
    assert main(["ui", f"run={tmp_path}", f"port={free_port('127.0.0.1', 22_000)}"]) == 2
    assert "is not a saved run" in capsys.readouterr().err
