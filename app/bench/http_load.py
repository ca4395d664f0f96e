"""Clients of a server, all in one thread: each asks, waits for the answer, and asks again.

HTTP is written out here because a client library takes as much of a core for a request as the server, and on a small
machine the two share the cores.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

#: Seconds without an answer after which a request counts as lost.
LOST = 120


@dataclass
class Outcome:
    """What all clients saw.

    Args:
        sent: requests.
        statuses: answers by status; 0 stands for a connection that broke, or no answer in LOST seconds.
        wrong: answers with status 200 that are not those of their question.
        seconds: of each answer with status 200, in order of arrival.
        wall: seconds from the first question to the last answer.
    """

    sent: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    seconds: list[float] = field(default_factory=list)
    wall: float = 0.0

    @property
    def lost(self) -> int:
        """Questions without a right answer."""
        return self.sent - self.statuses[200] + self.wrong

    @property
    def rate(self) -> float:
        """Answers a second."""
        return len(self.seconds) / self.wall if self.wall else 0.0

    def percentile(self, share: float) -> float:
        """Seconds within which this share of the answers came; 0 where there was none."""
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def request_bytes(path: str, body: Any, token: str | None = None) -> bytes:
    """A POST of JSON to a server on this machine, on a connection that stays open."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {token}\r\n" if token else ""
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of one answer; IncompleteReadError where the connection ends before it."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head.split(b" ", 2)[1])
    _, found, rest = head.partition(b"content-length:")
    length = int(rest.split(b"\r\n", 1)[0]) if found else 0
    return status, await reader.readexactly(length)


async def load(
    port: int,
    requests: Sequence[bytes],
    clients: int,
    seconds: float,
    right: Callable[[int, bytes], bool] | None = None,
) -> Outcome:
    """`clients` ask for `seconds`; the questions that are open then are still waited for.

    Args:
        requests: asked in turn; client i begins with the i-th.
        right: whether a body is the answer of the request with this number.
    """
    outcome = Outcome()
    started = time.perf_counter()

    async def client(first: int) -> None:
        at = first
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        while time.perf_counter() - started < seconds:
            outcome.sent += 1
            asked = time.perf_counter()
            number = at % len(requests)
            try:
                writer.write(requests[number])
                async with asyncio.timeout(LOST):
                    status, body = await answer(reader)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                outcome.statuses[0] += 1
                return
            outcome.statuses[status] += 1
            if status == 200:
                outcome.seconds.append(time.perf_counter() - asked)
                outcome.wrong += right is not None and not right(number, body)
            at += clients
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    outcome.wall = time.perf_counter() - started
    return outcome
