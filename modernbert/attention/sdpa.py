"""Attention through torch's public scaled_dot_product_attention: the fallback that runs wherever torch runs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modernbert.attention.layout import Block, Layout

CHUNK = 64  # queries in a chunk of a sliding layer: as wide as ModernBERT's window


def sdpa(qkv: Tensor, layout: Layout, window: int | None) -> Tensor:
    """(T, 3, H, d) -> (T, H, d); one call a block, differentiable by autograd."""
    segments = layout.segments(window, qkv.dtype, CHUNK)
    # One split for all segments: its backward is one concatenation; slices would each fill T rows with zeros.
    parts = qkv.split([segment.stop - segment.start for segment in segments])
    pairs = zip(segments, parts, strict=True)
    return torch.cat([_block(part, block) for segment, part in pairs for block in segment.blocks])


def _block(part: Tensor, block: Block) -> Tensor:
    _, _, heads, dim = part.shape
    q_stop = block.q_start + block.count * block.q_len
    q = part[block.q_start : q_stop, 0].view(block.count, block.q_len, heads, dim).transpose(1, 2)
    k_stop = block.k_start + (block.count - 1) * block.q_len + block.k_len
    # (count, 2, H, d, k_len) -> two of (count, H, k_len, d)
    pieces = part[block.k_start : k_stop, 1:].unfold(0, block.k_len, block.q_len)
    k, v = pieces.transpose(3, 4).unbind(1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=block.full_mask)
    return out.transpose(1, 2).reshape(-1, heads, dim)
