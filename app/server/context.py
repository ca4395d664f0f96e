"""What the parts of a server share: its settings, its queue, its numbers, the runs it serves and the phase it is in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from app.server.batcher import Batcher, Done, Engine, OverloadedError, StoppedError
from app.server.errors import RefusedError
from app.server.metrics import Metrics
from app.server.settings import Settings

if TYPE_CHECKING:
    from app.server.engines import Counted, QueuedRun, Row
    from app.server.searching import Finder
    from tasks.embedding import Embedder

#: Characters whose tokens are counted at once, in 2 ms or so; more are counted in a thread.
AT_ONCE = 20_000


@dataclass
class Served:
    """A run under its name, and the routes it answers.

    Args:
        embedder: of a run that gives vectors.
    """

    name: str
    run: QueuedRun
    routes: tuple[str, ...]
    embedder: Embedder | None = None


@dataclass
class Context:
    """One server.

    Args:
        runs: empty until they are loaded.
        in_flight: requests that were let in and are not answered yet.
        finder: of the index, where there is one.
        ended: nothing is waited for any more.
    """

    settings: Settings
    runs: dict[str, Served] = field(default_factory=dict)
    phase: Literal["loading", "ready", "stopping"] = "loading"
    in_flight: int = 0
    finder: Finder | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    batcher: Batcher = field(init=False)
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(
            {
                "modernbert_ready": ("1 while requests are taken.", lambda: float(self.phase == "ready")),
                "modernbert_waiting_requests": (
                    "Requests in the queue or being computed.",
                    lambda: len(self.batcher.unanswered),
                ),
                "modernbert_waiting_tokens": ("Their tokens.", lambda: self.batcher.tokens),
            }
        )
        limits = self.settings.limits
        self.batcher = Batcher(limits.waiting, self.settings.batch_wait / 1000, self.computed)

    def computed(self, done: Done) -> None:
        """Count a batch."""
        run, metrics = done.engine.name, self.metrics
        metrics.texts.add(run, by=done.items)
        metrics.tokens.add(run, by=done.tokens)
        metrics.batch_seconds.observe(done.seconds, run)
        metrics.batch_tokens.observe(done.tokens, run)
        metrics.batch_texts.observe(done.items, run)

    def serving(self, route: str, name: str | None) -> Served:
        """The run that answers a route: the one that is named, else the only one that can.

        Raises:
            RefusedError: no such run, or it does something else; several could and none is named.
        """
        if name is not None:
            if name not in self.runs:
                raise RefusedError(404, f"There is no run {name!r} here; there are: {', '.join(self.runs)}.")
            if route not in self.runs[name].routes:
                raise RefusedError(422, f"The run {name!r} does not answer {route} but {says(self.runs[name])}.")
            return self.runs[name]
        able = [served for served in self.runs.values() if route in served.routes]
        if not able:
            known = "; ".join(f"{served.name}: {says(served)}" for served in self.runs.values())
            raise RefusedError(422, f"No run here answers {route}. {known}.")
        if len(able) > 1:
            paths = ", ".join(f"/runs/{served.name}{route}" for served in able)
            raise RefusedError(422, f"Several runs answer {route}: choose {paths}.")
        return able[0]

    async def count(self, lengths: Callable[[Sequence[Row]], Counted], rows: Sequence[Row]) -> Counted:
        """The tokens of each row.

        Raises:
            RefusedError: too many rows or tokens, or a text that is none.
        """
        from modernbert.errors import DataError

        limits = self.settings.limits
        if not rows:
            raise RefusedError(422, "There is no text in this request: give at least one.")
        if len(rows) > limits.texts:
            raise RefusedError(
                413, f"{len(rows):,} texts: this server takes {limits.texts:,} a request (limits.texts). Split them."
            )
        empty = next((i for i, row in enumerate(rows) if not all(map(str.strip, row))), None)
        if empty is not None:
            raise RefusedError(422, f"Text {empty} (counting from 0) is empty.")
        try:
            if sum(len(cell) for row in rows for cell in row) <= AT_ONCE:
                counted = lengths(rows)
            else:
                counted = await asyncio.to_thread(lengths, rows)
        except DataError as error:
            raise RefusedError(422, str(error)) from error
        tokens = sum(counted.lengths)
        if tokens > limits.tokens:
            raise RefusedError(
                413, f"{tokens:,} tokens: this server takes {limits.tokens:,} a request (limits.tokens). Split it."
            )
        return counted

    async def compute(self, engine: Engine, items: Sequence[Any], lengths: Sequence[int]) -> list[Any]:
        """Wait in the queue.

        Raises:
            RefusedError: the queue is full, or no answer in time.
        """
        from modernbert.errors import ModernBertError

        seconds = self.settings.limits.seconds
        try:
            future = self.batcher.submit(engine, items, lengths)
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(future)
        except OverloadedError as error:
            raise RefusedError(429, f"The queue is full: {error}.", {"Retry-After": str(error.retry_after)}) from error
        except StoppedError:
            raise stopping() from None
        except TimeoutError:
            raise RefusedError(504, f"No answer within {seconds:g} s (limits.seconds); it is given up.") from None
        except ModernBertError as error:
            raise RefusedError(422, str(error)) from error


def says(served: Served) -> str:
    return ", ".join(served.routes)


def stopping() -> RefusedError:
    return RefusedError(503, "The server is stopping.", {"Connection": "close"})
