"""float32 products by oneDNN, with what follows them in the same pass, on CPUs that are no Intel's.

torch multiplies float32 by MKL, which is at its best on Intel's own CPUs. oneDNN is in torch as well. GF/s of one
thread, products of MiniLM and ModernBERT base, 2,048 rows, torch 2.13:

| | MKL | oneDNN: layer | gradient of its input | of its weight |
|---|---|---|---|---|
| EPYC, Zen 4 | 86 to 91 | 95 to 101 | | |
| EPYC, Zen 5 | 92 to 103 | 208 to 234 | 182 to 228 | 155 to 197 |

It also adds a bias, applies GELU and multiplies by a gate while the values are in the cache. A new number of rows costs
about 1 ms of compiling; the kernels of 600 such numbers hold 0.2 GB.

The operators are private to torch (its compiler calls them): they are proven before their first use.

T tokens, K input and N output features.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

After = Literal["none", "gelu"]
#: Largest difference that the proof accepts, of values near one.
TOLERANCE = 1e-5


@functools.cache
def pays() -> bool:
    """Whether products of float32 tensors on this CPU are to be oneDNN's where no gradient is asked for.

    Found out at the first call and kept.
    """
    has = _capabilities()
    measured = "AMD" in str(has.get("cpu_name", "")) and bool(has.get("avx512_f", False))
    return measured and torch.backends.mkldnn.is_available() and is_proven()


@functools.cache
def pays_twice() -> bool:
    """Whether oneDNN is about twice as fast as MKL: in training and in attention it is used there alone.

    So it is on AMD's Zen 5, which multiplies 512 bits at once, and is told by an instruction that Zen 4 has not.
    """
    return bool(_capabilities().get("avx512_vp2intersect", False)) and pays()


def _capabilities() -> dict[str, Any]:
    read = getattr(torch.cpu, "get_capabilities", None)  # not in every torch that we allow
    return {} if read is None else read()


def is_proven() -> bool:
    """Whether this torch has the operators and they compute what they should."""
    # Generators of its own: a proof must not move the user's random state.
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    x, weight, bias, factor = draw(5, 48), draw(32, 48) / 7, draw(32), draw(5, 32)
    wanted = F.linear(x.double(), weight.double(), bias.double())
    try:
        pairs = [
            (_fused(x, weight, bias, "none"), wanted),
            (_fused(x, weight, bias, "gelu"), F.gelu(wanted)),
            (_fused(factor, weight.t(), None, "none"), factor.double() @ weight.double()),
            (_fused(factor.t(), x.t(), None, "none"), factor.double().t() @ x.double()),
            (_fused_times(x, weight, bias, factor), wanted * factor),
            (_fused_times(x, weight, None, factor), (wanted - bias) * factor),
        ]
    except (AttributeError, RuntimeError):
        return False
    return all(float((ours - right).abs().max()) <= TOLERANCE for ours, right in pairs)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, after: After = "none") -> Tensor:
    """(T, K) by (N, K) -> (T, N), and the exact (erf) GELU of it if asked for. No gradient.

    `weight` may be a transposed view; `x` is copied where it is one.
    """
    try:
        return _fused(x, weight, bias, after)
    except RuntimeError as error:
        found = _by_torch(error, x, weight, bias)
        return F.gelu(found) if after == "gelu" else found


def product_times(x: Tensor, weight: Tensor, bias: Tensor | None, factor: Tensor) -> Tensor:
    """(T, K) by (N, K), then each value times that of a (T, N) factor -> (T, N). No gradient."""
    try:
        return _fused_times(x, weight, bias, factor)
    except RuntimeError as error:
        return _by_torch(error, x, weight, bias).mul_(factor)


def trained_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(T, K) by (N, K) -> (T, N), with the gradients of all three."""
    return _Product.apply(x, weight, bias)


class _Product(torch.autograd.Function):
    """A linear layer whose three products are oneDNN's."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        return (
            product(grad, weight.t(), None) if of_x else None,
            product(grad.t(), x.t(), None) if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def _fused(x: Tensor, weight: Tensor, bias: Tensor | None, after: After) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, after, [], "none")
    return found


def _fused_times(x: Tensor, weight: Tensor, bias: Tensor | None, factor: Tensor) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(x.contiguous(), factor, weight, bias, "mul")
    return found


def _by_torch(error: RuntimeError, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What oneDNN could not compute; it gives no reason. Most likely memory is short, which torch says in words that
    `tasks.memory` understands. (A kernel that failed once fails again, even where memory is free by then.)"""
    warnings.warn(f"oneDNN failed ({error}): torch multiplies in its place", RuntimeWarning, stacklevel=3)
    return F.linear(x, weight, bias)
