"""Runs the Triton kernels: interpreted on CPU tensors everywhere, for real where CUDA is (mark `gpu`).

TRITON_INTERPRET is read when triton is first imported, and other libraries of the suite (lightning,
torch._dynamo) import it too. So the interpreter gets a triton of its own: modules imported afresh under the
variable and in sys.modules only while a test here runs. The rest of the suite never sees them.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch

import modernbert.kernels
from modernbert.kernels import dispatch

KERNELS = ("layer_norm", "geglu", "rope", "cross_entropy", "maxsim")


def _ours_or_tritons(name: str) -> bool:
    # The compiled part stays: it holds no interpreter state and must not be loaded twice in a process.
    triton = (name == "triton" or name.startswith("triton.")) and not name.startswith("triton._C")
    return triton or (name.startswith("modernbert.kernels.") and name.endswith("_triton"))


def _take_out() -> dict[str, ModuleType]:
    for name in KERNELS:  # a submodule is also an attribute of its package, which `from … import` asks first
        vars(modernbert.kernels).pop(f"{name}_triton", None)
    return {name: sys.modules.pop(name) for name in [*sys.modules] if _ours_or_tritons(name)}


@pytest.fixture(scope="session")
def interpreted() -> dict[str, ModuleType]:
    """Triton and our kernels, imported under the interpreter; the caller puts them in sys.modules."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: pip install triton to run its kernels through the interpreter")
    before = _take_out()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in KERNELS:
            importlib.import_module(f"modernbert.kernels.{name}_triton")
        _mend(importlib.import_module("triton.runtime.interpreter"))
    modules = _take_out()
    sys.modules.update(before)
    return modules


def _mend(interpreter: ModuleType) -> None:
    """Two faults of the interpreter of triton 3.6, neither of the compiler's.

    It reads the bounds of a loop by int() of an array of one element, which numpy 2.4 refuses; and its dot
    multiplies the bits of bfloat16 operands as if they were integers.
    """
    patch_tensor = interpreter._patch_lang_tensor
    builder, language = interpreter.InterpreterBuilder, interpreter.tl
    dot = builder.create_dot

    def patch_tensor_with_bounds(tensor: type, scope: Any) -> None:
        patch_tensor(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def dot_in_float32(self: Any, left: Any, right: Any, *rest: Any) -> Any:
        if left.dtype.scalar == language.bfloat16:
            left, right = (self.cast_impl(side, language.float32) for side in (left, right))
        return dot(self, left, right, *rest)

    interpreter._patch_lang_tensor = patch_tensor_with_bounds
    builder.create_dot = dot_in_float32


@pytest.fixture(params=["torch", "interpreter", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """Where a kernel runs and in which form: torch on CPU, Triton interpreted on CPU, Triton on CUDA."""
    if request.param == "torch":
        with dispatch.force("torch"):
            yield torch.device("cpu")
    elif request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        pytest.importorskip("triton")
        with dispatch.force("triton"):
            yield torch.device("cuda")
    else:
        with _in_sys_modules(request.getfixturevalue("interpreted")), dispatch.force("triton"):
            yield torch.device("cpu")


@contextmanager
def _in_sys_modules(modules: dict[str, ModuleType]) -> Iterator[None]:
    before = _take_out()
    sys.modules.update(modules)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")  # triton imports some of its modules at the first launch
            yield
    finally:
        modules.update(_take_out())
        sys.modules.update(before)
