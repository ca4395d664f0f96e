"""Which form of a kernel runs on which device: chosen once per device type, with the reason kept.

CUDA with Triton importable runs the Triton kernels; everything else runs the torch form. Triton is optional
and is looked for only when the first CUDA tensor arrives, so a CPU machine never imports it.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from modernbert.errors import BackendError

Backend = Literal["torch", "triton"]
# The torch forms take float64 too, for gradient checks.
TRITON_DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Choice:
    """The backend of one device type and one line saying why it and nothing better."""

    backend: Backend
    reason: str


_forced: Choice | None = None


@functools.cache
def choose(device_type: str) -> Choice:
    """The choice for a device type ("cpu", "cuda", "mps" …), made on the first call and kept."""
    if device_type != "cuda":
        return Choice("torch", f"torch: the Triton kernels need CUDA, this is {device_type}")
    if not torch.cuda.is_available():
        return Choice("torch", "torch: no CUDA device")
    try:
        triton = importlib.import_module("triton")
    except ImportError as error:
        return Choice("torch", f"torch: triton is not importable ({error}); pip install 'modernbert[gpu]'")
    return Choice("triton", f"triton {triton.__version__} on {torch.cuda.get_device_name()}")


def report() -> str:
    """One line: what the kernels run on where CUDA is wanted, and why nothing better does."""
    choice = _forced or choose("cuda")
    return f"kernels: {choice.reason}"


def runs_triton(x: Tensor) -> bool:
    """Whether the Triton form takes `x`: the choice of its device type, or the forced one.

    Raises:
        BackendError: it would, but the dtype of `x` is none of `TRITON_DTYPES`.
    """
    choice = _forced or choose(x.device.type)
    if choice.backend == "torch":
        return False
    if x.dtype not in TRITON_DTYPES:
        raise BackendError(
            f"{choice.reason}: got {x.dtype}; give float32, bfloat16 or float16, or run the torch form "
            "inside `with dispatch.force('torch')`"
        )
    return True


@contextmanager
def force(backend: Backend) -> Iterator[None]:
    """Run one backend whatever the device, in every thread: for tests and for `modernbert bench`.

    Forcing Triton on CPU tensors needs its interpreter: TRITON_INTERPRET=1 before triton is first imported.
    """
    global _forced
    if backend not in ("torch", "triton"):
        raise BackendError(f"kernel backend {backend!r} is unknown; take 'torch' or 'triton'")
    before = _forced
    _forced = Choice(backend, f"{backend}: forced by the caller")
    try:
        yield
    finally:
        _forced = before


def on_device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current CUDA device, which need not be that of `x`: make it so."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def num_programs(x: Tensor, most: int) -> int:
    """Programs of a kernel that loops over rows: four a multiprocessor, at most `most`, at least 1."""
    # 8 under the interpreter: more than one, so that the reduction over programs is exercised.
    wave = 4 * torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 8
    return max(1, min(wave, most))


def check_floats(kernel: str, **tensors: Tensor | None) -> None:
    """All tensors given are floating point and on one device; BackendError names the one that is not."""
    device: torch.device | None = None
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise BackendError(f"{kernel}: {name} is {tensor.dtype}; give float32, bfloat16 or float16")
        device = device or tensor.device
        if tensor.device != device:
            raise BackendError(f"{kernel}: {name} is on {tensor.device}, the rest on {device}; move it there")
