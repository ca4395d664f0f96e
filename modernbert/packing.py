"""Packed batches: sequences laid end to end with their boundaries beside them, so that no token is padding.

Dimensions: T tokens, B sequences, S longest sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from modernbert.errors import DataError


@dataclass(frozen=True)
class Packed:
    """B sequences in one row of T tokens; sequence b is `input_ids[cu_seqlens[b]:cu_seqlens[b + 1]]`.

    Raises:
        DataError: shapes or dtypes are wrong; for tensors on the CPU also when `cu_seqlens` does not rise
            strictly from 0 to T or `max_seqlen` is not the longest length (on a GPU that would cost a wait).
    """

    input_ids: Tensor  # (T,) int64
    cu_seqlens: Tensor  # (B+1,) int32
    max_seqlen: int
    token_type_ids: Tensor | None = None  # (T,) int64, BERT segments; None means all zero

    def __post_init__(self) -> None:
        _check_vector("input_ids", self.input_ids, torch.int64)
        _check_vector("cu_seqlens", self.cu_seqlens, torch.int32)
        if self.cu_seqlens.numel() < 2:
            raise DataError("cu_seqlens needs at least two entries (0 and T): the pack holds no sequence")
        if self.token_type_ids is not None:
            _check_vector("token_type_ids", self.token_type_ids, torch.int64)
            if self.token_type_ids.shape != self.input_ids.shape:
                raise DataError(
                    f"token_type_ids has {self.token_type_ids.numel()} entries for {self.num_tokens} tokens"
                )
        if self.cu_seqlens.device.type == "cpu":
            self._check_boundaries()

    def _check_boundaries(self) -> None:
        first, last = int(self.cu_seqlens[0]), int(self.cu_seqlens[-1])
        if first != 0 or last != self.num_tokens:
            raise DataError(f"cu_seqlens must run from 0 to T={self.num_tokens}, it runs from {first} to {last}")
        lengths = self.lengths
        if int(lengths.min()) < 1:
            at = int((lengths < 1).nonzero()[0])
            raise DataError(
                f"cu_seqlens must rise at each step: sequence {at} has length {int(lengths[at])}; "
                "leave empty sequences out"
            )
        longest = int(lengths.max())
        if longest != self.max_seqlen:
            raise DataError(f"max_seqlen is {self.max_seqlen}, the longest sequence has {longest} tokens")

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.input_ids.numel()

    @property
    def batch_size(self) -> int:
        """B."""
        return self.cu_seqlens.numel() - 1

    @property
    def lengths(self) -> Tensor:
        """(B,) int32 tokens of each sequence."""
        return self.cu_seqlens.diff()

    def to(self, device: torch.device | str) -> Packed:
        """The same pack on another device."""
        types = None if self.token_type_ids is None else self.token_type_ids.to(device, non_blocking=True)
        return Packed(
            self.input_ids.to(device, non_blocking=True),
            self.cu_seqlens.to(device, non_blocking=True),
            self.max_seqlen,
            types,
        )


def pack(sequences: Sequence[Any], token_type_ids: Sequence[Any] | None = None) -> Packed:
    """Lay sequences end to end.

    Args:
        sequences: B one-dimensional sequences, arrays or tensors of token ids, none empty.
        token_type_ids: as many, of the same lengths, or None for all zero.

    Raises:
        DataError: no sequence, an empty one, or segments that do not fit their sequence.
    """
    rows = [_as_ids("sequence", i, row) for i, row in enumerate(sequences)]
    if not rows:
        raise DataError("there is no sequence to pack")
    lengths = torch.tensor([row.numel() for row in rows])
    types = None
    if token_type_ids is not None:
        segments = [_as_ids("token_type_ids", i, row) for i, row in enumerate(token_type_ids)]
        found = [row.numel() for row in segments]
        if found != lengths.tolist():
            raise DataError(f"token_type_ids have lengths {found[:8]}, the sequences {lengths.tolist()[:8]}")
        types = torch.cat(segments)
    return Packed(torch.cat(rows), _boundaries(lengths), int(lengths.max()), types)


def unpack(values: Tensor, packed: Packed) -> list[Tensor]:
    """The (T, ...) values of a pack as B views, one a sequence."""
    if values.shape[0] != packed.num_tokens:
        raise DataError(f"{values.shape[0]} values for a pack of {packed.num_tokens} tokens")
    return list(values.split(packed.lengths.tolist()))


def split(packed: Packed, max_tokens: int) -> list[Packed]:
    """Cut a pack into packs of at most `max_tokens` tokens, in order, whole sequences only.

    A sequence longer than `max_tokens` gets a pack of its own.
    """
    if max_tokens < 1:
        raise DataError(f"max_tokens must be at least 1, not {max_tokens}")
    bounds = packed.cu_seqlens.tolist()
    return [_slice(packed, bounds, first, last) for first, last in _groups(bounds, max_tokens)]


def from_padded(input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Packed:
    """(B, S) ids and their mask (nonzero where a token is real, on either side) as a pack.

    Raises:
        DataError: shapes differ, or a row has no real token.
    """
    if input_ids.dim() != 2 or attention_mask.shape != input_ids.shape:
        raise DataError(
            f"input_ids and attention_mask must both be (B, S), not {tuple(input_ids.shape)} "
            f"and {tuple(attention_mask.shape)}"
        )
    if token_type_ids is not None and token_type_ids.shape != input_ids.shape:
        raise DataError(f"token_type_ids is {tuple(token_type_ids.shape)}, not {tuple(input_ids.shape)}")
    keep = attention_mask != 0
    lengths = keep.sum(1)
    if lengths.numel() == 0 or int(lengths.min()) < 1:
        raise DataError("a row of the padded batch has no real token: leave it out")
    types = None if token_type_ids is None else token_type_ids[keep].long()
    return Packed(input_ids[keep].long(), _boundaries(lengths), int(lengths.max()), types)


def to_padded(values: Tensor, packed: Packed, fill: float = 0) -> Tensor:
    """(T, ...) values as (B, S, ...), right-padded with `fill`."""
    return torch.nn.utils.rnn.pad_sequence(unpack(values, packed), batch_first=True, padding_value=fill)


def _groups(bounds: list[int], max_tokens: int) -> Iterator[tuple[int, int]]:
    first = 0
    for end in range(1, len(bounds)):
        if bounds[end] - bounds[first] > max_tokens and end - 1 > first:
            yield first, end - 1
            first = end - 1
    yield first, len(bounds) - 1


def _slice(packed: Packed, bounds: list[int], first: int, last: int) -> Packed:
    start, stop = bounds[first], bounds[last]
    types = None if packed.token_type_ids is None else packed.token_type_ids[start:stop]
    longest = max(b - a for a, b in zip(bounds[first:last], bounds[first + 1 : last + 1], strict=True))
    return Packed(packed.input_ids[start:stop], packed.cu_seqlens[first : last + 1] - start, longest, types)


def _boundaries(lengths: Tensor) -> Tensor:
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)


def _as_ids(what: str, index: int, row: Any) -> Tensor:
    # A memory-mapped array is read-only, which torch does not support: copied, it is short.
    ids = torch.as_tensor(row.copy() if isinstance(row, np.ndarray) else row)
    if ids.dim() != 1 or ids.numel() == 0:
        raise DataError(f"{what} {index} must be a non-empty one-dimensional sequence, not {tuple(ids.shape)}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise DataError(f"{what} {index} must hold integers, not {ids.dtype}")
    return ids.long()


def _check_vector(name: str, value: Tensor, dtype: torch.dtype) -> None:
    if value.dim() != 1 or value.dtype != dtype:
        raise DataError(f"{name} must be one-dimensional {dtype}, not {tuple(value.shape)} {value.dtype}")
