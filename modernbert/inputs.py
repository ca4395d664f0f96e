"""What both encoders share: the checks of a pack before it is computed, and running a stack of layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modernbert.config import EncoderConfig
from modernbert.errors import BackendError, EncoderError
from modernbert.packing import Packed


def check_pack(packed: Packed, config: EncoderConfig, device: torch.device) -> None:
    """Refuse a pack that this encoder cannot read.

    Ids are checked on the CPU only: there an id outside the vocabulary would end in an index error without its
    value, and on a GPU the check would wait for the device.

    Raises:
        BackendError: the pack is on another device than the weights.
        EncoderError: a sequence is too long, or an id or segment is outside its table.
    """
    if packed.input_ids.device != device:
        raise BackendError(
            f"the pack is on {packed.input_ids.device}, the encoder on {device}; move it by packed.to({str(device)!r})"
        )
    if packed.max_seqlen > config.max_positions:
        raise EncoderError(
            f"a sequence has {packed.max_seqlen} tokens, this encoder reads at most {config.max_positions}; "
            "lower data.max_length"
        )
    if device.type != "cpu":
        return
    _check_range("token id", packed.input_ids, config.vocab_size, "the tokenizer belongs to another checkpoint")
    if packed.token_type_ids is not None:
        segments = max(config.type_vocab_size, 1)
        _check_range("token_type_id", packed.token_type_ids, segments, "this encoder has no such segment")


def run_layer(layer: nn.Module, recompute: bool, *inputs: Any) -> Any:
    """Call a layer; with `recompute` its inner values are computed again in the backward instead of kept."""
    call: Callable[..., Any] = layer
    if recompute and torch.is_grad_enabled():
        return checkpoint(call, *inputs, use_reentrant=False)
    return call(*inputs)


def check_dropout(dropout: float | None) -> None:
    """Refuse a dropout outside [0, 1)."""
    if dropout is not None and not 0.0 <= dropout < 1.0:
        raise EncoderError(f"dropout={dropout} must be in [0, 1), or None for that of the checkpoint")


def _check_range(what: str, ids: Tensor, size: int, why: str) -> None:
    low, high = (int(value) for value in torch.aminmax(ids))
    if low < 0 or high >= size:
        raise EncoderError(f"{what} {low if low < 0 else high} is outside 0..{size - 1}: {why}")
