"""When memory that nobody reads again is written over, and GELU that does so."""

from __future__ import annotations

import torch
from torch import Tensor


def may_overwrite(x: Tensor) -> bool:
    """Whether an operation on `x` that nobody reads again writes over it: on a CPU, where no gradient is asked for."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def gelu_(x: Tensor) -> Tensor:
    """The exact (erf) GELU, written over `x`."""
    return torch.ops.aten.gelu_(x)
