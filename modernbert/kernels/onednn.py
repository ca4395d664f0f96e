"""float32 products by oneDNN, with what follows them in the same pass, on CPUs that are no Intel's.

torch multiplies float32 by MKL, which is at its best on Intel's own CPUs. On an EPYC of the Zen 4 family oneDNN, which
is in torch as well, does 95 to 101 GF/s where MKL does 86 to 91 (one thread, products of MiniLM and ModernBERT base),
and it adds a bias, applies GELU and multiplies by a gate while the values are in the cache. Inference of MiniLM takes
1.17 to 1.25 times less CPU time by it, that of `pocket` 1.10 to 1.23 (packs of 2,048 tokens, torch 2.13). A new number
of rows costs about 1 ms of compiling; the kernels of 600 such numbers hold 0.2 GB.

The operators are private to torch (its compiler calls them): they are proven before their first use.

T tokens, K input and N output features.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

#: Largest difference that the proof accepts, of values near one.
TOLERANCE = 1e-5


@functools.cache
def pays() -> bool:
    """Whether products of float32 tensors on this CPU are to be oneDNN's; found out at the first call and kept."""
    read = getattr(torch.cpu, "get_capabilities", None)  # not in every torch that we allow
    has = {} if read is None else read()
    measured = "AMD" in str(has.get("cpu_name", "")) and bool(has.get("avx512_f", False))
    return measured and torch.backends.mkldnn.is_available() and is_proven()


def is_proven() -> bool:
    """Whether this torch has the operators and they compute what they should."""
    # Generators of its own: a proof must not move the user's random state.
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(0))
    x, weight, bias, factor = draw(5, 48), draw(32, 48) / 7, draw(32), draw(5, 32)
    wanted = F.linear(x.double(), weight.double(), bias.double())
    try:
        pairs = [
            (product(x, weight, bias), wanted),
            (product(x, weight, bias, "gelu"), F.gelu(wanted)),
            (product_times(x, weight, bias, factor), wanted * factor),
            (product_times(x, weight, None, factor), (wanted - bias) * factor),
        ]
    except (AttributeError, RuntimeError):
        return False
    return all(float((ours - right).abs().max()) <= TOLERANCE for ours, right in pairs)


def product(x: Tensor, weight: Tensor, bias: Tensor | None, after: Literal["none", "gelu"] = "none") -> Tensor:
    """(T, K) by (N, K) -> (T, N), and the exact (erf) GELU of it if asked for. No gradient."""
    return _operators()(x.contiguous(), weight, bias, after, [], "none" if after == "gelu" else "")


def product_times(x: Tensor, weight: Tensor, bias: Tensor | None, factor: Tensor) -> Tensor:
    """(T, K) by (N, K), then each value times that of a (T, N) factor -> (T, N). No gradient."""
    return _operators().binary(x.contiguous(), factor, weight, bias, "mul")


def _operators() -> Any:
    return torch.ops.mkldnn._linear_pointwise
