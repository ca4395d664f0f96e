"""Attention of a pack: one function, several backends, each proven against the reference before its first use.

Dropout of attention probabilities is never applied: neither torch's flash kernels on the CPU nor its varlen_attn
on the GPU offer it, and what a training step computes must not depend on the backend that runs it.

Dimensions: T tokens, H heads, d features of a head.
"""

from __future__ import annotations

import functools
import importlib.util
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from modernbert.attention.cpu import flash_cpu
from modernbert.attention.layout import Layout
from modernbert.attention.prefix import Prefixed, PrefixLayout, layout_of
from modernbert.attention.reference import reference
from modernbert.attention.sdpa import sdpa
from modernbert.attention.varlen import flash_attn, flash_attn_4, torch_varlen
from modernbert.errors import BackendError
from modernbert.packing import Packed

__all__ = [
    "BACKENDS", "Choice", "Layout", "PrefixLayout", "Prefixed", "attention", "backend_report", "choose", "force",
    "layout_of",
]  # fmt: skip

Backend = Callable[[Tensor, Layout, int | None], Tensor]
BACKENDS: dict[str, Backend] = {
    "torch-varlen": torch_varlen,
    "flash-attn-4": flash_attn_4,
    "flash-attn": flash_attn,
    "flash-cpu": flash_cpu,
    "sdpa": sdpa,
    "reference": reference,
}
# Best first. sdpa closes each list: it runs wherever torch runs.
CANDIDATES = {"cuda": ("torch-varlen", "flash-attn-4", "flash-attn", "sdpa"), "cpu": ("flash-cpu", "sdpa")}
HALF_ONLY = ("torch-varlen", "flash-attn-4", "flash-attn")
# They share a name space: with flash-attn-4 alone there is a flash_attn without flash-attn 2 in it.
PACKAGES = {"flash-attn-4": "flash_attn.cute.interface", "flash-attn": "flash_attn.flash_attn_interface"}
# Largest difference a proof accepts, by dtype: about eight roundings of values near one.
PROOF_TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 1e-2, torch.bfloat16: 6e-2}


@dataclass(frozen=True)
class Choice:
    """The backend for one kind of tensor, and why each better one was passed over."""

    name: str
    reason: str


_forced: str | None = None


def attention(qkv: Tensor, layout: Layout, window: int | None = None) -> Tensor:
    """Scaled dot-product attention inside each sequence of a pack, positions already rotated in.

    Args:
        qkv: (T, 3, H, d) queries, keys and values.
        layout: of the pack; build it once for all layers.
        window: tokens seen on each side (|i - j| <= window), None for all.

    Returns:
        (T, H, d), contiguous, in the dtype of `qkv`.

    Raises:
        BackendError: shape, dtype, device or window do not fit.
    """
    _check(qkv, layout, window)
    if isinstance(layout, PrefixLayout):
        return attention(qkv.index_select(0, layout.gather), layout.whole, window).index_select(0, layout.own)
    name = _forced or choose(qkv.device.type, qkv.dtype, qkv.shape[-1]).name
    return BACKENDS[name](qkv.contiguous(), layout, window)


@functools.cache
def choose(device_type: str, dtype: torch.dtype, head_dim: int) -> Choice:
    """The best backend that passes its proof for such tensors; made at the first call and kept."""
    passed_over: list[str] = []
    for name in CANDIDATES.get(device_type, ("sdpa",)):
        fault = _fault(name, device_type, dtype, head_dim)
        if fault is None:
            return Choice(name, "; ".join(passed_over) or "the best there is for this device")
        passed_over.append(f"{name}: {fault}")
        if name == "flash-cpu":  # its absence costs speed and nobody chose it: say so once
            warnings.warn(f"attention on the CPU falls back to sdpa ({fault})", RuntimeWarning, stacklevel=3)
    raise BackendError(f"no attention backend works for {dtype} on {device_type}: {'; '.join(passed_over)}")


def backend_report(device: str = "cpu", dtype: torch.dtype = torch.float32, head_dim: int = 64) -> str:
    """One line: which backend such tensors take, and why nothing better."""
    choice = choose(torch.device(device).type, dtype, head_dim)
    return f"attention: {choice.name} ({choice.reason})"


@contextmanager
def force(name: str) -> Iterator[None]:
    """Run one backend whatever the tensors: for tests and `modernbert bench`. Not safe across threads."""
    global _forced
    if name not in BACKENDS:
        raise BackendError(f"attention backend {name!r} is unknown; there are {', '.join(BACKENDS)}")
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


def _check(qkv: Tensor, layout: Layout, window: int | None) -> None:
    if qkv.dim() != 4 or qkv.shape[1] != 3:
        raise BackendError(f"attention: qkv is {tuple(qkv.shape)}; give (T, 3, H, d)")
    if qkv.shape[0] != layout.num_tokens:
        raise BackendError(f"attention: qkv holds {qkv.shape[0]} tokens, its layout {layout.num_tokens}")
    if qkv.dtype not in PROOF_TOLERANCE:
        raise BackendError(f"attention: qkv is {qkv.dtype}; give float32, bfloat16, float16 or float64")
    if qkv.device != layout.cu_seqlens.device:
        raise BackendError(f"attention: qkv is on {qkv.device}, the pack on {layout.cu_seqlens.device}")
    if window is not None and window < 1:
        raise BackendError(f"attention: window={window}; give at least 1, or None for all tokens")


def _fault(name: str, device_type: str, dtype: torch.dtype, head_dim: int) -> str | None:
    """Why a backend cannot run such tensors, or None: by a small case whose window and borders matter."""
    if name in HALF_ONLY and dtype not in (torch.float16, torch.bfloat16):
        return f"needs bf16 or fp16, not {dtype}"
    if name in PACKAGES and not _is_there(PACKAGES[name]):
        return "not installed"
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(device_type, enabled=False):
            error = _proof(BACKENDS[name], torch.device(device_type), dtype, head_dim)
    except Exception as raised:  # of a compiler of kernels it may be anything: it is told, and the next one is tried
        return f"{type(raised).__name__}: {str(raised).splitlines()[0] if str(raised) else 'no message'}"
    tolerance = PROOF_TOLERANCE[dtype]
    return None if error <= tolerance else f"differs from the reference by {error:.1e}, allowed {tolerance:.0e}"


def _is_there(module: str) -> bool:
    """Whether a module could be imported; only the packages above it are."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _proof(backend: Backend, device: torch.device, dtype: torch.dtype, head_dim: int) -> float:
    """Largest difference from the reference in output and gradient, with and without a window."""
    lengths = torch.tensor([70, 1, 9, 9, 210])
    bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32).to(device)
    tokens = int(lengths.sum())
    layout = Layout(Packed(torch.zeros(tokens, dtype=torch.int64, device=device), bounds, int(lengths.max())))
    # A generator of its own: a proof must not move the user's random state.
    source = torch.Generator().manual_seed(0)
    values = torch.randn(tokens, 3, 2, head_dim, generator=source).to(device, dtype)
    weight = torch.randn(tokens, 2, head_dim, generator=source).to(device, dtype)
    worst = 0.0
    for window in (None, 16):
        results = []
        for function in (backend, reference):
            qkv = values.clone().requires_grad_()
            out = function(qkv, layout, window)
            (grad,) = torch.autograd.grad(out, qkv, weight)
            results.append((out.detach().float(), grad.float()))
        for ours, expected in zip(*results, strict=True):
            difference = (ours - expected).abs().max()
            worst = max(worst, float(difference) if torch.isfinite(difference) else float("inf"))
    return worst
