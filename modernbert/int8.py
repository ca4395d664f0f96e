"""Linear layers in 8 bits for inference on a CPU: an option, since what it costs in quality depends on the model.

Weights are rounded once, by output feature; inputs at each call, by token (Dettmers et al. 2022, arXiv:2208.07339,
without its outlier columns). On MiniLM's shapes the output is 0.8 to 0.9% off (relative norm, normal inputs).

T tokens, K input and N output features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modernbert.errors import BackendError

#: Narrower layers cost more to round than they save.
LEAST_FEATURES = 128
#: Rows that are rounded, multiplied and scaled while they are in the cache: 2,048 tokens of 1,536 features to 384 take
#: 5.4 ms in place of 16.7, of 384 to 1,536 6.5 in place of 7.0 (AMX, one thread beside two busy ones; fp32 takes 15).
ROWS = 256


class Int8Linear(nn.Module):
    """A linear layer (T, K) -> (T, N) from its float one; it cannot be trained."""

    weight: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scale = (weight.abs().amax(dim=1) / 127).clamp_min(torch.finfo(torch.float32).tiny)
        self.register_buffer("weight", (weight / scale[:, None]).round().to(torch.int8))
        self.register_buffer("scale", scale)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().float())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        out = torch.empty(rows.shape[0], self.weight.shape[0], dtype=torch.float32, device=x.device)
        for part, result in zip(rows.split(ROWS), out.split(ROWS), strict=True):
            size = (part.abs().amax(dim=1, keepdim=True) / 127).clamp_min(torch.finfo(torch.float32).tiny)
            product = torch._int_mm((part / size).round_().to(torch.int8), self.weight.t())
            scaled = product.to(torch.float32).mul_(size)
            if self.bias is None:
                torch.mul(scaled, self.scale, out=result)
            else:
                torch.addcmul(self.bias, scaled, self.scale, out=result)
        return out.view(*x.shape[:-1], -1)


def quantise_linears(module: nn.Module) -> int:
    """Put Int8Linear in the place of every wide linear layer inside a module; returns how many.

    Raises:
        BackendError: the module is not on the CPU, or this torch multiplies no int8 matrices there.
    """
    device = next(module.parameters()).device
    if device.type != "cpu":
        raise BackendError(f"int8 layers run on the CPU, this model is on {device}: use precision=bf16 there")
    try:
        torch._int_mm(torch.ones(2, 8, dtype=torch.int8), torch.ones(8, 2, dtype=torch.int8))
    except (AttributeError, RuntimeError) as error:
        raise BackendError(f"this torch multiplies no int8 matrices ({error}): use precision=32") from error
    wide = [
        (parent, name, child)
        for parent in module.modules()
        for name, child in parent.named_children()
        if type(child) is nn.Linear and min(child.weight.shape) >= LEAST_FEATURES
    ]
    for parent, name, child in wide:
        setattr(parent, name, Int8Linear(child))
    return len(wide)
