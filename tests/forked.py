"""`python -m <module> …` in a process of its own that begins with the libraries imported.

Importing torch, transformers and lightning takes longer than most of what a test asks of a process. One process
imports them, does nothing else, and is forked for each that is wanted: memory, signals, exit status and output are the
process's own. It is `multiprocessing`'s fork server, not a fork of the test process, whose threads it would not have.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

SECONDS = 300
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["app.train", "app.finish"])


def run(module: str, *words: str) -> CompletedProcess[str]:
    """As `subprocess.run([sys.executable, "-m", module, *words])` with what it said as text."""
    return call(run_module, module, words)


def output(module: str, words: Sequence[str]) -> str:
    """As `app.bench.child.run`: what a process that does not fail prints."""
    done = run(module, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def call(function: Callable[..., None], *args: Any) -> CompletedProcess[str]:
    """A function of a module, in the process; its exit status is 0 unless it raises or says otherwise."""
    with tempfile.TemporaryDirectory() as folder:
        process = SERVER.Process(target=begin, args=(folder, dict(os.environ), function, args))
        process.start()
        process.join(SECONDS)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{function.__name__}{args}: no end after {SECONDS} s")
        out, err = ((Path(folder) / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return CompletedProcess([function.__name__, *map(str, args)], process.exitcode, out, err)


def begin(folder: str, environment: Mapping[str, str], function: Callable[..., None], args: tuple[Any, ...]) -> None:
    for stream, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_WRONLY | os.O_CREAT), stream)
    os.environ.clear()
    os.environ.update(environment)
    function(*args)


def run_module(module: str, words: tuple[str, ...]) -> None:
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
