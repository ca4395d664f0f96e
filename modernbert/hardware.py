"""What the machine is good at, as far as a choice depends on it."""

from __future__ import annotations

import torch

#: What a CPU may multiply bf16 with, the fastest first: torch's name of the capability, and everybody's.
BF16_UNITS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16"}


def bf16_pays(device_type: str) -> tuple[bool, str]:
    """Whether matrix products in bf16 are much faster than in fp32 on this device, and the reason in words.

    On a CPU two sets of instructions make them so (one thread, 2,048 x 384 x 1,536, torch 2.13): AMX, 1,463 against
    132 GF/s (Xeon), and AVX512_BF16, 163 to 201 against 56 to 83 GF/s (EPYC of the Zen 4 family). Without either torch
    computes them in fp32 pieces: 13 to 18 against 140 GF/s on AVX2.
    """
    if device_type == "cuda":
        able = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return able, "the GPU has bf16 units" if able else "the GPU has no bf16 units"
    if device_type != "cpu":
        return False, f"bf16 was never measured on {device_type}"
    read = getattr(torch.cpu, "get_capabilities", None)  # not in every torch that we allow
    has = {} if read is None else read()
    units = next((name for flag, name in BF16_UNITS.items() if has.get(flag)), None)
    return (True, f"this CPU has {units}") if units else (False, "this CPU has neither AMX nor AVX512_BF16")
