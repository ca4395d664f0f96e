"""A measurement in a process of its own: nothing left over from another one, and its memory can be read."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from modernbert.errors import ModernBertError

#: Lines of a failed child that a person is shown: its own message and what led to it.
SHOWN_LINES = 15


def run(module: str, words: Sequence[str]) -> str:
    """Run `python -m module word …` and return what it prints; its stderr is kept back unless it fails.

    Raises:
        ModernBertError: it failed; the message ends with its last lines.
    """
    done = subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-SHOWN_LINES:])
        raise ModernBertError(f"{module} stopped with status {done.returncode}. Its last lines:\n{last}")
    return done.stdout
