"""A server in a process of its own, as `modernbert serve` starts it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from modernbert.errors import ModernBertError

#: Seconds for a server to load and to end.
PATIENCE = 120
#: Seconds between two looks whether it is there.
LOOK = 0.05


@dataclass(frozen=True)
class ServerProcess:
    """A server on a port of this machine; `started` is when its command was given (`time.perf_counter`)."""

    process: subprocess.Popen[str]
    port: int
    started: float

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str, body: Any = None) -> tuple[int, bytes]:
        """Status and body of one answer, over a connection of its own; OSError where nobody answers."""
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            if body is None:
                line.request("GET", path)
            else:
                line.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            reply = line.getresponse()
            return reply.status, reply.read()
        finally:
            line.close()

    def wait(self, path: str) -> float:
        """Seconds from the command to the first answer with status 200.

        Raises:
            ModernBertError: the server ended, or the answer does not come.
        """
        while time.perf_counter() - self.started < PATIENCE and self.process.poll() is None:
            try:
                if self.ask(path)[0] == 200:
                    return time.perf_counter() - self.started
            except OSError:
                pass  # it does not listen yet
            time.sleep(LOOK)
        self.process.kill()
        raise ModernBertError(f"the server does not answer {path}:\n{''.join(self.process.communicate())}")

    def numbers(self) -> dict[str, float]:
        """Its metrics: name with labels -> value."""
        lines = self.ask("/metrics")[1].decode().splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


@contextmanager
def serving(words: Sequence[str], port: int) -> Iterator[ServerProcess]:
    """`modernbert serve word …` on a port; killed at the end if it has not ended by then."""
    command = [sys.executable, "-m", "app.cli", "serve", f"port={port}", *words]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield ServerProcess(process, port, started)
    finally:
        process.kill()
        process.communicate(timeout=PATIENCE)
