"""Sequences that continue another one of the same pack: a question once, its candidates behind it, each on its own.

A token sees its own sequence and the one that this continues, and its position counts on from there. The continued
sequence sees itself alone, so no candidate learns of another, and what a sequence comes to does not depend on what
else is in the pack.

What is saved are the matrix products of the shared tokens. Attention is not: for each sequence the keys of its prefix
are copied beside its own and attended to as if the two were one sequence, which every backend and window can do.

Dimensions: T tokens, B sequences, U tokens of all sequences with their prefixes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from modernbert.attention.layout import Layout
from modernbert.errors import DataError
from modernbert.packing import Packed


@dataclass(frozen=True)
class Prefixed(Packed):
    """A pack in which sequence b continues sequence `prefix[b]`, or none where that is -1.

    Raises:
        DataError: as `Packed`; `prefix` is not (B,) int64, or (on the CPU) names a sequence that continues one itself.
    """

    prefix: Tensor | None = None  # (B,) int64; None, which dataclasses ask for, is refused

    def __post_init__(self) -> None:
        super().__post_init__()
        prefix = self.prefix
        if prefix is None or prefix.dtype != torch.int64 or prefix.shape != (self.batch_size,):
            raise DataError(f"prefix must be int64 of {self.batch_size} sequences")
        if prefix.device.type == "cpu":
            named = prefix[prefix >= 0]
            if named.numel() and (int(named.max()) >= self.batch_size or bool((prefix[named] >= 0).any())):
                raise DataError("prefix must name sequences of the pack that continue no other")

    def to(self, device: torch.device | str) -> Prefixed:
        """The same pack on another device."""
        plain, prefix = super().to(device), self.prefix
        assert prefix is not None
        return Prefixed(
            plain.input_ids, plain.cu_seqlens, plain.max_seqlen, plain.token_type_ids,
            prefix.to(device, non_blocking=True),
        )  # fmt: skip

    def plain(self) -> Packed:
        """The same sequences, each on its own."""
        return Packed(self.input_ids, self.cu_seqlens, self.max_seqlen, self.token_type_ids)


class PrefixLayout(Layout):
    """The layout of a `Prefixed` pack; `whole` is that of the sequences with their prefixes."""

    def __init__(self, packed: Prefixed) -> None:
        super().__init__(packed)
        assert packed.prefix is not None
        self.prefix = packed.prefix

    @cached_property
    def before(self) -> Tensor:
        """(B,) int64 tokens of the sequence that each continues, 0 for none."""
        lengths = self.cu_seqlens.diff().long()
        return torch.where(self.prefix >= 0, lengths[self.prefix.clamp_min(0)], 0)

    @cached_property
    def shift(self) -> Tensor:
        """(T,) int64: by how much the prefix moves each token on."""
        return torch.repeat_interleave(self.before, self.cu_seqlens.diff().long(), output_size=self.num_tokens)

    @cached_property
    def positions(self) -> Tensor:
        """(T,) int64: the place of each token in its sequence, the prefix counted."""
        return torch.arange(self.num_tokens, device=self.cu_seqlens.device) - self.starts + self.shift

    @cached_property
    def gather(self) -> Tensor:
        """(U,) int64: the tokens of every sequence, those of its prefix first."""
        begin, lengths = self.cu_seqlens[:-1].long(), self.cu_seqlens.diff().long()
        starts = torch.stack([begin[self.prefix.clamp_min(0)], begin], dim=1).flatten()
        sizes = torch.stack([self.before, lengths], dim=1).flatten()
        place = torch.arange(int(sizes.sum()), device=sizes.device)
        return place + torch.repeat_interleave(starts - (sizes.cumsum(0) - sizes), sizes)

    @cached_property
    def own(self) -> Tensor:
        """(T,) int64: where in `gather` the tokens of the pack themselves stand."""
        return torch.arange(self.num_tokens, device=self.prefix.device) + torch.repeat_interleave(
            self.before.cumsum(0), self.cu_seqlens.diff().long(), output_size=self.num_tokens
        )

    @cached_property
    def whole(self) -> Layout:
        """The layout of the U tokens of `gather`."""
        lengths = self.before + self.cu_seqlens.diff()
        bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        return Layout(Packed(self.gather, bounds, int(lengths.max())))


def layout_of(packed: Packed) -> Layout:
    """How attention walks over a pack."""
    return PrefixLayout(packed) if isinstance(packed, Prefixed) else Layout(packed)
