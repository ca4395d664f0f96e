"""Each kernel compiles to machine code for Hopper, which needs no GPU: the interpreter alone would accept
programs that the compiler refuses (types of loop variables, shapes of products, shared memory)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton", reason="triton is not installed: pip install triton to compile its kernels")

SM_90 = 90
# What one program may hold on the smallest devices in use, Ampere and Ada GeForce (CUDA guide, table of features).
SHARED_BYTES = 99 * 1024
NORM = {"ROWS": 4, "BLOCK": 1024}
TILE = {"BLOCK_Q": 32, "BLOCK_D": 64}
CASES = [
    ("layer_norm", "_forward", {**NORM, "ADD": True, "BIAS": False, "bias_ptr": None}, 4),
    ("layer_norm", "_forward", {**NORM, "ADD": False, "BIAS": True, "residual_ptr": None}, 4),
    ("layer_norm", "_backward", {**NORM, "STREAM": True, "BIAS": False}, 4),
    ("layer_norm", "_backward", {**NORM, "STREAM": False, "BIAS": True, "grad_total_ptr": None}, 4),
    ("geglu", "_forward", {"ROWS": 2, "BLOCK": 1024}, 4),
    ("geglu", "_backward", {"ROWS": 2, "BLOCK": 1024}, 4),
    ("rope", "_rotate", {"ROWS": 32, "BLOCK": 64, "CONJUGATE": True}, 4),
    ("cross_entropy", "_row", {"BLOCK": 4096, "GRADIENT": True}, 8),
    ("maxsim", "_forward", {**TILE, "D": 128, "BLOCK_K": 128, "KEEP": True}, 4),
    ("maxsim", "_forward", {**TILE, "D": 768, "BLOCK_K": 64, "KEEP": False}, 4),
    ("maxsim", "_backward_queries", {"BLOCK_B": 32, "BLOCK_K": 64}, 4),
    ("maxsim", "_backward_documents", {**TILE, "BLOCK_K": 64}, 4),
]
FLOAT32 = {"mean_ptr", "rstd_ptr", "weight_partial_ptr", "bias_partial_ptr", "losses_ptr", "scores_ptr"}
INTEGERS = {
    "query_cu_ptr": "*i32",
    "document_cu_ptr": "*i32",
    "winner_ptr": "*i32",
    "targets_ptr": "*i64",
    "owner_ptr": "*i64",
    "eps": "fp32",
}


@pytest.mark.parametrize(("module", "kernel", "constants", "warps"), CASES)
def test_compiles(
    module: str,
    kernel: str,
    constants: dict[str, Any],
    warps: int,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    function = getattr(importlib.import_module(f"modernbert.kernels.{module}_triton"), kernel)
    signature = {name: _type(name, constants) for name in function.arg_names}
    values = {(function.arg_names.index(name),): value for name, value in constants.items()}
    compiled = triton.compile(
        ASTSource(function, signature, values),
        target=GPUTarget("cuda", SM_90, 32),
        options={"num_warps": warps},
    )
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= SHARED_BYTES
    if kernel == "_forward" and module == "maxsim":
        assert "wgmma.mma_async" in compiled.asm["ptx"]  # the tensor cores, not scalar products


def _type(name: str, constants: dict[str, Any]) -> str:
    if name in constants:
        return "constexpr"
    if name in FLOAT32:
        return "*fp32"
    return INTEGERS.get(name, "*bf16" if name.endswith("_ptr") else "i32")
