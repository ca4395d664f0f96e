"""Dynamic batching: requests wait by their tokens, one thread computes those of like length together.

One thread, because a model computes fastest with the whole machine to itself; two at once would only share it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

#: Items looked at for one batch, in tokens of the budget: enough to find like lengths, few enough to sort in no time.
LOOK_AHEAD = 8
#: Weight of the newest batch in the estimate of tokens a second, which tells a refused client when to come back.
NEWEST = 0.2
#: Seconds that a refused client is asked to wait, at most.
LONGEST_RETRY = 60


class Engine(Protocol):
    """Computes items of one kind; equal engines (by hash) share batches."""

    @property
    def name(self) -> str:
        """Of the run, for the metrics."""

    def compute(self, items: Sequence[Any]) -> Sequence[Any]:
        """One answer for each item, in order."""

    def __hash__(self) -> int: ...


class OverloadedError(Exception):
    """Too many requests wait; `retry_after` seconds from now there may be room."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"too many requests are waiting; try again in {retry_after} s")
        self.retry_after = retry_after


class StoppedError(Exception):
    """The server takes no more requests."""


@dataclass(eq=False)
class Job:
    """Items of one request; `left` are the positions that no batch has taken yet, the longest first."""

    engine: Engine
    items: Sequence[Any]
    lengths: Sequence[int]
    future: Future[list[Any]]
    answers: list[Any] = field(init=False)
    left: list[int] = field(init=False)
    missing: int = field(init=False)  # answers

    def __post_init__(self) -> None:
        self.answers = [None] * len(self.items)
        self.left = sorted(range(len(self.items)), key=lambda i: -self.lengths[i])
        self.missing = len(self.items)


@dataclass(frozen=True)
class Done:
    """What a batch was, for the metrics."""

    engine: Engine
    requests: int
    items: int
    tokens: int
    seconds: float


Batch = list[tuple[Job, int]]


class Batcher:
    """A queue with one worker thread.

    Requests take turns: whoever has waited longest since its last turn chooses the lengths of the next batch, so a
    small request never waits for the whole of a large one. A batch is then filled with the items whose lengths are
    nearest, of every request for the same engine.

    Args:
        waiting: requests that may wait; more are refused (those of `patient` callers, one at a time each, never are).
        wait: seconds to wait for company when there was some a moment ago; a lone client never waits.
        done: called after each batch, in the worker's thread.
    """

    def __init__(self, waiting: int, wait: float, done: Callable[[Done], None]) -> None:
        self.most, self.wait, self.done = waiting, wait, done
        self.tokens_per_batch = 1
        self.jobs: list[Job] = []  # in order of their turns
        self.unanswered: set[Job] = set()
        self.tokens = 0  # of the unanswered
        self.rate = 0.0  # tokens a second
        self.company = False
        self.closed = False
        self.idle = False
        self.changed = threading.Condition()
        self.thread = threading.Thread(target=self.work, name="model", daemon=True)

    def start(self, tokens_per_batch: int) -> None:
        """Begin to compute. What was submitted before waits until now."""
        self.tokens_per_batch = tokens_per_batch
        self.thread.start()

    def submit(
        self, engine: Engine, items: Sequence[Any], lengths: Sequence[int], patient: bool = False
    ) -> Future[list[Any]]:
        """Queue the items of a request; the future gives their answers in order. Cancelling it takes them out.

        Args:
            lengths: tokens of each item.
            patient: never refused; for callers that wait for the answer before they come again.

        Raises:
            OverloadedError: too many requests wait.
            StoppedError: the batcher is closed.
        """
        future: Future[list[Any]] = Future()
        if not items:
            future.set_result([])
            return future
        job = Job(engine, items, lengths, future)
        with self.changed:
            if self.closed:
                raise StoppedError
            if not patient and len(self.unanswered) >= self.most:
                raise OverloadedError(self.retry_after())
            self.jobs.append(job)
            self.unanswered.add(job)
            self.tokens += sum(lengths)
            if self.idle or self.tokens >= self.tokens_per_batch:
                self.changed.notify()
        future.add_done_callback(lambda _: self.forget(job))
        return future

    def forget(self, job: Job) -> None:
        """A request is answered, failed or given up."""
        with self.changed:
            self.unanswered.discard(job)
            self.tokens -= sum(job.lengths)
            if job in self.jobs:
                self.jobs.remove(job)

    def retry_after(self) -> int:
        """Seconds until what waits now is computed."""
        seconds = self.tokens / self.rate if self.rate else 1.0
        return min(LONGEST_RETRY, max(1, math.ceil(seconds)))

    def close(self, abandon: bool = False) -> None:
        """Refuse new items, finish those that wait (or fail them), end the thread."""
        with self.changed:
            self.closed = True
            waiting = list(self.unanswered) if abandon or self.thread.ident is None else []
            self.changed.notify()
        for job in waiting:
            finish(job.future, error=StoppedError())
        if self.thread.ident is not None:
            self.thread.join()

    # -- the worker's thread -------------------------------------------------------------------------------

    def work(self) -> None:
        while batch := self.next_batch():
            started = time.perf_counter()
            self.compute(batch)
            self.measure(batch, time.perf_counter() - started)

    def next_batch(self) -> Batch:
        """Wait for items and take some; empty when the batcher is closed and nothing waits."""
        with self.changed:
            while True:
                self.idle = True
                while not self.jobs and not self.closed:
                    self.changed.wait()
                self.idle = False
                if self.company and self.wait and self.jobs:
                    # Those that were answered a moment ago are about to ask again.
                    full = time.monotonic() + self.wait
                    while self.tokens < self.tokens_per_batch and (rest := full - time.monotonic()) > 0:
                        if not self.changed.wait(rest) or self.closed:
                            break
                if self.jobs or self.closed:
                    return self.take() if self.jobs else []

    def take(self) -> Batch:
        """The items of the next batch: that of the request whose turn it is, and those nearest in length."""
        head = self.jobs[0]
        anchor = head.lengths[head.left[0]]
        near: list[tuple[int, int, Job, int]] = []  # distance, order, job, item
        seen = 0
        for job in self.jobs:
            if job.engine == head.engine:
                for i in job.left:
                    near.append((abs(job.lengths[i] - anchor), len(near), job, i))
                    seen += job.lengths[i]
                    if seen > LOOK_AHEAD * self.tokens_per_batch:
                        break
            if seen > LOOK_AHEAD * self.tokens_per_batch:
                break
        near.sort(key=lambda found: found[:2])
        batch: Batch = []
        taken: dict[Job, set[int]] = {}
        room = self.tokens_per_batch
        for _, _, job, i in near:
            if job.lengths[i] <= room or not batch:
                room -= job.lengths[i]
                batch.append((job, i))
                taken.setdefault(job, set()).add(i)
        for job, items in taken.items():
            job.left = [i for i in job.left if i not in items]
        # Whose turn it was goes to the end; who only filled up the batch keeps its place.
        self.jobs = [job for job in [*self.jobs[1:], head] if job.left]
        return batch

    def compute(self, batch: Batch) -> None:
        """Compute a batch and hand out what is complete; what fails, fails for the requests that have it alone."""
        try:
            answers = batch[0][0].engine.compute([job.items[i] for job, i in batch])
        except Exception as error:
            jobs = dict.fromkeys(job for job, _ in batch)
            if len(jobs) == 1:
                finish(batch[0][0].future, error=error)
                return
            for job in jobs:
                self.compute([(owner, i) for owner, i in batch if owner is job])
            return
        for (job, i), answer in zip(batch, answers, strict=True):
            job.answers[i] = answer
            job.missing -= 1
            if not job.missing:
                finish(job.future, job.answers)

    def measure(self, batch: Batch, seconds: float) -> None:
        tokens = sum(job.lengths[i] for job, i in batch)
        requests = len({id(job) for job, _ in batch})
        newest = tokens / max(seconds, 1e-6)
        self.rate = newest if not self.rate else (1 - NEWEST) * self.rate + NEWEST * newest
        self.company = requests + len(self.jobs) > 1
        self.done(Done(batch[0][0].engine, requests, len(batch), tokens, seconds))


def finish(future: Future[list[Any]], answers: list[Any] | None = None, error: Exception | None = None) -> None:
    """Hand out an answer, unless nobody waits for it any more."""
    if future.done() or not future.set_running_or_notify_cancel():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(answers or [])
