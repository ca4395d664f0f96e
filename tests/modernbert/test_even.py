"""Even packs: the values and gradients of the pack as it came, in few shapes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from modernbert import Packed, load_encoder, pack
from modernbert.even import even_pack, even_size, evened, over_even
from modernbert.kernels import onednn


def test_sizes_are_few_and_near() -> None:
    sizes = range(1, 9000)
    even = [even_size(size) for size in sizes]
    assert all(size <= found < size + max(8, size / 15) for size, found in zip(sizes, even, strict=True))
    assert [even_size(found) for found in even] == even
    assert len({found for found in even if 1024 <= found <= 2048}) == 17
    assert even_size(0) == 0


def test_what_is_filled_in() -> None:
    packed = pack([[5, 6, 7], [8]], [[1, 1, 0], [0]])
    found = even_pack(packed, most=16)
    assert found.input_ids.tolist() == [5, 6, 7, 8, 5, 5, 5, 5]
    assert found.cu_seqlens.tolist() == [0, 3, 4, 8]
    assert found.token_type_ids is not None
    assert found.token_type_ids.tolist() == [1, 1, 0, 0, 1, 1, 1, 1]
    assert found.max_seqlen == 4
    assert even_pack(packed, most=3) is packed
    assert even_pack(pack([[1] * 8]), most=16).batch_size == 1
    assert evened(packed, None, torch.zeros(1), 16, training=False) == (packed, None)  # float32 is compiled once


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@pytest.mark.parametrize("read", [None, [0, 7, 9]], ids=["all", "rows"])
def test_an_encoder_gives_the_same_and_sees_even_shapes(
    tiny_encoder: Callable[..., Path], family: str, read: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_encoder(tiny_encoder(family))
    packed: Packed = pack([[4, 5, 6, 7, 8, 9, 10], [11, 12], [13] * 21])
    rows = None if read is None else torch.tensor(read)
    shapes: set[int] = set()
    for linear in (module for module in encoder.modules() if isinstance(module, nn.Linear)):
        linear.register_forward_hook(lambda _, inputs, __: shapes.add(len(inputs[0])))
    results = []
    for even in (True, False):
        if not even:
            monkeypatch.setattr("modernbert.even.is_compiled_by_shape", lambda weight: False)
        encoder.zero_grad()
        shapes.clear()
        with torch.autocast("cpu", torch.bfloat16):
            out = encoder(packed, rows)
        (out.float() * torch.linspace(-1, 1, out.shape[1])).sum().backward()
        results.append((out.detach().float(), [weight.grad for weight in encoder.parameters()], set(shapes)))
    (out, gradients, seen), (plain, expected, plainly) = results
    assert seen == ({32} if rows is None else {32, 8})
    assert plainly == ({30} if rows is None else {30, 3})
    torch.testing.assert_close(out, plain, atol=2e-2, rtol=2e-2)
    for found, wanted in zip(gradients, expected, strict=True):
        if wanted is not None and found is not None:
            torch.testing.assert_close(found, wanted, atol=5e-2 * float(wanted.abs().max() + 1e-3), rtol=0)
        assert (found is None) == (wanted is None)


def test_a_layer_over_rows_sees_even_numbers_of_them() -> None:
    layer, seen = nn.Linear(4, 3), list[int]()
    layer.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    values = torch.randn(13, 4, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = over_even(layer, values, layer.weight)
        (grad,) = torch.autograd.grad(found.float().square().sum(), values)
        plain = layer(values)
        (expected,) = torch.autograd.grad(plain.float().square().sum(), values)
    assert seen == [16, 13]
    assert torch.equal(found, plain)
    torch.testing.assert_close(grad, expected, atol=2e-2, rtol=2e-2)
    assert torch.equal(over_even(layer, values, layer.weight), layer(values))  # float32 as it comes
    assert seen[2:] == [13, 13]


@pytest.mark.parametrize(
    ("by_onednn", "in_training", "expected"), [(True, True, 16), (True, False, 13), (False, True, 13)]
)
def test_float32_is_even_where_onednn_trains(
    by_onednn: bool, in_training: bool, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "pays_twice", lambda: by_onednn)
    packed = pack([[4, 5, 6, 7, 8, 9, 10], [11, 12, 13, 14, 15, 16]])
    assert evened(packed, None, torch.zeros(2), 512, in_training)[0].num_tokens == expected
