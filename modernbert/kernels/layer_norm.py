"""LayerNorm over the last dimension, alone or fused with the residual addition before it.

N rows, D features. Statistics are taken in float32 (float64 for float64 input) whatever the input's dtype.
Source: Ba, Kiros, Hinton, "Layer Normalization", arXiv:1607.06450.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from modernbert.errors import BackendError
from modernbert.kernels import dispatch
from modernbert.kernels.overwrite import may_overwrite


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """Normalise each row of `x` (N, D), scale by `weight` (D,), shift by `bias` (D,) where there is one.

    Returns (N, D) in the dtype of `x`; the parameters may be wider than `x` (float32 master weights).

    Raises:
        BackendError: a shape, dtype or device that does not fit.
    """
    _check("layer_norm", x, weight, bias)
    if dispatch.runs_triton(x):
        from modernbert.kernels import layer_norm_triton

        return layer_norm_triton.layer_norm(x, weight, bias, eps)
    return layer_norm_reference(x, weight, bias, eps)


def add_layer_norm(
    residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, eps: float = 1e-5, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """Add `x` (N, D) to the residual stream (N, D) and normalise the sum.

    Returns the sum (in the wider dtype of the two) and its norm (in the dtype of `x`): under autocast the
    stream may stay float32 while the norm goes straight to the next bfloat16 matrix product.

    Args:
        inplace: nobody reads `x` again: where no gradient is asked for, the sum may be in its memory.

    Raises:
        BackendError: a shape, dtype or device that does not fit.
    """
    _check("add_layer_norm", x, weight, bias, residual)
    if dispatch.runs_triton(x):
        from modernbert.kernels import layer_norm_triton

        return layer_norm_triton.add_layer_norm(residual, x, weight, bias, eps)
    if inplace and may_overwrite(x) and x.dtype == residual.dtype:
        total = x.add_(residual)
        return total, layer_norm_reference(total, weight, bias, eps)
    return add_layer_norm_reference(residual, x, weight, bias, eps)


def layer_norm_reference(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The torch form, on any device. Half precision goes through float32, gradients of the parameters too."""
    wide = torch.promote_types(x.dtype, torch.float32)
    shift = None if bias is None else bias.to(wide)
    return F.layer_norm(x.to(wide), x.shape[-1:], weight.to(wide), shift, eps).to(x.dtype)


def add_layer_norm_reference(
    residual: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """The torch form, on any device. The backward needs only the sum, which the stream holds anyway."""
    total = residual + x
    return total, layer_norm_reference(total, weight, bias, eps).to(x.dtype)


def _check(kernel: str, x: Tensor, weight: Tensor, bias: Tensor | None, residual: Tensor | None = None) -> None:
    if x.dim() != 2:
        raise BackendError(f"{kernel}: x has shape {tuple(x.shape)}; give (N, D)")
    if residual is not None and residual.shape != x.shape:
        given = f"residual is {tuple(residual.shape)}, x is {tuple(x.shape)}"
        raise BackendError(f"{kernel}: {given}; give equal shapes (N, D)")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None and parameter.shape != x.shape[-1:]:
            given = f"{name} has shape {tuple(parameter.shape)}, x {tuple(x.shape)}"
            raise BackendError(f"{kernel}: {given}; give ({x.shape[-1]},)")
    dispatch.check_floats(kernel, x=x, weight=weight, bias=bias, residual=residual)
