from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from parity import draw
from torch import Tensor, nn

from modernbert.kernels import add_layer_norm, geglu, linear, linear_geglu, linear_gelu, onednn
from modernbert.kernels.geglu import geglu_reference

#: The choice, asked anew at each call; tests replace it.
PAYS: Callable[[], bool] = onednn.pays.__wrapped__
PAYS_TWICE: Callable[[], bool] = onednn.pays_twice.__wrapped__


def _layer(bias: bool = True) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(48, 80, bias=bias)


@pytest.fixture(params=["mkl", "onednn"], autouse=True)
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test by either library, whatever this CPU prefers."""
    for choice in ("pays", "pays_twice"):
        monkeypatch.setattr(onednn, choice, lambda: request.param == "onednn")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 65])
def test_equals_the_layer(bias: bool, rows: int) -> None:
    layer, x = _layer(bias), torch.randn(rows, 48)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(linear(layer, x), layer(x), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(linear_gelu(layer, x), F.gelu(layer(x)), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(linear_geglu(layer, x), geglu_reference(layer(x)), atol=1e-6, rtol=1e-5)
    assert torch.equal(x, before)


PLAIN = (linear, lambda y: y)
WITH_GELU = (linear_gelu, lambda y: F.gelu(y))
WITH_GEGLU = (linear_geglu, geglu_reference)


@pytest.mark.parametrize(("fused", "definition"), [PLAIN, WITH_GELU, WITH_GEGLU])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 65])
def test_gradients_are_those_of_the_layer(
    fused: Callable[[nn.Module, Tensor], Tensor], definition: Callable[[Tensor], Tensor], bias: bool, rows: int
) -> None:
    layer, x = _layer(bias), torch.randn(rows, 48, requires_grad=True)
    ours = torch.autograd.grad(fused(layer, x).square().sum(), [x, *layer.parameters()])
    theirs = torch.autograd.grad(definition(layer(x)).square().sum(), [x, *layer.parameters()])
    for mine, right in zip(ours, theirs, strict=True):
        assert mine.shape == right.shape
        torch.testing.assert_close(mine, right, atol=1e-5, rtol=1e-5)


def test_only_the_gradients_that_are_asked_for_are_computed() -> None:
    layer, x = _layer().requires_grad_(False), torch.randn(9, 48, requires_grad=True)
    layer.bias.requires_grad_()
    linear(layer, x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((80,), 9.0))
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(9, -1))
    assert not linear(layer.requires_grad_(False), x.detach()).requires_grad


@pytest.mark.parametrize(
    ("has", "expected", "in_training"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_vp2intersect": True}, True, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": True, "avx512_vp2intersect": False}, True, False),
        ({"cpu_name": "AMD EPYC", "avx512_f": False}, False, False),
        ({"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_f": True, "avx512_vp2intersect": True}, False, False),
        ({}, False, False),
    ],
)
def test_onednn_is_for_cpus_on_which_it_was_measured_faster(
    has: dict[str, object], expected: bool, in_training: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has, raising=False)
    assert PAYS() is expected
    monkeypatch.setattr(onednn, "pays", PAYS)
    assert PAYS_TWICE() is in_training
    monkeypatch.setattr(onednn, "TOLERANCE", 0.0)
    assert not PAYS()  # of a torch whose operators compute something else


def test_what_onednn_cannot_compute_torch_does(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Tensor:
        raise RuntimeError("could not create a primitive")

    layer, x, factor = _layer(), torch.randn(5, 48), torch.randn(5, 80)
    for raw in ("_fused", "_fused_times"):
        monkeypatch.setattr(onednn, raw, fail)
    assert not onednn.is_proven()
    said = "could not create a primitive.*: torch multiplies"
    with torch.no_grad():
        whole = layer(x)
        for after, expected in (("none", whole), ("gelu", F.gelu(whole))):
            with pytest.warns(RuntimeWarning, match=said):
                torch.testing.assert_close(onednn.product(x, layer.weight, layer.bias, after), expected)
        with pytest.warns(RuntimeWarning, match=said):
            torch.testing.assert_close(onednn.product_times(x, layer.weight, layer.bias, factor), whole * factor)


def test_a_layer_that_is_more_than_its_product_is_called() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    layer, x = Doubled(48, 80), torch.randn(3, 48)
    seen: list[int] = []
    hooked = _layer()
    hooked.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    torch.testing.assert_close(linear(layer, x), 2 * F.linear(x, layer.weight, layer.bias))
    with torch.no_grad():
        torch.testing.assert_close(linear(layer, x), 2 * F.linear(x, layer.weight, layer.bias))
        linear(hooked, x)
    assert seen == [3]


@pytest.mark.parametrize("half", ["weights", "autocast"])
def test_half_precision_is_left_to_torch(half: str) -> None:
    layer, x = _layer(), torch.randn(65, 48)
    if half == "weights":
        layer, x = layer.bfloat16(), x.bfloat16()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half == "autocast"):
        assert torch.equal(linear(layer, x), layer(x))
        assert linear_gelu(layer, x).dtype == torch.bfloat16


def test_geglu_writes_over_what_it_is_allowed_to() -> None:
    x = torch.randn(65, 96)
    want = geglu_reference(x)
    with torch.no_grad():
        kept = x.clone()
        torch.testing.assert_close(geglu(kept), want)
        assert torch.equal(kept, x)
        out = geglu(kept, inplace=True)
    torch.testing.assert_close(out, want)
    assert out.untyped_storage().data_ptr() == kept.untyped_storage().data_ptr()
    asked = draw(65, 96, dtype=torch.float32, device=torch.device("cpu"))
    before = asked.detach().clone()
    geglu(asked, inplace=True).sum().backward()
    assert torch.equal(asked.detach(), before)


def test_add_layer_norm_writes_over_what_it_is_allowed_to() -> None:
    stream, x, weight = torch.randn(65, 48), torch.randn(65, 48), torch.rand(48)
    want = add_layer_norm(stream, x, weight)
    before, update = stream.clone(), x.clone()
    with torch.no_grad():
        got = add_layer_norm(stream, update, weight, inplace=True)
    for mine, right in zip(got, want, strict=True):
        torch.testing.assert_close(mine, right)
    assert got[0].data_ptr() == update.data_ptr()
    assert torch.equal(stream, before)


def test_a_wider_stream_keeps_its_dtype() -> None:
    stream, x, weight = torch.randn(65, 48), torch.randn(65, 48).bfloat16(), torch.rand(48)
    with torch.no_grad():
        total, normed = add_layer_norm(stream, x, weight, inplace=True)
    assert (total.dtype, normed.dtype) == (torch.float32, torch.bfloat16)
