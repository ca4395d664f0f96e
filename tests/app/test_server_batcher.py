"""The queue: what shares a batch, whose turn it is, and that nobody's trouble is another's."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, Future
from typing import Any

import pytest

from app.server.batcher import Batcher, Done, OverloadedError, StoppedError

SECONDS = 10


class Doubling:
    """Doubles numbers; keeps its batches; can be held back; fails at a negative number."""

    def __init__(self, name: str = "doubling") -> None:
        self.name = name
        self.batches: list[list[int]] = []
        self.go, self.entered = threading.Event(), threading.Event()
        self.go.set()

    def compute(self, items: Sequence[int]) -> list[int]:
        self.entered.set()
        assert self.go.wait(SECONDS)
        self.batches.append(list(items))
        if min(items) < 0:
            raise ValueError("negative")
        return [2 * item for item in items]


@pytest.fixture
def engine() -> Doubling:
    return Doubling()


@pytest.fixture
def done() -> list[Done]:
    return []


@pytest.fixture
def batcher(done: list[Done]) -> Iterator[Batcher]:
    queue = Batcher(waiting=8, wait=0.0, done=done.append)
    yield queue
    queue.close(abandon=True)


def put(batcher: Batcher, engine: Doubling, *items: int, lengths: Sequence[int] = ()) -> Future[list[Any]]:
    """Items whose lengths are their values, unless they are given."""
    return batcher.submit(engine, items, lengths or [abs(item) for item in items])


def test_answers_come_in_order_whatever_the_batches(batcher: Batcher, engine: Doubling) -> None:
    futures = [put(batcher, engine, 9, 1, 5), put(batcher, engine, 2), put(batcher, engine, 8, 3, 3)]
    batcher.start(10)
    assert [future.result(SECONDS) for future in futures] == [[18, 2, 10], [4], [16, 6, 6]]
    assert sorted(item for batch in engine.batches for item in batch) == [1, 2, 3, 3, 5, 8, 9]


def test_like_lengths_share_a_batch_within_the_budget(batcher: Batcher, engine: Doubling) -> None:
    futures = [put(batcher, engine, item) for item in (4, 40, 5, 41, 4, 39)]
    batcher.start(125)
    for future in futures:
        future.result(SECONDS)
    # 4 has waited longest: 4, 4, 5 are nearest, then 39 and 40 still fit (92), 41 does not.
    assert [sorted(batch) for batch in engine.batches] == [[4, 4, 5, 39, 40], [41]]


def test_an_item_above_the_budget_is_computed_alone(batcher: Batcher, engine: Doubling) -> None:
    futures = [put(batcher, engine, 50), put(batcher, engine, 3)]
    batcher.start(10)
    assert [future.result(SECONDS) for future in futures] == [[100], [6]]
    assert engine.batches == [[50], [3]]


def test_a_small_request_does_not_wait_for_all_of_a_large_one(batcher: Batcher, engine: Doubling) -> None:
    large = batcher.submit(engine, [7] * 40, [7] * 40)
    small = put(batcher, engine, 1)
    batcher.start(14)
    small.result(SECONDS)
    large.result(SECONDS)
    # By turns: 7, 7 of the large one; then the small one, filled up; then the rest.
    assert engine.batches[0] == [7, 7]
    assert engine.batches[1] == [1, 7]
    assert len(engine.batches) == 21


def test_who_fills_up_a_batch_keeps_its_place(batcher: Batcher, engine: Doubling) -> None:
    first, second, third = put(batcher, engine, 4), put(batcher, engine, 9, 4), put(batcher, engine, 6, 6)
    batcher.start(10)
    for future in (first, second, third):
        future.result(SECONDS)
    # The 4 of the second request fits beside that of the first; its 9 comes next, before the third request.
    assert engine.batches == [[4, 4], [9], [6], [6]]


def test_engines_do_not_mix(batcher: Batcher, engine: Doubling) -> None:
    other = Doubling("other")
    futures = [put(batcher, engine, 1), put(batcher, other, 2), put(batcher, engine, 3)]
    batcher.start(100)
    assert [future.result(SECONDS) for future in futures] == [[2], [4], [6]]
    assert (engine.batches, other.batches) == ([[1, 3]], [[2]])


def test_what_fails_fails_alone(batcher: Batcher, engine: Doubling) -> None:
    futures = [put(batcher, engine, 1), put(batcher, engine, -2), put(batcher, engine, 3)]
    batcher.start(100)
    assert futures[0].result(SECONDS) == [2]
    assert futures[2].result(SECONDS) == [6]
    with pytest.raises(ValueError, match="negative"):
        futures[1].result(SECONDS)
    assert put(batcher, engine, 4).result(SECONDS) == [8]


def test_a_full_queue_refuses_and_says_when(batcher: Batcher, engine: Doubling) -> None:
    waiting = [put(batcher, engine, 5) for _ in range(8)]
    with pytest.raises(OverloadedError) as caught:
        put(batcher, engine, 5)
    assert caught.value.retry_after == 1
    patient = batcher.submit(engine, [6], [6], patient=True)
    batcher.start(100)
    assert patient.result(SECONDS) == [12]
    assert all(future.result(SECONDS) == [10] for future in waiting)
    assert put(batcher, engine, 1).result(SECONDS) == [2]


def test_retry_after_follows_the_speed(batcher: Batcher, engine: Doubling) -> None:
    batcher.rate = 100.0  # tokens a second
    put(batcher, engine, 250)
    assert batcher.retry_after() == 3
    put(batcher, engine, 100_000)
    assert batcher.retry_after() == 60


def test_a_request_that_is_given_up_is_not_computed(batcher: Batcher, engine: Doubling) -> None:
    kept, dropped = put(batcher, engine, 1), put(batcher, engine, 2)
    assert dropped.cancel()
    assert batcher.tokens == 1
    batcher.start(100)
    assert kept.result(SECONDS) == [2]
    assert engine.batches == [[1]]
    assert (batcher.tokens, batcher.unanswered) == (0, set())


def test_a_request_given_up_while_it_is_computed_harms_nobody(batcher: Batcher, engine: Doubling) -> None:
    engine.go.clear()
    batcher.start(100)
    dropped = put(batcher, engine, 2)
    assert engine.entered.wait(SECONDS)
    assert dropped.cancel()
    kept = put(batcher, engine, 3)
    engine.go.set()
    assert kept.result(SECONDS) == [6]
    with pytest.raises(CancelledError):
        dropped.result(SECONDS)


def test_closing_finishes_what_waits_and_takes_no_more(batcher: Batcher, engine: Doubling) -> None:
    engine.go.clear()
    batcher.start(3)
    futures = [put(batcher, engine, 2) for _ in range(4)]
    assert engine.entered.wait(SECONDS)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    while not batcher.closed:
        time.sleep(0.001)
    with pytest.raises(StoppedError):
        put(batcher, engine, 1)
    engine.go.set()
    closing.join(SECONDS)
    assert [future.result(0) for future in futures] == [[4]] * 4


def test_abandoning_fails_what_waits(batcher: Batcher, engine: Doubling) -> None:
    engine.go.clear()
    batcher.start(3)
    futures = [put(batcher, engine, 2) for _ in range(3)]
    assert engine.entered.wait(SECONDS)
    threading.Timer(0.05, engine.go.set).start()
    batcher.close(abandon=True)
    for future in futures:
        with pytest.raises(StoppedError):
            future.result(0)


def test_a_queue_that_never_began_fails_what_waits(engine: Doubling) -> None:
    queue = Batcher(8, 0.0, lambda done: None)
    future = put(queue, engine, 1)
    queue.close()
    with pytest.raises(StoppedError):
        future.result(0)


def test_a_batch_waits_for_company_only_after_company(engine: Doubling) -> None:
    queue = Batcher(waiting=64, wait=1.0, done=lambda done: None)
    queue.start(1000)
    started = time.perf_counter()
    put(queue, engine, 1).result(SECONDS)
    assert time.perf_counter() - started < 0.9  # alone: at once
    engine.go.clear()
    first = put(queue, engine, 2)
    while engine.entered.is_set() and len(queue.unanswered) < 1:
        time.sleep(0.001)
    time.sleep(0.02)
    second = put(queue, engine, 3)  # waits while the first is computed: company
    engine.go.set()
    first.result(SECONDS)
    time.sleep(0.02)
    third = put(queue, engine, 4)
    assert (second.result(SECONDS), third.result(SECONDS)) == ([6], [8])
    assert sorted(engine.batches[-1]) == [3, 4]
    queue.close()


def test_nothing_is_answered_at_once(batcher: Batcher, engine: Doubling) -> None:
    assert batcher.submit(engine, [], []).result(0) == []


def test_every_batch_is_measured(batcher: Batcher, engine: Doubling, done: list[Done]) -> None:
    futures = [put(batcher, engine, 3, 4), put(batcher, engine, 5)]
    batcher.start(100)
    for future in futures:
        future.result(SECONDS)
    batcher.close()
    assert [(each.engine, each.requests, each.items, each.tokens) for each in done] == [(engine, 2, 3, 12)]
    assert done[0].seconds > 0
    assert batcher.rate > 0


def test_many_threads_lose_nothing(engine: Doubling) -> None:
    queue = Batcher(waiting=1000, wait=0.001, done=lambda done: None)
    queue.start(64)
    found: dict[int, list[list[int]]] = {}

    def client(number: int) -> None:
        found[number] = [put(queue, engine, number, i + 1).result(SECONDS) for i in range(20)]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(1, 21)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    queue.close()
    assert found == {number: [[2 * number, 2 * (i + 1)] for i in range(20)] for number in range(1, 21)}
    assert (queue.tokens, queue.unanswered, queue.jobs) == (0, set(), [])
