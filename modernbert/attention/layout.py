"""How attention walks over a pack: computed once for each forward, shared by all layers.

Everything is a `Block`: `count` equal pieces of `q_len` queries against `k_len` keys, a fixed stride apart, so
that one kernel call on strided views does it without a copy. Sequences of equal length that follow each other
are one block. Under a sliding window, longer sequences are cut into chunks of queries, each against its own
chunk and its neighbours: O(T * window). Chunks follow the pack, not the sequences, so none is ragged; a mask
keeps sequences apart where a chunk holds the border of two (2 to 5% slower than one mask for all chunks).

Dimensions: T tokens, B sequences, S tokens of a stretch, w window (tokens seen on each side, |i - j| <= w).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby, pairwise

import torch
from torch import Tensor

from modernbert.packing import Packed

# A sequence is cut only where it has this many tokens more than the window: a shorter one costs less as one
# masked piece (4,096 tokens in sequences of 128: 7 against 9 ms forward, 17 against 28 ms backward).
UNCUT = 128


@dataclass(frozen=True)
class Block:
    """`count` pieces; piece i holds `q_len` queries from q_start + i * q_len, `k_len` keys from k_start + i * q_len.

    Offsets are relative to the segment.
    """

    q_start: int
    k_start: int
    count: int
    q_len: int
    k_len: int
    mask: Tensor | None = None  # (count or 1, 1, q_len, k_len), additive; None: every query sees every key

    @property
    def overlaps(self) -> bool:
        """Whether a key belongs to several pieces."""
        return self.k_len != self.q_len

    @property
    def full_mask(self) -> Tensor | None:
        """The mask as (count, 1, q_len, k_len), without a copy."""
        return None if self.mask is None else self.mask.expand(self.count, -1, -1, -1)


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of the pack, whole sequences that attend only among themselves, and their blocks."""

    start: int
    stop: int
    blocks: tuple[Block, ...]


class Layout:
    """Where the sequences of one pack lie, in the forms that the backends ask for, each computed when first asked."""

    def __init__(self, packed: Packed) -> None:
        self.cu_seqlens = packed.cu_seqlens
        self.max_seqlen = packed.max_seqlen
        self.num_tokens = packed.num_tokens
        self._segments: dict[tuple[int | None, torch.dtype, int], tuple[Segment, ...]] = {}

    @cached_property
    def bounds(self) -> list[int]:
        """B+1 boundaries on the host (on a GPU the first use waits for the device)."""
        bounds: list[int] = self.cu_seqlens.tolist()
        return bounds

    @cached_property
    def starts(self) -> Tensor:
        """(T,) int64: where the sequence of each token begins."""
        lengths = self.cu_seqlens.diff().long()
        return torch.repeat_interleave(self.cu_seqlens[:-1].long(), lengths, output_size=self.num_tokens)

    @cached_property
    def positions(self) -> Tensor:
        """(T,) int64: the place of each token in its sequence, from 0."""
        return torch.arange(self.num_tokens, device=self.cu_seqlens.device) - self.starts

    @property
    def shift(self) -> Tensor | int:
        """How far what a sequence continues moves its positions on (see `modernbert.attention.prefix`)."""
        return 0

    def segments(self, window: int | None, dtype: torch.dtype, chunk: int) -> tuple[Segment, ...]:
        """The pack as segments, in order and without gaps, with masks in `dtype` and chunks of `chunk` queries."""
        if window is not None and self.max_seqlen <= window + 1:
            window = None  # no two tokens are further apart
        key = (window, dtype, chunk)
        if key not in self._segments:
            found = _runs(self.bounds) if window is None else self._windowed(window, dtype, chunk)
            self._segments[key] = tuple(found)
        return self._segments[key]

    def _windowed(self, window: int, dtype: torch.dtype, chunk: int) -> Iterator[Segment]:
        """Stretches of long sequences as chunks, the others as runs."""
        longest = window + UNCUT  # that is not cut
        bounds, starts = self.bounds, self.starts
        band = _additive(_near(torch.arange(min(longest, self.max_seqlen), device=starts.device), window), dtype)
        for cut, members in groupby(range(len(bounds) - 1), lambda i: bounds[i + 1] - bounds[i] > longest):
            numbers = list(members)
            stretch = bounds[numbers[0] : numbers[-1] + 2]
            if not cut:
                yield from _runs(stretch, window, band)
                continue
            owner = starts[stretch[0] : stretch[-1]]
            blocks = _chunks(owner, len(numbers) == 1, window, dtype, chunk)
            yield Segment(stretch[0], stretch[-1], tuple(blocks))


def _runs(bounds: list[int], window: int | None = None, band: Tensor | None = None) -> Iterator[Segment]:
    """Sequences of equal length that follow each other; `band` (n, n) is the mask of the longest."""
    start = bounds[0]
    for length, members in groupby(stop - start for start, stop in pairwise(bounds)):
        count = len(list(members))
        stop = start + count * length
        masked = band is not None and window is not None and length > window + 1
        mask = band[None, None, :length, :length] if masked and band is not None else None
        yield Segment(start, stop, (Block(0, 0, count, length, length, mask),))
        start = stop


def _chunks(owner: Tensor, single: bool, window: int, dtype: torch.dtype, chunk: int) -> Iterator[Block]:
    """Cover a stretch of S tokens: its first chunks, all inner ones in one block, its last chunks.

    Args:
        owner: (S,) the sequence of each token.
        single: whether the stretch is one sequence; inner chunks then share one mask.
    """
    size, reach = owner.numel(), -(-window // chunk)  # chunks seen on each side
    inner = size // chunk - 2 * reach  # chunks with all their neighbours
    edge = reach * chunk
    if inner < 1:
        blocks = [Block(0, 0, 1, size, size)]
    else:
        tail = edge + inner * chunk
        blocks = [
            Block(0, 0, 1, edge, 2 * edge),
            Block(edge, 0, inner, chunk, chunk + 2 * edge),
            Block(tail, tail - edge, 1, size - tail, size - tail + edge),
        ]
    for block in blocks:
        yield _masked(block, owner, single, window, dtype)


def _masked(block: Block, owner: Tensor, single: bool, window: int, dtype: torch.dtype) -> Block:
    piece = torch.arange(1 if single else block.count, device=owner.device)[:, None] * block.q_len
    q = block.q_start + piece + torch.arange(block.q_len, device=owner.device)  # (count, q_len)
    k = block.k_start + piece + torch.arange(block.k_len, device=owner.device)  # (count, k_len)
    seen = _near(q, window, k)
    if not single:
        seen &= owner[q][..., :, None] == owner[k][..., None, :]
    return replace(block, mask=_additive(seen, dtype)[:, None])


def _near(q: Tensor, window: int, k: Tensor | None = None) -> Tensor:
    """(..., q_len, k_len): whether two places (k: those of q) are at most `window` apart."""
    return (q[..., :, None] - (q if k is None else k)[..., None, :]).abs() <= window


def _additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    # Not -inf: a kernel that meets a whole tile of it subtracts it from itself. Halved: a score is added to it.
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill_(~seen, torch.finfo(dtype).min / 2)
