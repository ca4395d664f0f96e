from __future__ import annotations

import sys

import pytest
import torch

from modernbert.errors import BackendError
from modernbert.kernels import (
    add_layer_norm,
    apply_rope,
    dispatch,
    geglu,
    linear_cross_entropy,
    maxsim,
    rope_table,
)


def test_every_kernel_runs_where_triton_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)  # what `import triton` finds is refused
    x = torch.randn(6, 8)
    ends = torch.tensor([0, 2, 6])
    add_layer_norm(x, x, torch.ones(8))
    geglu(x)
    apply_rope(torch.randn(6, 3, 1, 8), *rope_table(torch.arange(6), 8, 10_000.0))
    linear_cross_entropy(x, torch.randn(9, 8), None, torch.arange(6))
    maxsim(x, ends, x, ends)


def test_cpu_runs_torch() -> None:
    choice = dispatch.choose("cpu")
    assert choice.backend == "torch"
    assert choice.reason == "torch: the Triton kernels need CUDA, this is cpu"
    assert not dispatch.runs_triton(torch.ones(1))


def test_report_says_what_runs_and_why() -> None:
    line = dispatch.report()
    assert "\n" not in line
    if not torch.cuda.is_available():
        assert line == "kernels: torch: no CUDA device"


def test_cuda_without_triton_names_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setitem(sys.modules, "triton", None)
    choice = dispatch.choose.__wrapped__("cuda")
    assert choice.backend == "torch"
    assert "triton is not importable" in choice.reason
    assert "pip install 'modernbert[gpu]'" in choice.reason


def test_force_lasts_as_long_as_its_block() -> None:
    with dispatch.force("triton"):
        assert dispatch.runs_triton(torch.ones(1))
        assert dispatch.report() == "kernels: triton: forced by the caller"
        with dispatch.force("torch"):
            assert not dispatch.runs_triton(torch.ones(1))
        with pytest.raises(BackendError, match=r"torch.float64; give float32, bfloat16 or float16"):
            geglu(torch.ones(2, 4, dtype=torch.float64))
    assert not dispatch.runs_triton(torch.ones(1))


def test_an_unknown_backend_is_refused() -> None:
    with (
        pytest.raises(BackendError, match="'cuda' is unknown; take 'torch' or 'triton'"),
        dispatch.force("cuda"),
    ):  # type: ignore[arg-type]
        pass


@pytest.mark.gpu
def test_cuda_runs_triton() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    triton = pytest.importorskip("triton")
    assert dispatch.choose("cuda").reason == f"triton {triton.__version__} on {torch.cuda.get_device_name()}"


@pytest.mark.gpu
def test_two_devices_are_refused() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    with pytest.raises(BackendError, match="weight is on cpu, the rest on cuda:0"):
        add_layer_norm(torch.ones(2, 4, device="cuda"), torch.ones(2, 4, device="cuda"), torch.ones(4))
