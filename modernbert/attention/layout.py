"""How attention walks over a pack: computed once for each forward, shared by all layers.

Everything is a `Block`: `count` equal pieces of `q_len` queries against `k_len` keys, a fixed stride apart, so that one
kernel call on strided views does it without a copy. Sequences of equal length that follow each other are one block
without a mask. Under a sliding window, longer sequences are cut into chunks of queries, each against its own chunk and
its two neighbours: O(T * window). Chunks follow the pack, not the sequences, so none is ragged; a mask
keeps sequences apart where a chunk holds the border of two.

Dimensions: T tokens, B sequences, w window (tokens seen on each side, |i - j| <= w).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor

from modernbert.packing import Packed

# Queries in a chunk: with ModernBERT's window of 64 a chunk reads 192 keys, of which 129 count. Larger chunks waste
# more keys, smaller ones make the kernel's matrix products too thin.
CHUNK = 64


@dataclass(frozen=True)
class Block:
    """`count` pieces: piece i holds queries [q_start + i * q_len, + q_len) and keys [k_start + i * q_len, + k_len).

    Offsets are relative to the segment. `mask` is (count or 1, 1, q_len, k_len), additive; None: every query sees every key.
    """

    q_start: int
    k_start: int
    count: int
    q_len: int
    k_len: int
    mask: Tensor | None = None

    @property
    def overlaps(self) -> bool:
        """Whether a key belongs to several pieces."""
        return self.k_len != self.q_len


@dataclass(frozen=True)
class Segment:
    """Tokens [start, stop) of the pack: whole sequences that attend only among themselves, and the blocks that cover them."""

    start: int
    stop: int
    blocks: tuple[Block, ...]


class Layout:
    """Where the sequences of one pack lie, in the forms that the attention backends ask for, each computed when first asked."""

    def __init__(self, packed: Packed) -> None:
        self.cu_seqlens = packed.cu_seqlens
        self.max_seqlen = packed.max_seqlen
        self.num_tokens = packed.num_tokens
        self._segments: dict[tuple[int | None, torch.dtype], tuple[Segment, ...]] = {}

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

    def segments(self, window: int | None, dtype: torch.dtype) -> tuple[Segment, ...]:
        """The pack as segments, in order and without gaps, with masks in `dtype`."""
        if window is not None and self.max_seqlen <= window + 1:
            window = None  # no two tokens are further apart
        if (window, dtype) not in self._segments:
            found = self._runs() if window is None else self._windowed(window, dtype)
            self._segments[window, dtype] = tuple(found)
        return self._segments[window, dtype]

    def _runs(self) -> Iterator[Segment]:
        return _equal_runs(self.bounds)

    def _windowed(self, window: int, dtype: torch.dtype) -> Iterator[Segment]:
        """Stretches of sequences that the window cuts become chunks; those that it does not, plain runs."""
        bounds = self.bounds
        for cut, members in groupby(range(len(bounds) - 1), lambda i: bounds[i + 1] - bounds[i] > window + 1):
            numbers = list(members)
            stretch = bounds[numbers[0] : numbers[-1] + 2]
            if not cut:
                yield from _equal_runs(stretch)
                continue
            start, stop = stretch[0], stretch[-1]
            owner = self.starts[start:stop]
            blocks = tuple(_chunks(owner, len(numbers) == 1, window, dtype))
            yield Segment(start, stop, blocks)


def _equal_runs(bounds: list[int]) -> Iterator[Segment]:
    lengths = [stop - start for start, stop in zip(bounds, bounds[1:], strict=False)]
    start = bounds[0]
    for length, members in groupby(lengths):
        count = len(list(members))
        stop = start + count * length
        yield Segment(start, stop, (Block(0, 0, count, length, length),))
        start = stop


def _chunks(owner: Tensor, single: bool, window: int, dtype: torch.dtype) -> Iterator[Block]:
    """Cover a stretch: the first chunk, all inner ones in one block, and what remains (1 to 2 chunks).

    Args:
        owner: (S,) the sequence of each token of the stretch.
        single: whether the stretch is one sequence; inner chunks then share one mask.
    """
    chunk, size = max(CHUNK, window), owner.numel()
    inner = size // chunk - 2  # chunks with a whole neighbour on both sides
    if inner < 1:
        yield _masked(Block(0, 0, 1, size, size), owner, single, window, dtype)
        return
    tail = (inner + 1) * chunk
    yield _masked(Block(0, 0, 1, chunk, 2 * chunk), owner, single, window, dtype)
    yield _masked(Block(chunk, 0, inner, chunk, 3 * chunk), owner, single, window, dtype)
    yield _masked(Block(tail, tail - chunk, 1, size - tail, size - tail + chunk), owner, single, window, dtype)


def _masked(block: Block, owner: Tensor, single: bool, window: int, dtype: torch.dtype) -> Block:
    piece = torch.arange(1 if single else block.count, device=owner.device)[:, None] * block.q_len
    q = block.q_start + piece + torch.arange(block.q_len, device=owner.device)  # (count, q_len)
    k = block.k_start + piece + torch.arange(block.k_len, device=owner.device)  # (count, k_len)
    seen = (q[:, :, None] - k[:, None, :]).abs() <= window
    if not single:
        seen &= owner[q][:, :, None] == owner[k][:, None, :]
    # Not -inf: a kernel that meets a whole tile of -inf subtracts it from itself. Halved: a score is added to it.
    mask = torch.zeros(seen.shape, dtype=dtype, device=owner.device)
    mask.masked_fill_(~seen, torch.finfo(dtype).min / 2)
    return Block(block.q_start, block.k_start, block.count, block.q_len, block.k_len, mask[:, None])
