"""Rotary position embedding of packed queries and keys.

T tokens, H heads, d features a head; angle (t, i) = position(t) * theta^(-2i/d), i < d/2.

Two layouts of a pair are in use. Hugging Face rotates feature i with feature i + d/2 (half-split). This
encoder rotates features 2i and 2i + 1 (adjacent pairs): the rows of the query and key projections are
permuted once at load, by `pair_order`, and un-permuted on save. Scores are the same, as q and k are permuted
alike; a pair is then one complex number and the rotation one complex multiply in place.
Source: Su et al., "RoFormer", arXiv:2104.09864.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modernbert.errors import BackendError
from modernbert.kernels import dispatch


def apply_rope(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate q and k of `qkv` (T, 3, H, d), or (T, 2, H, d) without v, by `cos` and `sin` (T, d/2).

    Layout: adjacent pairs; v is untouched. `qkv` is consumed: the rotation happens in its memory wherever
    autograd allows (a leaf, a part of a larger tensor and a non-contiguous tensor are copied first), so use
    only what is returned. cos and sin get no gradient.

    Raises:
        BackendError: a shape, dtype or device that does not fit.
    """
    _check(qkv, cos, sin)
    if not (torch.is_grad_enabled() and qkv.requires_grad):
        qkv = qkv.contiguous()
        _rotate(qkv, qkv, cos, sin, conjugate=False)
        return qkv
    # In place on a view, autograd would copy the gradient twice (CopySlices): rotate what owns the memory.
    owner = qkv._base if qkv._is_view() else qkv
    if owner is None or owner.is_leaf or owner.numel() != qkv.numel() or not qkv.is_contiguous():
        owner = qkv.clone(memory_format=torch.contiguous_format)
    return _Rotate.apply(owner, cos, sin, qkv.shape).view(qkv.shape)


def rope_table(positions: Tensor, dim: int, theta: float, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """cos and sin (T, dim/2) of integer `positions` (T,) for heads of `dim` features; angles in float32."""
    if dim % 2:
        raise BackendError(f"rope_table: a head of {dim} features; give an even number")
    inverse = 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=positions.device) / dim)
    angles = positions.to(torch.float32)[:, None] * inverse
    return angles.cos().to(dtype), angles.sin().to(dtype)


def pair_order(dim: int, device: torch.device | None = None) -> Tensor:
    """(dim,) index: `half_split[..., pair_order(dim)]` has adjacent pairs; its argsort goes back."""
    return torch.arange(dim, device=device).view(2, dim // 2).t().reshape(dim)


def apply_rope_reference(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Adjacent pairs by plain real arithmetic, out of place: what every form here must equal."""
    q_and_k, v = qkv[:, :2], qkv[:, 2:]
    even, odd = q_and_k[..., 0::2], q_and_k[..., 1::2]
    cos, sin = cos[:, None, None], sin[:, None, None]
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([rotated.to(qkv.dtype), v], dim=1)


def apply_rope_half_split(qkv: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The Hugging Face layout, x cos + rotate_half(x) sin, out of place: the other end of the permutation."""
    q_and_k, v = qkv[:, :2], qkv[:, 2:]
    first, second = q_and_k.chunk(2, dim=-1)
    cos, sin = cos[:, None, None], sin[:, None, None]
    rotated = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return torch.cat([rotated.to(qkv.dtype), v], dim=1)


class _Rotate(torch.autograd.Function):
    """Rotates the memory of `owner`, seen as `shape`, in place; the backward rotates by the conjugate."""

    @staticmethod
    def forward(ctx: Any, owner: Tensor, cos: Tensor, sin: Tensor, shape: torch.Size) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.shape = shape
        ctx.mark_dirty(owner)
        qkv = owner.view(shape)
        _rotate(qkv, qkv, cos, sin, conjugate=False)
        return owner

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        grad_out = grad.contiguous().view(ctx.shape)
        # Into new memory: the incoming gradient may have other readers.
        grad_in = torch.empty_like(grad_out)
        _rotate(grad_out, grad_in, cos, sin, conjugate=True)
        return grad_in.view(grad.shape), None, None, None


def _rotate(source: Tensor, target: Tensor, cos: Tensor, sin: Tensor, conjugate: bool) -> None:
    """Outside autograd: write `source` with q and k rotated into `target`, which may be `source`."""
    if dispatch.runs_triton(source):
        from modernbert.kernels import rope_triton

        return rope_triton.rotate(source, target, cos, sin, conjugate)
    if source.dtype in (torch.float32, torch.float64):
        sin = -sin if conjugate else sin
        turn = torch.complex(cos.to(source.dtype), sin.to(source.dtype))[:, None, None]  # (T, 1, 1, d/2)
        torch.mul(_complex(source[:, :2]), turn, out=_complex(target[:, :2]))
    else:  # half precision has no complex form: through float32, as the Triton kernel does
        turned = source[:, :2].float(), cos.float(), -sin.float() if conjugate else sin.float()
        target[:, :2] = apply_rope_reference(*turned)
    if target is not source:
        target[:, 2:] = source[:, 2:]
    return None


def _complex(x: Tensor) -> Tensor:
    """(..., d) as complex (..., d/2), without a copy."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))


def _check(qkv: Tensor, cos: Tensor, sin: Tensor) -> None:
    if qkv.dim() != 4 or qkv.shape[1] not in (2, 3) or qkv.shape[3] % 2:
        allowed = "(T, 3, H, d) or (T, 2, H, d) with d even"
        raise BackendError(f"apply_rope: qkv has shape {tuple(qkv.shape)}; give {allowed}")
    expected = (qkv.shape[0], qkv.shape[3] // 2)
    for name, table in (("cos", cos), ("sin", sin)):
        if tuple(table.shape) != expected:
            given = f"{name} has shape {tuple(table.shape)}"
            raise BackendError(f"apply_rope: {given}; give (T, d/2) = {expected}")
    dispatch.check_floats("apply_rope", qkv=qkv, cos=cos, sin=sin)
