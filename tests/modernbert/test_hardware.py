"""Whether bf16 pays follows what the CPU can do, not who made it."""

from __future__ import annotations

import pytest
import torch

from modernbert.hardware import bf16_pays


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, (True, "this CPU has AMX")),
        ({"amx_bf16": False, "avx512_bf16": True}, (True, "this CPU has AVX512_BF16")),
        ({"avx2": True, "amx_bf16": False, "avx512_bf16": False}, (False, "this CPU has neither AMX nor AVX512_BF16")),
        ({}, (False, "this CPU has neither AMX nor AVX512_BF16")),  # another architecture names other things
    ],
)
def test_bf16_pays_with_either_unit(
    monkeypatch: pytest.MonkeyPatch, flags: dict[str, bool], expected: tuple[bool, str]
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags, raising=False)
    assert bf16_pays("cpu") == expected


def test_bf16_is_not_chosen_where_torch_cannot_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not bf16_pays("cpu")[0]
