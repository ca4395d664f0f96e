"""From token vectors to sequence vectors.

Dimensions: T tokens, B sequences, D hidden, W words.
"""

from __future__ import annotations

import torch
from torch import Tensor

from modernbert.packing import Packed


def cls(hidden: Tensor, packed: Packed) -> Tensor:
    """(T, D) -> (B, D): the vector of the first token of each sequence."""
    return hidden.index_select(0, packed.cu_seqlens[:-1].long())


def mean(hidden: Tensor, packed: Packed) -> Tensor:
    """(T, D) -> (B, D): the mean over all tokens, special ones included, as transformers and
    sentence-transformers take it."""
    lengths = packed.lengths.long()
    owner = torch.repeat_interleave(
        torch.arange(packed.batch_size, device=hidden.device), lengths, output_size=packed.num_tokens
    )
    # Summed in fp32 at least: a bf16 sum over thousands of tokens loses three digits.
    wide = torch.promote_types(hidden.dtype, torch.float32)
    sums = hidden.new_zeros(packed.batch_size, hidden.shape[1], dtype=wide).index_add(0, owner, hidden.to(wide))
    return (sums / lengths[:, None]).to(hidden.dtype)


def first_subword(hidden: Tensor, index: Tensor) -> Tensor:
    """(T, D) -> (W, D): the vector of each word's first sub-word, `index` (W,) int64 being its place in the pack."""
    return hidden.index_select(0, index)
