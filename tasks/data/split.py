"""The validation split when no validation file is given, and folds: stratified, by seed, groups kept whole.

One method for all targets: an example is a set of strata (its class, its labels, or the quantile bin of its
value), and rare strata are dealt first, as in iterative stratification (Sechidis et al. 2011, "On the
stratification of multi-label data"). What rounding leaves over in one stratum is carried to the next, so that
many small strata still give the share that was asked for.

Dimensions: N examples, L strata.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from modernbert.errors import ConfigError, DataError
from tasks.data.sampler import permutation

IntArray = npt.NDArray[np.int64]

# Regression: more bins follow the distribution more closely; ten examples a bin keep each bin divisible.
MOST_BINS = 10
EXAMPLES_PER_BIN = 10

NO_STRATUM = ("no stratum",)


def validation_split(
    strata: Sequence[Iterable[Hashable]], share: float, seed: int, groups: Sequence[Hashable] | None = None
) -> tuple[IntArray, IntArray]:
    """Positions of the training and of the validation examples, both ascending.

    Each stratum gives about `share` of its examples. Its first example (or group) goes to training, so that a
    class with one example stays there and no class is validated that was never trained. An example without
    strata counts as one of the stratum "none".

    Args:
        strata: for each of N examples the strata it belongs to: see `by_class`, `by_labels`, `by_quantile`.
        share: of the examples to validate on, between 0 and 1.
        seed: decides which; the same seed and data give the same split.
        groups: (N,) for each example its group, such as an author: a group is never on both sides.
            A missing group (None) is a group of its own.

    Raises:
        ConfigError: a share outside (0, 1).
        DataError: nothing can be split off, or another number of groups than of examples.
    """
    if not 0 < share < 1:
        raise ConfigError(f"a validation share of {share}: give a number between 0 and 1, such as 0.1")
    if groups is not None and len(groups) != len(strata):
        raise DataError(f"{len(strata)} examples but {len(groups)} groups: give one group for each example")
    units = _units(len(strata), groups)
    unit_strata = [_counts(strata, unit) for unit in units]
    chosen = _deal(unit_strata, share, seed)
    validation = np.array(sorted(i for unit in chosen for i in units[unit]), dtype=np.int64)
    if not len(validation):
        what = "class or label has a single example" if groups is None else "class lies in a single group"
        raise DataError(
            f"no validation rows can be split off {len(strata)} examples at a share of {share}: too few, "
            f"or each {what}. Give data.validation, or a larger share"
        )
    train = np.setdiff1d(np.arange(len(strata)), validation)
    return train, validation


def folds(
    strata: Sequence[Iterable[Hashable]], count: int, seed: int, groups: Sequence[Hashable] | None = None
) -> list[IntArray]:
    """Positions of `count` parts that share no example, all ascending: each is parted off as a validation split is.

    Raises:
        ConfigError: less than two parts.
        DataError: too few examples; a stratum that lies in one part, so that it is tested and never trained.
    """
    if count < 2:
        raise ConfigError(f"{count} folds: allowed is 2 or more (usual: 5 or 10)")
    rest, parts = np.arange(len(strata)), list[IntArray]()
    for left in range(count, 1, -1):
        inner = None if groups is None else [groups[i] for i in rest.tolist()]
        kept, held = validation_split([strata[i] for i in rest.tolist()], 1 / left, seed, inner)
        parts.append(rest[held])
        rest = rest[kept]
    parts.append(rest)
    homes: dict[Hashable, set[int]] = {}  # stratum -> numbers of the parts that hold it
    for number, part in enumerate(parts):
        for stratum in {stratum for i in part.tolist() for stratum in strata[i]}:
            homes.setdefault(stratum, set()).add(number)
    if alone := sorted(repr(stratum) for stratum, found in homes.items() if len(found) < 2):
        raise DataError(
            f"{', '.join(alone[:5])}: too few rows for {count} folds, all of them are in one. Give each label two "
            "rows or more (of different groups, where rows are grouped), or merge it into another"
        )
    return parts


def by_class(labels: Sequence[Hashable]) -> list[tuple[Hashable]]:
    """Strata of one class an example."""
    return [(label,) for label in labels]


def by_labels(labels: Sequence[Iterable[Hashable]] | npt.NDArray[np.generic]) -> list[tuple[Hashable, ...]]:
    """Strata of several labels an example: collections of names, or a matrix (N, L) of 0 and 1."""
    if isinstance(labels, np.ndarray):
        return [tuple(np.flatnonzero(row).tolist()) for row in labels]
    return [tuple(dict.fromkeys(row)) for row in labels]


def by_quantile(values: npt.ArrayLike) -> list[tuple[Hashable]]:
    """Strata of a score: up to ten bins of equal count; equal values share a bin."""
    scores = np.asarray(values, dtype=np.float64)
    bins = max(1, min(MOST_BINS, len(scores) // EXAMPLES_PER_BIN))
    edges = np.quantile(scores, np.linspace(0, 1, bins + 1)[1:-1]) if len(scores) else np.zeros(0)
    return [(bin_,) for bin_ in np.searchsorted(edges, scores, side="right").tolist()]


def _units(count: int, groups: Sequence[Hashable] | None) -> list[list[int]]:
    """What is dealt as a whole: single examples or groups of them, in order of first appearance."""
    if groups is None:
        return [[position] for position in range(count)]
    members: dict[Hashable, list[int]] = {}
    for position, group in enumerate(groups):
        members.setdefault(("row", position) if group is None else ("group", group), []).append(position)
    return list(members.values())


def _counts(strata: Sequence[Iterable[Hashable]], unit: list[int]) -> Counter[Hashable]:
    """How many examples of each stratum a unit holds."""
    counts: Counter[Hashable] = Counter()
    for position in unit:
        counts.update(tuple(strata[position]) or (NO_STRATUM,))
    return counts


def _deal(units: Sequence[Counter[Hashable]], share: float, seed: int) -> list[int]:
    """The units that go to validation."""
    members: dict[Hashable, list[int]] = {}
    for number in permutation(len(units), seed).tolist():
        for stratum in units[number]:
            members.setdefault(stratum, []).append(number)
    sizes = {stratum: sum(units[n][stratum] for n in numbers) for stratum, numbers in members.items()}
    lacking = {stratum: share * size for stratum, size in sizes.items()}  # what validation still needs
    in_train: set[Hashable] = set()
    dealt: set[int] = set()
    chosen: list[int] = []
    carry = 0.0
    for stratum in sorted(members, key=lambda key: (sizes[key], repr(key))):
        target = lacking[stratum] + carry
        for number in members[stratum]:
            if number in dealt:
                continue
            dealt.add(number)
            unit = units[number]
            # Taking it must bring the stratum nearer to its target: |target - c| < |target|.
            if unit.keys() <= in_train and unit[stratum] < 2 * target:
                chosen.append(number)
                target -= unit[stratum]
                for other, examples in unit.items():
                    lacking[other] -= examples
            else:
                in_train |= unit.keys()
        # No more than rounding explains: what a stratum could not give must not be taken from another.
        most = max(units[number][stratum] for number in members[stratum]) / 2
        carry = min(max(target, -most), most)
    return chosen
