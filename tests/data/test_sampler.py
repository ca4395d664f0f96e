"""Steps and micro-batches: nothing lost, nothing doubled, budgets held, the order fixed by seed and epoch."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert.errors import ConfigError
from tasks.data.sampler import (
    StepSampler,
    budget_use,
    inference_batches,
    micro_batches,
    permutation,
    shares,
)

lengths_ = st.lists(st.integers(1, 60), min_size=1, max_size=80)
budgets = st.integers(1, 200)


def flat(steps: list[list[list[int]]]) -> list[int]:
    return [index for step in steps for batch in step for index in batch]


# --- micro-batches -----------------------------------------------------------------------------------------


@given(lengths_, budgets)
def test_each_index_is_in_one_micro_batch_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = micro_batches(lengths, range(len(lengths)), budget)
    assert sorted(chain.from_iterable(batch.tolist() for batch in batches)) == list(range(len(lengths)))
    for batch in batches:
        sizes = [lengths[i] for i in batch]
        assert sizes == sorted(sizes, reverse=True)
        assert sum(sizes) <= budget or len(sizes) == 1


@given(lengths_, budgets)
def test_no_more_micro_batches_than_filling_in_order_needs(lengths: list[int], budget: int) -> None:
    needed, room = 0, 0
    for size in sorted(lengths, reverse=True):
        if size > room:
            needed, room = needed + 1, budget
        room = max(0, room - size)
    assert len(micro_batches(lengths, range(len(lengths)), budget)) <= needed


def test_micro_batches_by_hand() -> None:
    lengths = [10, 3, 10, 4, 10, 10, 3]
    # 50 tokens need two passes of 30; they are cut evenly, not into 30 and 20, like lengths together.
    found = [batch.tolist() for batch in micro_batches(lengths, range(7), 30)]
    assert found == [[0, 2, 4], [5, 3, 1, 6]]
    # One longer than the budget goes alone; only the indices asked for are used.
    assert [batch.tolist() for batch in micro_batches([5, 40, 5, 5], [1, 2, 3], 10)] == [[1], [2, 3]]
    assert micro_batches(lengths, [], 30) == []


def test_a_full_pass_and_a_tiny_rest_are_evened_out() -> None:
    sizes = [10] * 11
    assert [len(batch) for batch in micro_batches(sizes, range(11), 100)] == [6, 5]


def test_lengths_are_mixed_where_that_saves_passes() -> None:
    # Sorted, 7+7 > 10 and so on: four passes; mixed, 7+3 three times.
    found = [sorted(batch.tolist()) for batch in micro_batches([7, 3, 7, 3, 7, 3], range(6), 10)]
    assert sorted(found) == [[0, 1], [2, 3], [4, 5]]


def test_budget_use_on_long_passages_and_on_short_texts() -> None:
    """Shares of the budget that hold real tokens in windows of 4,096 examples; see MIXING_PAYS."""
    generator = np.random.default_rng(0)
    passages = generator.integers(1200, 8192, 4000)
    for budget in (8192, 16384, 32768):
        assert budget_use(passages, inference_batches(passages, budget), budget) > 0.95
    texts = np.clip(generator.lognormal(3.5, 0.8, 4000), 5, 512).astype(int)
    assert budget_use(texts, inference_batches(texts, 2048), 2048) > 0.95
    assert budget_use([5, 5], [[0], [1]], 10) == 0.5
    assert budget_use([5, 5], [], 10) == 0.0


# --- inference ---------------------------------------------------------------------------------------------


@given(lengths_, budgets, st.integers(1, 30))
def test_inference_batches_stay_inside_their_window(lengths: list[int], budget: int, window: int) -> None:
    batches = inference_batches(lengths, budget, window)
    order = list(chain.from_iterable(batch.tolist() for batch in batches))
    assert sorted(order) == list(range(len(lengths)))
    assert [index // window for index in order] == sorted(index // window for index in order)
    assert all(len({index // window for index in batch.tolist()}) == 1 for batch in batches)


# --- ranks -------------------------------------------------------------------------------------------------


@given(lengths_, st.integers(1, 8))
def test_shares_are_disjoint_whole_and_balanced(lengths: list[int], world: int) -> None:
    parts = shares(lengths, range(len(lengths)), world)
    assert len(parts) == world
    assert sorted(chain.from_iterable(part.tolist() for part in parts)) == list(range(len(lengths)))
    assert all(len(part) for part in parts) or len(lengths) < world
    loads = [sum(lengths[i] for i in part) for part in parts]
    assert max(loads) - min(loads) <= max(lengths)


def test_shares_by_hand() -> None:
    assert [sorted(part.tolist()) for part in shares([9, 1, 5, 4, 1], range(5), 2)] == [[0, 1], [2, 3, 4]]


# --- steps -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 60), min_size=8, max_size=80),
    batch_size=st.integers(8, 90),
    budget=budgets,
    world=st.integers(1, 8),
    shuffle=st.booleans(),
    seed=st.integers(0, 2**40),
)
def test_an_epoch_holds_each_example_once_over_all_ranks(
    lengths: list[int], batch_size: int, budget: int, world: int, shuffle: bool, seed: int
) -> None:
    samplers = [
        StepSampler(lengths, batch_size, budget, seed, shuffle, rank=rank, world=world)
        for rank in range(world)
    ]
    ranks = [list(sampler) for sampler in samplers]
    assert {len(steps) for steps in ranks} == {len(samplers[0])}
    assert sorted(chain.from_iterable(flat(steps) for steps in ranks)) == list(range(len(lengths)))
    for number in range(len(samplers[0])):
        shares_of_step = [flat([steps[number]]) for steps in ranks]
        assert all(shares_of_step)  # no rank without an example
        together = sum(map(len, shares_of_step))
        last = number == len(samplers[0]) - 1
        assert together == batch_size or (last and together < batch_size + world)
        for steps in ranks:
            for batch in steps[number]:
                assert sum(lengths[i] for i in batch) <= budget or len(batch) == 1


def test_a_step_is_a_slice_of_the_permutation_whatever_the_lengths_and_ranks() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 100, 50)
    order = permutation(50, 3, 0)
    for world in (1, 2, 3):
        ranks = [list(StepSampler(lengths, 16, 64, seed=3, rank=rank, world=world)) for rank in range(world)]
        for number in range(3):
            members = sorted(flat([steps[number] for steps in ranks]))
            stop = 50 if world == 3 and number == 2 else 16 * (number + 1)
            assert members == sorted(order[16 * number : stop].tolist())


@given(st.integers(0, 1000), st.integers(0, 50))
def test_the_order_is_that_of_seed_and_epoch(seed: int, epoch: int) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = StepSampler([5] * 40, 8, 1000, seed)
        sampler.set_epoch(epoch)
        return sampler.permutation().tolist()

    assert order(seed, epoch) == order(seed, epoch)
    assert order(seed, epoch) != order(seed, epoch + 1)
    assert order(seed, epoch) != order(seed + 1, epoch)


def test_the_order_is_the_same_for_ever() -> None:
    """A change here breaks the exact resume and rerun of every saved run."""
    assert permutation(12, 0, 0).tolist() == [11, 3, 2, 1, 8, 6, 0, 7, 4, 10, 5, 9]
    assert permutation(12, 0, 1).tolist() == [7, 10, 4, 11, 5, 1, 9, 8, 6, 2, 0, 3]


def test_a_permutation_is_uniform() -> None:
    first = np.bincount([int(permutation(5, seed)[0]) for seed in range(2000)], minlength=5)
    assert first.min() > 340  # 400 expected, 18 the standard deviation
    assert first.max() < 460


def test_without_shuffle_the_order_is_that_of_the_file() -> None:
    sampler = StepSampler([3, 1, 2, 4, 5], 2, 100, seed=0, shuffle=False)
    assert list(sampler) == [[[0, 1]], [[3, 2]], [[4]]]


def test_drop_last_leaves_the_incomplete_step_out() -> None:
    sampler = StepSampler([1] * 10, 4, 100, seed=0, shuffle=False, drop_last=True)
    assert len(sampler) == 2
    assert sorted(flat(list(sampler))) == list(range(8))


def test_a_last_step_smaller_than_the_ranks_joins_the_one_before() -> None:
    ranks = [StepSampler([1] * 9, 4, 100, seed=0, shuffle=False, rank=rank, world=2) for rank in range(2)]
    assert [len(rank) for rank in ranks] == [2, 2]
    assert sorted(flat([list(rank)[1] for rank in ranks])) == [4, 5, 6, 7, 8]


def test_resume_continues_where_it_stopped() -> None:
    def sampler() -> StepSampler:
        return StepSampler(list(range(1, 31)), 4, 20, seed=1)

    whole = sampler()
    whole.set_epoch(2)
    expected = list(whole)
    resumed = sampler()
    resumed.start_at(epoch=2, step=5)
    resumed.set_epoch(2)  # as Lightning does at the start of the epoch
    assert list(resumed) == expected[5:]
    assert len(resumed) == len(whole) == 8
    whole.set_epoch(3)
    resumed.set_epoch(3)
    assert list(resumed) == list(whole)
    resumed.set_epoch(2)
    assert list(resumed) == expected
    with pytest.raises(ConfigError, match="step 9 of an epoch of 8 steps"):
        resumed.start_at(0, 9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, r"optim\.batch_size=0"),
        ({"tokens_per_batch": 0}, r"data\.tokens_per_batch=0"),
        ({"seed": -1}, "seed=-1"),
        ({"rank": 2, "world": 2}, "rank 2 of 2"),
        ({"batch_size": 2, "world": 3}, "at least 3"),
        ({"lengths": []}, "0 training examples make no step"),
        ({"lengths": [1], "world": 2}, "at least 2 are needed"),
        ({"batch_size": 9, "drop_last": True}, "at least 9 are needed"),
    ],
)
def test_sizes_that_allow_no_step_are_refused(change: dict, message: str) -> None:
    usual = {"lengths": [1] * 8, "batch_size": 4, "tokens_per_batch": 16, "seed": 0}
    with pytest.raises(ConfigError, match=message):
        StepSampler(**{**usual, **change})
    with pytest.raises(ConfigError, match="window=0"):
        inference_batches([1], 4, window=0)
