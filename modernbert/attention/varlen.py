"""Attention on the GPU over packed sequences: FlashAttention through torch itself, or through a flash-attn package.

All need half precision (bf16 or fp16 by autocast) and are proven by `attention.choose` before the first use.
"""

from __future__ import annotations

from torch import Tensor

from modernbert.attention.layout import Layout


def torch_varlen(qkv: Tensor, layout: Layout, window: int | None) -> Tensor:
    """(T, 3, H, d) half -> (T, H, d) by torch.nn.attention.varlen (torch >= 2.11)."""
    from torch.nn.attention.varlen import varlen_attn

    reach = (-1, -1) if window is None else (window, window)
    q, k, v = qkv.unbind(1)
    longest, bounds = layout.max_seqlen, layout.cu_seqlens
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, window_size=reach)
    assert isinstance(out, Tensor)  # a pair only where return_aux is asked for
    return out


def flash_attn(qkv: Tensor, layout: Layout, window: int | None) -> Tensor:
    """(T, 3, H, d) half -> (T, H, d) by flash-attn 2."""
    from flash_attn import flash_attn_varlen_qkvpacked_func

    reach = (-1, -1) if window is None else (window, window)
    out: Tensor = flash_attn_varlen_qkvpacked_func(qkv, layout.cu_seqlens, layout.max_seqlen, window_size=reach)
    return out


def flash_attn_4(qkv: Tensor, layout: Layout, window: int | None) -> Tensor:
    """(T, 3, H, d) half -> (T, H, d) by flash-attn 4, which is compiled at its first call (Hopper and Blackwell)."""
    from flash_attn.cute import flash_attn_varlen_func

    reach = (None, None) if window is None else (window, window)
    q, k, v = qkv.unbind(1)
    longest, bounds = layout.max_seqlen, layout.cu_seqlens
    found = flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=longest, max_seqlen_k=longest,
        window_size=reach,
    )  # fmt: skip
    out: Tensor = found[0] if isinstance(found, tuple) else found  # some betas give the log-sums beside it
    return out
