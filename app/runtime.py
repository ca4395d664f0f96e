"""One line on what runs underneath: device, precision, attention and kernels, and why nothing better does."""

from __future__ import annotations

import torch

from modernbert.attention import choose as choose_attention
from modernbert.hardware import bf16_pays
from modernbert.kernels.dispatch import choose as choose_kernels
from modernbert.weights import Encoder

#: A device that runs the best there is has nothing to explain.
BEST = "the best there is for this device"


def runs_on(encoder: Encoder, device: torch.device, precision: str) -> str:
    """`precision` as Lightning names it: "32-true", "bf16-mixed" …"""
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    attention = choose_attention(device.type, half or torch.float32, encoder.config.head_dim)
    chosen = choose_kernels(device.type)
    kernels = chosen.backend if device.type == "cpu" else chosen.reason
    why = {BEST: ""}.get(attention.reason, f" ({attention.reason})")
    pays, reason = bf16_pays(device.type)
    numbers = precision.removesuffix("-true") + (f" ({reason})" if pays == (half is not None) else "")
    return f"runs on {device.type}, {numbers}; attention {attention.name}{why}; kernels {kernels}"
