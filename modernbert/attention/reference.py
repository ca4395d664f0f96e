"""Attention by its definition, one sequence after the other: what every backend is checked against."""

from __future__ import annotations

import torch
from torch import Tensor

from modernbert.attention.layout import Layout


def reference(qkv: Tensor, layout: Layout, window: int | None) -> Tensor:
    """(T, 3, H, d) -> (T, H, d); softmax in float32 at least. Source: Vaswani et al., arXiv:1706.03762."""
    wide = torch.promote_types(qkv.dtype, torch.float32)
    out = []
    for start, stop in zip(layout.bounds, layout.bounds[1:], strict=False):
        q, k, v = qkv[start:stop].to(wide).permute(1, 2, 0, 3)  # each (H, S, d)
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        if window is not None:
            place = torch.arange(stop - start, device=qkv.device)
            far = (place[:, None] - place[None, :]).abs() > window
            scores = scores.masked_fill(far, float("-inf"))
        out.append((scores.softmax(-1) @ v).transpose(0, 1))
    return torch.cat(out).to(qkv.dtype)
