"""What the encoders are given: token ids of fixed or drawn lengths, packed for us and padded for the others.

Dimensions: T tokens, B sequences, S longest sequence of a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from modernbert import Packed, pack, split
from modernbert.errors import ConfigError

#: Ids below are special tokens in every vocabulary that is measured, those above are missing in the smallest.
FIRST_ID, LAST_ID = 1_000, 30_000
#: Sequences of a drawn mix: enough for sorting to matter, and an end to how long one cell takes.
FEWEST, MOST = 4, 1024


@dataclass(frozen=True)
class Mix:
    """Lengths drawn at random; `mean` is about their mean, `longest` their limit."""

    mean: int
    longest: int
    draw: Callable[[int, Generator], Tensor]  # (how many, source) -> (how many,) float lengths


def normal(mean: int, deviation: int, longest: int) -> Mix:
    """Variable lengths of the ModernBERT paper (arXiv:2412.13663, section 4)."""
    return Mix(mean, longest, lambda count, source: mean + deviation * torch.randn(count, generator=source))


def long_tailed(longest: int, shortest: int = 8) -> Mix:
    """Many short texts, few long ones, as real collections are: the mean is about 0.3 of the longest."""
    width, power = longest - shortest, 2.5
    mean = shortest + round(width / (power + 1))

    def draw(count: int, source: Generator) -> Tensor:
        return shortest + width * torch.rand(count, generator=source) ** power

    return Mix(mean, longest, draw)


MIXES = {
    "variable-512": normal(256, 64, 512),
    "variable-8192": normal(4096, 1024, 8192),
    "longtail-512": long_tailed(512),
    "longtail-2048": long_tailed(2048),
}


@dataclass(frozen=True)
class Workload:
    """Sequences of token ids in the order of arrival, and how many of them a padded batch takes."""

    rows: list[Tensor]  # B tensors (length,) int64
    batch_size: int

    @property
    def lengths(self) -> list[int]:
        return [len(row) for row in self.rows]

    @property
    def tokens(self) -> int:
        """T, padding not counted."""
        return sum(self.lengths)

    @property
    def sorting_matters(self) -> bool:
        return len(set(self.lengths)) > 1 and len(self.rows) > self.batch_size

    def packs(self, budget: int, device: torch.device) -> list[Packed]:
        """Packs of at most `budget` tokens, like lengths together: what training and prediction run."""
        return [part.to(device) for part in split(pack(sorted(self.rows, key=len)), budget)]

    def padded(self, ordered: bool, device: torch.device) -> list[tuple[Tensor, Tensor]]:
        """(B, S) ids and masks of `batch_size` sequences each, padded to the longest; `ordered` by length or not."""
        rows = sorted(self.rows, key=len) if ordered else self.rows
        starts = range(0, len(rows), self.batch_size)
        return [_pad(rows[start : start + self.batch_size], device) for start in starts]


def longest(name: str | int) -> int:
    """The most tokens of a sequence under this name.

    Raises:
        ConfigError: neither a number of tokens nor a mix.
    """
    if name in MIXES:
        return MIXES[str(name)].longest
    if isinstance(name, int) and not isinstance(name, bool) and name > 0:
        return name
    raise ConfigError(f"lengths={name}: allowed are a number of tokens, {', '.join(MIXES)}.")


def workload(name: str | int, tokens: int, budget: int, batch_size: int | None = None, seed: int = 0) -> Workload:
    """About `tokens` tokens (at least one sequence of a fixed length, `FEWEST` of a mix) of random ids.

    Args:
        name: a number of tokens, or one of `MIXES`.
        budget: tokens of one pass on our side.
        batch_size: sequences of a padded batch; None for as many as have `budget` tokens on average, at least 2
            of a mix.
    """
    limit, source = longest(name), Generator().manual_seed(seed)
    if name in MIXES:
        mix = MIXES[str(name)]
        count = min(MOST, max(FEWEST, round(tokens / mix.mean)))
        lengths = mix.draw(count, source).round().long().clamp(1, limit).tolist()
        usual = max(2, round(budget / mix.mean))
    else:
        count = max(1, tokens // limit)
        lengths = [limit] * count
        usual = max(1, budget // limit)
    rows = [torch.randint(FIRST_ID, LAST_ID, (length,), generator=source) for length in lengths]
    return Workload(rows, batch_size or usual)


def _pad(rows: list[Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids.to(device), mask.to(device)
