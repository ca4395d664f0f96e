"""Which examples make a step, and how a step is cut into packed micro-batches.

Two sizes that must not be mixed up: `batch_size` is how many examples an optimiser step sees, over all ranks
(the statistics of the training); `tokens_per_batch` is how many tokens one forward pass sees (the machine).
Examples are drawn by a plain permutation of the epoch, and only inside a step are lengths looked at: the
gradient of a step is that of ordinary shuffled SGD, however it is cut.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

from modernbert.errors import ConfigError

IntArray = npt.NDArray[np.int64]

# Mixing lengths in a micro-batch gives up runs of equal length (attention's fast path), so it must save at
# least this share of the forward passes. Passages of 1,200 to 8,192 tokens fill 97 to 99% of a budget of 8k,
# 16k or 32k when mixed, 77, 86 and 92% when sorted; texts of 46 tokens fill 97% of 2k when sorted.
MIXING_PAYS = 0.05


def permutation(count: int, *seeds: int) -> IntArray:
    """(count,) a shuffle that `seeds` decide, the same on every platform and in every release of numpy.

    Only bit generators promise their stream for good (NEP 19), `Generator.permutation` does not. Sorting
    random 64-bit keys shuffles uniformly but for ties, of chance 3e-8 at a million rows.
    """
    keys = np.random.PCG64(np.random.SeedSequence(seeds)).random_raw(count)
    return np.argsort(keys, kind="stable").astype(np.int64)


def micro_batches(lengths: npt.ArrayLike, indices: npt.ArrayLike, tokens_per_batch: int) -> list[IntArray]:
    """Cut `indices` into micro-batches of at most `tokens_per_batch` tokens, of about equal size.

    Longest first, like lengths together where that costs few extra passes. Every index is in exactly one
    micro-batch; an example longer than the budget is one of its own.

    Args:
        lengths: (N,) tokens of each example, or any other cost in the unit of `tokens_per_batch`.
        indices: positions in `lengths`.
        tokens_per_batch: the budget of one forward pass.
    """
    _check_budget(tokens_per_batch)
    members = np.asarray(indices, dtype=np.int64)
    if members.size == 0:
        return []
    sizes = np.asarray(lengths)[members].astype(np.int64)
    order = np.argsort(-sizes, kind="stable")
    members, sizes = members[order], sizes[order]
    over = int(np.searchsorted(-sizes, -tokens_per_batch, side="left"))  # these exceed the budget alone
    alone = [members[i : i + 1] for i in range(over)]
    if over == len(members):
        return alone
    groups = _balanced_groups(sizes[over:], tokens_per_batch)
    return alone + [members[over:][group] for group in groups]


def inference_batches(
    lengths: npt.ArrayLike, tokens_per_batch: int, window: int = 4096, indices: npt.ArrayLike | None = None
) -> list[IntArray]:
    """Micro-batches in which like lengths meet inside windows of `window` consecutive examples.

    The window bounds how long a result waits for its neighbours, so that predictions can be written in the
    order of the input while a file streams. `Batch.index` restores that order.
    """
    if window < 1:
        raise ConfigError(f"window={window}: give at least 1 example")
    sizes = np.asarray(lengths)
    positions = np.arange(len(sizes)) if indices is None else np.asarray(indices, dtype=np.int64)
    return [
        batch
        for start in range(0, len(positions), window)
        for batch in micro_batches(sizes, positions[start : start + window], tokens_per_batch)
    ]


def budget_use(lengths: npt.ArrayLike, batches: Sequence[npt.ArrayLike], tokens_per_batch: int) -> float:
    """Share of the budget that holds real tokens: tokens / (micro-batches * tokens_per_batch)."""
    sizes = np.asarray(lengths)
    tokens = sum(int(sizes[np.asarray(batch)].sum()) for batch in batches)
    return tokens / (len(batches) * tokens_per_batch) if batches else 0.0


def shares(lengths: npt.ArrayLike, indices: npt.ArrayLike, world: int) -> list[IntArray]:
    """Split `indices` into `world` disjoint shares of about equal tokens; none is empty if there are enough.

    Longest first to the rank with the fewest tokens so far: at most 4/3 of the best possible maximum
    (Graham 1969, "Bounds on multiprocessing timing anomalies").
    """
    members = np.asarray(indices, dtype=np.int64)
    if world == 1:
        return [members]
    sizes = np.asarray(lengths)[members].astype(np.int64)
    return [members[bin_] for bin_ in _lightest_first(np.argsort(-sizes, kind="stable"), sizes, world)]


class StepSampler(Sampler[list[list[int]]]):
    """The steps of an epoch; each is the micro-batches that this rank runs for it, as lists of indices.

    Order depends on `seed` and epoch alone, not on platform, numpy version or number of ranks. Every example
    comes exactly once an epoch over all ranks (less those that `drop_last` leaves out). Every rank has the
    same number of steps and at least one example in each: a last step with fewer examples than ranks is
    joined to the step before it.

    Args:
        lengths: (N,) tokens of each example, or any other cost in the unit of `tokens_per_batch`.
        batch_size: examples of an optimiser step, over all ranks.
        tokens_per_batch: most tokens of one micro-batch; a longer example runs alone.
        seed: of the permutations.
        shuffle: draw a new permutation each epoch; False keeps the order of the file.
        drop_last: leave out a last step of fewer than `batch_size` examples.
        rank, world: this process and how many there are.

    Raises:
        ConfigError: a size that allows no step.
    """

    def __init__(
        self,
        lengths: npt.ArrayLike,
        batch_size: int,
        tokens_per_batch: int,
        seed: int,
        shuffle: bool = True,
        drop_last: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.lengths = np.asarray(lengths).astype(np.int64)
        _check_sizes(len(self.lengths), batch_size, tokens_per_batch, seed, rank, world, drop_last)
        self.batch_size = batch_size
        self.tokens_per_batch = tokens_per_batch
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world = world
        self.epoch = 0
        self.start_step = 0
        self._used = self._room = 0
        self._bounds = _step_bounds(len(self.lengths), batch_size, drop_last, world)

    def __len__(self) -> int:
        """Steps of a whole epoch, the same on every rank and wherever this epoch starts."""
        return len(self._bounds) - 1

    @property
    def budget_use(self) -> float:
        """Share of the budget that this rank's micro-batches have used so far; one longer than the budget fills it."""
        return self._used / self._room if self._room else 0.0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order, whole unless `start_at` named this very epoch. Lightning calls it."""
        if epoch != self.epoch:
            self.start_step = 0
        self.epoch = epoch

    def start_at(self, epoch: int, step: int) -> None:
        """Resume: the next iteration is of `epoch` and begins at its `step`; later epochs are whole."""
        if not 0 <= step <= len(self):
            raise ConfigError(
                f"step {step} of an epoch of {len(self)} steps: resume with the data and batch size of before"
            )
        self.epoch = epoch
        self.start_step = step

    def permutation(self) -> IntArray:
        """(N,) the order of this epoch before it is cut into steps."""
        count = len(self.lengths)
        if not self.shuffle:
            return np.arange(count)
        return permutation(count, self.seed, self.epoch)

    def step(self, order: IntArray, number: int) -> list[IntArray]:
        """The micro-batches of this rank in step `number` of the epoch whose permutation is `order`."""
        members = order[self._bounds[number] : self._bounds[number + 1]]
        mine = shares(self.lengths, members, self.world)[self.rank]
        return micro_batches(self.lengths, mine, self.tokens_per_batch)

    def __iter__(self) -> Iterator[list[list[int]]]:
        order = self.permutation()
        for number in range(self.start_step, len(self)):
            batches = self.step(order, number)
            sums = [int(self.lengths[batch].sum()) for batch in batches]
            self._used += sum(sums)
            self._room += sum(max(used, self.tokens_per_batch) for used in sums)
            yield [batch.tolist() for batch in batches]


def _check_budget(tokens_per_batch: int) -> None:
    if tokens_per_batch < 1:
        raise ConfigError(f"data.tokens_per_batch={tokens_per_batch}: give at least 1 (2048 suits a CPU)")


def _check_sizes(
    count: int, batch_size: int, tokens_per_batch: int, seed: int, rank: int, world: int, drop_last: bool
) -> None:
    if batch_size < 1:
        raise ConfigError(f"optim.batch_size={batch_size}: give at least 1 example per optimiser step")
    _check_budget(tokens_per_batch)
    if seed < 0:
        raise ConfigError(f"seed={seed}: give 0 or a positive whole number")
    if not 0 <= rank < world:
        raise ConfigError(f"rank {rank} of {world} processes: a rank lies between 0 and {world - 1}")
    if batch_size < world:
        raise ConfigError(
            f"optim.batch_size={batch_size} on {world} processes: it counts the examples of a step over all "
            f"of them, so give at least {world}"
        )
    if count < world or (drop_last and count < batch_size):
        needed = batch_size if drop_last else world
        raise ConfigError(f"{count} training examples make no step: at least {needed} are needed")


def _step_bounds(count: int, batch_size: int, drop_last: bool, world: int) -> list[int]:
    """Borders of the steps in the permutation: step s holds positions bounds[s] to bounds[s + 1]."""
    bounds = list(range(0, count + 1, batch_size))
    rest = count - bounds[-1]
    if rest and not drop_last:
        if rest < world:  # a rank would go without and DDP would wait for its gradient for ever
            bounds.pop()
        bounds.append(count)
    return bounds


def _balanced_groups(sizes: IntArray, budget: int) -> list[IntArray]:
    """Positions in `sizes` (descending, none above the budget) as few groups of about equal sum."""
    cumulative = np.concatenate([[0], np.cumsum(sizes)])
    cuts = _cut(cumulative, budget)
    fewest = -(-int(cumulative[-1]) // budget)
    if len(cuts) - 1 > fewest / (1 - MIXING_PAYS):
        mixed = _mixed_groups(sizes, budget)
        if len(mixed) <= (len(cuts) - 1) * (1 - MIXING_PAYS):
            return mixed
    # The smallest budget that needs no more groups evens them out: no full micro-batch beside a tiny rest.
    low, high, groups = int(sizes[0]), budget, len(cuts)
    while low < high:
        middle = (low + high) // 2
        if len(_cut(cumulative, middle, groups)) <= groups:
            high = middle
        else:
            low = middle + 1
    cuts = _cut(cumulative, high)
    return [np.arange(start, stop) for start, stop in pairwise(cuts)]


def _cut(cumulative: IntArray, budget: int, most: int | None = None) -> list[int]:
    """Borders of consecutive groups, each filled as far as the budget goes; stops once more than `most`."""
    cuts = [0]
    while cuts[-1] < len(cumulative) - 1 and (most is None or len(cuts) <= most):
        cuts.append(int(np.searchsorted(cumulative, cumulative[cuts[-1]] + budget, side="right")) - 1)
    return cuts


def _mixed_groups(sizes: IntArray, budget: int) -> list[IntArray]:
    """Best-fit decreasing bins (Johnson 1974), evened out where that keeps the budget."""
    bins: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), ascending
    for position, size in enumerate(sizes.tolist()):
        at = bisect_left(room, (size, -1))
        left, number = room.pop(at) if at < len(room) else (budget, len(bins))
        if number == len(bins):
            bins.append([])
        bins[number].append(position)
        insort(room, (left - size, number))
    even = _lightest_first(np.arange(len(sizes)), sizes, len(bins))
    if max(int(sizes[group].sum()) for group in even) <= budget:
        return even
    return [np.asarray(group, dtype=np.int64) for group in bins]


def _lightest_first(order: IntArray, sizes: IntArray, count: int) -> list[IntArray]:
    """Deal the positions in `order` to `count` groups, each to the one with the smallest sum so far."""
    groups: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]
    for position in order.tolist():
        load, number = loads[0]
        groups[number].append(position)
        heapq.heapreplace(loads, (load + int(sizes[position]), number))
    return [np.asarray(group, dtype=np.int64) for group in groups]
