"""Linear layers in 8 bits: what is rounded, how far off it is, and where it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from modernbert import load_encoder, pack, resolve
from modernbert.errors import BackendError
from modernbert.int8 import ROWS, Int8Linear, quantise_linears


def test_values_on_the_grid_come_out_exact() -> None:
    linear = nn.Linear(4, 2)
    linear.weight.data = torch.tensor([[127.0, 0, -127, 1], [254, 2, 0, -254]])
    linear.bias.data = torch.tensor([0.5, -1.0])
    x = torch.tensor([[127.0, 1, 0, -2], [0, 0, 0, 0]])
    assert torch.equal(Int8Linear(linear)(x), linear(x))


def test_the_error_is_small_and_rows_do_not_touch_each_other() -> None:
    linear, x = nn.Linear(384, 1536), torch.randn(2 * ROWS + 50, 384, requires_grad=True)
    with torch.no_grad():
        x[7] *= 1000  # a row of large values leaves the rounding of the others alone
    ours = Int8Linear(linear)(x)
    assert not ours.requires_grad
    with torch.no_grad():
        error = (ours - linear(x)).norm(dim=1) / linear(x).norm(dim=1)
    assert 1e-4 < float(error.max()) < 0.02
    assert torch.equal(ours[:7], Int8Linear(linear)(x[:7]))


def test_rows_beyond_the_first_block_have_their_own_size() -> None:
    linear, x = nn.Linear(256, 128, bias=False), torch.randn(3 * ROWS - 1, 256)
    x[ROWS:] *= 50
    whole = Int8Linear(linear)(x)
    for first in (0, ROWS - 1, ROWS, 3 * ROWS - 2):
        assert torch.equal(whole[first], Int8Linear(linear)(x[first : first + 1])[0])


def test_only_wide_layers_are_rounded(tiny_encoder: Callable[..., Path]) -> None:
    assert quantise_linears(load_encoder(tiny_encoder("bert"))) == 0
    encoder = load_encoder(resolve("minilm")).eval()
    packed = pack([torch.arange(1000, 1040), torch.arange(2000, 2007)])
    with torch.inference_mode():
        before = encoder(packed)
        assert quantise_linears(encoder.layers) == 4 * encoder.config.num_layers
        after = encoder(packed)
    cosine = torch.nn.functional.cosine_similarity(before, after)
    assert 0.98 < float(cosine.min()) < 0.99999
    assert float(cosine.mean()) > 0.99


def test_another_device_is_refused() -> None:
    with pytest.raises(BackendError, match="int8 layers run on the CPU, this model is on meta"):
        quantise_linears(nn.Linear(256, 256, device="meta"))
