"""What the machine is good at, as far as a choice depends on it."""

from __future__ import annotations

import torch


def bf16_pays(device_type: str) -> tuple[bool, str]:
    """Whether matrix products in bf16 are several times faster than in fp32 on this device, and the reason in words.

    On a CPU only AMX makes them so: 1,463 against 132 GF/s (Xeon with AMX, one thread, 2,048 x 384 x 1,536, torch
    2.13). Without it torch computes them in fp32 pieces: 13 to 18 against 140 GF/s on AVX2.
    """
    if device_type == "cuda":
        able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return able, "the GPU has bf16 units" if able else "the GPU has no bf16 units"
    if device_type != "cpu":
        return False, f"bf16 was never measured on {device_type}"
    read = getattr(torch.cpu, "get_capabilities", None)  # not in every torch that we allow
    able = read is not None and bool(read().get("amx_bf16", False))
    return able, "this CPU has AMX" if able else "this CPU has no AMX"
