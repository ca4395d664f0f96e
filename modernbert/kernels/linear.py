"""Linear layers and GELU as a CPU computes them fastest where no gradient is asked for.

torch copies a bias to every row of the output before it multiplies, and each new tensor of a few megabytes is memory
that the system clears page by page, at more CPU time with two threads than with one. Adding the bias after the product
and writing over what nobody reads again takes 16.5 in place of 20.1 ms for the MLP of MiniLM (2,048 tokens, two
threads; 31.9 in place of 37.7 with one): transformers over ours at 128 tokens went from 1.01 to 1.14.

T tokens, K input and N output features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def may_overwrite(x: Tensor) -> bool:
    """Whether an operation on `x` that nobody reads again writes over it: on a CPU, where no gradient is asked for."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def linear(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, (T, K) -> (T, N), in memory of its own. What is no plain float32 linear layer is called as it is."""
    if not (may_overwrite(x) and type(layer) is nn.Linear and _is_plain(layer, x)):
        out: Tensor = layer(x)
        return out
    product = torch.mm(x, layer.weight.t())
    return product if layer.bias is None else product.add_(layer.bias)


def linear_gelu(layer: nn.Module, x: Tensor) -> Tensor:
    """The exact (erf) GELU of `layer(x)`, (T, K) -> (T, N)."""
    inner = linear(layer, x)
    return gelu_(inner) if may_overwrite(inner) else F.gelu(inner)


def gelu_(x: Tensor) -> Tensor:
    """The exact (erf) GELU, written over `x`."""
    return torch.ops.aten.gelu_(x)


def _is_plain(layer: nn.Linear, x: Tensor) -> bool:
    """Whether calling the layer is its product and nothing else, in float32 (torch treats half precision well)."""
    watched = layer._forward_hooks or layer._forward_pre_hooks
    narrow = torch.is_autocast_enabled("cpu")
    return not watched and not narrow and x.dtype == layer.weight.dtype == torch.float32
