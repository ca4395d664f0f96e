"""Every attention backend of this machine against the reference: values, gradients, windows, ragged lengths."""

from __future__ import annotations

import sys
import types
from typing import Any

import pytest
import torch
from encoder_oracles import RAGGED
from torch import Tensor

from modernbert import BackendError, pack
from modernbert.attention import (
    BACKENDS,
    PACKAGES,
    Layout,
    _fault,
    _is_there,
    attention,
    backend_report,
    choose,
    force,
)  # fmt: skip
from modernbert.attention.reference import reference

HERE = ["flash-cpu", "sdpa"]
# Stretches of long sequences before, between and after short ones; equal neighbours; one length at each edge.
MIXES = [
    RAGGED,
    (1,),
    (300, 5, 5, 700, 193, 64, 64, 1, 1, 250),
    (192, 193, 193, 400),
    (128, 128, 128),
    (1000,),
    (2, 1, 3, 1, 1),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 5e-6, torch.bfloat16: 4e-2}


def layout_of(lengths: tuple[int, ...]) -> Layout:
    return Layout(pack([[0] * length for length in lengths]))


@pytest.mark.parametrize("name", HERE)
@pytest.mark.parametrize("window", [None, 1, 5, 64, 100])
@pytest.mark.parametrize("lengths", MIXES, ids=str)
def test_forward_and_backward(name: str, window: int | None, lengths: tuple[int, ...]) -> None:
    layout = layout_of(lengths)
    values = torch.randn(sum(lengths), 3, 2, 16)
    weight = torch.randn(sum(lengths), 2, 16)
    results = []
    for function in (BACKENDS[name], reference):
        qkv = values.clone().requires_grad_()
        out = function(qkv, layout, window)
        out.backward(weight)
        results.append((out.detach(), qkv.grad))
    with torch.no_grad():  # inference cuts other chunks than training
        alone = BACKENDS[name](values, layout, window)
    assert (alone - results[1][0]).abs().max() < TOLERANCE[torch.float32]
    for found, wanted in zip(*results, strict=True):
        assert (found - wanted).abs().max() < TOLERANCE[torch.float32] * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("window", [None, 64])
def test_dtypes(dtype: torch.dtype, window: int | None) -> None:
    layout = layout_of((300, 70, 70, 1))
    qkv = torch.randn(441, 3, 2, 32).to(dtype)
    found = attention(qkv, layout, window)
    assert found.dtype == dtype
    assert (found.double() - reference(qkv.double(), layout, window)).abs().max() < TOLERANCE[dtype]


def test_a_long_sequence() -> None:
    layout = layout_of((8192,))
    qkv = torch.randn(8192, 3, 1, 8)
    with torch.no_grad():
        found = attention(qkv, layout, 64)
        # The definition at a few places: 129 keys, fewer at the ends.
        for i in (0, 63, 64, 4095, 4096, 8127, 8128, 8191):
            low, high = max(0, i - 64), min(8192, i + 65)
            scores = (qkv[low:high, 1, 0] @ qkv[i, 0, 0] / 8**0.5).softmax(0)
            assert torch.allclose(found[i, 0], scores @ qkv[low:high, 2, 0], atol=5e-6)


def test_gradients_by_finite_differences() -> None:
    layout = layout_of((200, 9, 3))
    qkv = torch.randn(212, 3, 1, 2, dtype=torch.float64, requires_grad=True)
    with force("flash-cpu"):
        assert torch.autograd.gradcheck(lambda x: attention(x, layout, 5), (qkv,), fast_mode=True)


def test_blocks_cover_each_query_once() -> None:
    for lengths in MIXES:
        for chunk in (32, 64):
            segments = layout_of(lengths).segments(64, torch.float32, chunk)
            seen = [
                token
                for segment in segments
                for block in segment.blocks
                for start in [segment.start + block.q_start]
                for token in range(start, start + block.count * block.q_len)
            ]
            assert seen == list(range(sum(lengths)))


def test_work_grows_with_length_times_window() -> None:
    # Scores computed for each token must not depend on the length.
    def per_token(length: int) -> float:
        (segment,) = layout_of((length,)).segments(64, torch.float32, 64)
        return sum(block.count * block.q_len * block.k_len for block in segment.blocks) / length

    assert per_token(8192) <= 192
    assert per_token(1024) <= 192


def test_strided_input_equals_contiguous() -> None:
    layout = layout_of((250, 30))
    qkv = torch.randn(280, 3, 2, 16)
    strided = qkv.permute(3, 0, 1, 2).contiguous().permute(1, 2, 3, 0)
    assert not strided.is_contiguous()
    assert torch.equal(attention(strided, layout, 64), attention(qkv, layout, 64))
    offset = torch.cat([torch.randn(3, 3, 2, 16), qkv])[3:]
    assert torch.equal(attention(offset, layout, 64), attention(qkv, layout, 64))


@pytest.mark.parametrize(
    ("qkv", "window", "message"),
    [
        (torch.zeros(5, 2, 2, 8), None, "give \\(T, 3, H, d\\)"),
        (torch.zeros(5, 3, 16), None, "give \\(T, 3, H, d\\)"),
        (torch.zeros(4, 3, 2, 8), None, "4 tokens, its layout 5"),
        (torch.zeros(5, 3, 2, 8, dtype=torch.int64), None, "int64"),
        (torch.zeros(5, 3, 2, 8), 0, "window=0"),
        (torch.zeros(5, 3, 2, 8, device="meta"), None, "on meta, the pack on cpu"),
    ],
)
def test_wrong_inputs_are_refused(qkv: torch.Tensor, window: int | None, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        attention(qkv, layout_of((5,)), window)


def test_the_choice_is_reported_with_its_reason() -> None:
    assert choose("cpu", torch.float32, 64).name == "flash-cpu"
    assert backend_report() == "attention: flash-cpu (the best there is for this device)"
    with pytest.raises(BackendError, match="unknown; there are torch-varlen"), force("fastest"):
        pass


def test_a_backend_that_is_wrong_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    # A kernel that ignores the window, the silent fault this proof is for.
    monkeypatch.setitem(BACKENDS, "flash-cpu", lambda qkv, layout, window: reference(qkv, layout, None))
    choose.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="falls back to sdpa .*differs from the reference"):
            assert choose("cpu", torch.float32, 24).name == "sdpa"
        assert "flash-cpu: differs from the reference" in backend_report(head_dim=24)
    finally:
        choose.cache_clear()


def test_the_proof_leaves_the_random_state_alone() -> None:
    choose.cache_clear()
    before = torch.get_rng_state()
    choose("cpu", torch.float32, 40)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("beside", [False, True], ids=["plain", "with log-sums"])
def test_what_flash_attn_4_is_given(window: int | None, beside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of its kernel the reference, by what its documentation says of the arguments."""

    def kernel(q: Tensor, k: Tensor, v: Tensor, **told: Any) -> Any:
        assert told["cu_seqlens_q"] is told["cu_seqlens_k"] is layout.cu_seqlens
        assert (told["max_seqlen_q"], told["max_seqlen_k"]) == (9, 9)
        left, right = told["window_size"]
        assert left == right
        out = reference(torch.stack([q, k, v], 1), layout, left)
        return (out, None) if beside else out

    monkeypatch.setitem(sys.modules, "flash_attn", types.ModuleType("flash_attn"))
    monkeypatch.setitem(sys.modules, "flash_attn.cute", cute := types.ModuleType("flash_attn.cute"))
    cute.flash_attn_varlen_func = kernel  # type: ignore[attr-defined]
    layout = Layout(pack([[0] * length for length in (9, 1, 4)]))
    qkv = torch.randn(14, 3, 2, 8)
    found = BACKENDS["flash-attn-4"](qkv, layout, window)
    torch.testing.assert_close(found, reference(qkv, layout, window), atol=0, rtol=0)


def test_packages_that_are_not_there_are_passed_over() -> None:
    assert _is_there("modernbert.attention.cpu")
    assert not _is_there("modernbert.no_such_module")
    assert not _is_there("no_such_package.cute.interface")
    assert _fault("flash-attn-4", "cpu", torch.bfloat16, 64) == "not installed"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["torch-varlen", "flash-attn-4", "flash-attn", "sdpa"])
@pytest.mark.parametrize("window", [None, 64])
def test_gpu_backends(name: str, window: int | None) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    lengths = (300, 5, 5, 700, 193, 64)
    layout = Layout(pack([[0] * length for length in lengths]).to("cuda"))
    values = torch.randn(sum(lengths), 3, 2, 64, device="cuda", dtype=torch.bfloat16)
    results = []
    for function in (BACKENDS[name], reference):
        qkv = values.clone().requires_grad_()
        out = function(qkv, layout, window)
        out.backward(torch.ones_like(out))
        results.append((out.detach().float(), qkv.grad.float()))
    for found, wanted in zip(*results, strict=True):
        assert (found - wanted).abs().max() < 5e-2
