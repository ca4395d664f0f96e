from __future__ import annotations

import pytest
import torch
from parity import ROWS_AND_DTYPES, assert_parity, draw

from modernbert.errors import BackendError
from modernbert.kernels import apply_rope, pair_order, rope_table
from modernbert.kernels.rope import apply_rope_half_split, apply_rope_reference

H, HEAD = 3, 64


@pytest.mark.parametrize(("rows", "dtype"), ROWS_AND_DTYPES)
def test_parity(device: torch.device, rows: int, dtype: torch.dtype) -> None:
    _assert_parity(draw(rows, 3, H, HEAD, dtype=dtype, device=device), dtype)


@pytest.mark.parametrize("shape", [(5, 2, 3, 64), (5, 3, 2, 48), (5, 3, 1, 2)])
def test_shapes(device: torch.device, shape: tuple[int, ...]) -> None:
    """Without v, a head that is no power of two, a single pair."""
    _assert_parity(draw(*shape, dtype=torch.float32, device=device), torch.float32)


def _assert_parity(qkv: torch.Tensor, dtype: torch.dtype) -> None:
    cos, sin = rope_table(torch.arange(len(qkv)), qkv.shape[-1], 10_000.0)

    def kernel(qkv: torch.Tensor) -> torch.Tensor:
        return apply_rope(qkv, cos.to(qkv.device), sin.to(qkv.device))

    assert_parity(kernel, lambda x: apply_rope_reference(x, cos.double(), sin.double()), [qkv], dtype)


def test_equals_half_split_after_the_permutation(device: torch.device) -> None:
    """Permuting q and k into pairs, rotating and permuting back is the rotation of Hugging Face."""
    qkv = torch.randn(65, 3, H, HEAD)
    cos, sin = rope_table(torch.arange(65), HEAD, 160_000.0)
    want = apply_rope_half_split(qkv, cos, sin)
    order = pair_order(HEAD)
    pairs = torch.cat([qkv[:, :2][..., order], qkv[:, 2:]], dim=1).to(device)
    got = apply_rope(pairs, cos.to(device), sin.to(device)).cpu()
    torch.testing.assert_close(got[:, :2][..., order.argsort()], want[:, :2], atol=1e-6, rtol=1e-6)
    assert torch.equal(got[:, 2], qkv[:, 2])


def test_the_half_split_reference_is_that_of_transformers() -> None:
    module = pytest.importorskip("transformers.models.modernbert.modeling_modernbert")
    qkv = torch.randn(7, 3, H, HEAD)
    cos, sin = rope_table(torch.arange(7), HEAD, 10_000.0)
    query, key = (qkv[:, i].transpose(0, 1)[None] for i in (0, 1))  # (1, H, T, d)
    full = [torch.cat([table, table], dim=-1)[None] for table in (cos, sin)]
    want = module.apply_rotary_pos_emb(query, key, *full)
    got = apply_rope_half_split(qkv, cos, sin)
    for i in (0, 1):
        torch.testing.assert_close(got[:, i].transpose(0, 1)[None], want[i], atol=1e-6, rtol=1e-6)


def test_table_is_bitwise_that_of_transformers() -> None:
    # Another rounding of the frequencies, 6e-8 relative, would be 4e-4 rad at position 8,192.
    inverse = 1.0 / (160_000.0 ** (torch.arange(0, HEAD, 2, dtype=torch.int64).float() / HEAD))
    angles = torch.arange(8192).float()[:, None] * inverse
    cos, sin = rope_table(torch.arange(8192), HEAD, 160_000.0)
    assert torch.equal(cos, angles.cos())
    assert torch.equal(sin, angles.sin())


def test_scores_depend_on_distance_only(device: torch.device) -> None:
    qkv = torch.randn(1, 3, H, HEAD).expand(10, -1, -1, -1)
    near, far = (
        apply_rope(qkv.to(device), *(t.to(device) for t in rope_table(torch.arange(10) + offset, HEAD, 10_000.0)))
        for offset in (0, 500)
    )
    scores = [torch.einsum("qhd,khd->hqk", x[:, 0], x[:, 1]) for x in (near, far)]
    torch.testing.assert_close(scores[0], scores[1], atol=2e-3, rtol=1e-3)


def test_rotates_in_place_and_gradients_stay_right(device: torch.device) -> None:
    hidden = draw(5, 16, dtype=torch.float32, device=device)
    weight = draw(3 * H * HEAD, 16, dtype=torch.float32, device=device)
    cos, sin = (t.to(device) for t in rope_table(torch.arange(5), HEAD, 10_000.0))
    projected = torch.nn.functional.linear(hidden, weight)
    view = projected.view(5, 3, H, HEAD)
    out = apply_rope(view, cos, sin)
    assert out.data_ptr() == projected.data_ptr()
    # The consumed view now shows the rotated values, with the history to match.
    got = torch.autograd.grad((out.square() * view).sum(), (hidden, weight))
    want_out = apply_rope_reference((hidden @ weight.t()).view(5, 3, H, HEAD), cos, sin)
    want = torch.autograd.grad((want_out**3).sum(), (hidden, weight))
    torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-4)


def test_a_value_saved_before_is_missed_loudly(device: torch.device) -> None:
    projected = draw(5, 3 * H * HEAD, dtype=torch.float32, device=device) * 2
    kept = projected.square()  # saves `projected` for its backward
    cos, sin = (t.to(device) for t in rope_table(torch.arange(5), HEAD, 10_000.0))
    out = apply_rope(projected.view(5, 3, H, HEAD), cos, sin)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        (kept.sum() + out.sum()).backward()


def test_leaf_and_part_are_copied_first(device: torch.device) -> None:
    cos, sin = (t.to(device) for t in rope_table(torch.arange(5), HEAD, 10_000.0))
    leaf = draw(5, 3, H, HEAD, dtype=torch.float32, device=device)
    part = (draw(5, 4, H, HEAD, dtype=torch.float32, device=device) * 1)[:, :3]
    for qkv in (leaf, part, part.transpose(0, 1).contiguous().transpose(0, 1)):
        before = qkv.detach().clone()
        out = apply_rope(qkv, cos, sin)
        assert torch.equal(qkv, before)
        torch.testing.assert_close(out, apply_rope_reference(before, cos, sin), atol=1e-6, rtol=1e-6)


def test_in_inference_mode(device: torch.device) -> None:
    with torch.inference_mode():
        qkv = torch.randn(5, 3, H, HEAD, device=device)
        cos, sin = (t.to(device) for t in rope_table(torch.arange(5), HEAD, 10_000.0))
        want = apply_rope_reference(qkv, cos, sin)
        out = apply_rope(qkv, cos, sin)
    assert out.data_ptr() == qkv.data_ptr()
    torch.testing.assert_close(out, want, atol=1e-6, rtol=1e-6)


def test_gradcheck() -> None:
    cos, sin = rope_table(torch.arange(4), 6, 10_000.0, torch.float64)
    qkv = torch.randn(4, 3, 2, 6).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: apply_rope(x, cos, sin), (qkv,))
    assert torch.autograd.gradcheck(lambda x: apply_rope((x * 2).view(4, 3, 2, 6), cos, sin), (qkv,))


@pytest.mark.parametrize(
    ("qkv", "cos", "message"),
    [
        (torch.ones(4, 3, 2, 5), torch.ones(4, 2), r"qkv has shape \(4, 3, 2, 5\).*d even"),
        (torch.ones(4, 4, 2, 6), torch.ones(4, 3), r"give \(T, 3, H, d\)"),
        (torch.ones(4, 3, 2, 6), torch.ones(5, 3), r"cos has shape \(5, 3\); give \(T, d/2\) = \(4, 3\)"),
        (torch.ones(4, 3, 2, 6).long(), torch.ones(4, 3), "qkv is torch.int64"),
        (torch.ones(4, 3, 2, 6), torch.ones(4, 3, device="meta"), "cos is on meta"),
    ],
)
def test_refused(qkv: torch.Tensor, cos: torch.Tensor, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        apply_rope(qkv, cos, cos)


def test_table_refuses_an_odd_head() -> None:
    with pytest.raises(BackendError, match="a head of 7 features"):
        rope_table(torch.arange(3), 7, 10_000.0)
