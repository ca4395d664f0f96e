"""One side of a comparison as something to call: inference or a training step of one implementation.

Dimensions: T tokens, B sequences, S longest sequence of a batch, D hidden.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from app.bench.measure import Work
from app.bench.shapes import Pair
from app.bench.workload import Workload
from modernbert import Packed
from modernbert.errors import BackendError
from tasks.data.module import AUTO_TOKENS
from tasks.optim import Optim, build_optimizer

Mode = Literal["inference", "training"]
MODES = ("inference", "training")
OURS, PADDED, SORTED, PACKED = "ours", "transformers padded", "transformers sorted", "packed-encoders"
#: Small, so that random weights stay where they are however many rounds there are.
RATE = 1e-6


@dataclass(frozen=True)
class Setting:
    """What all cells of a run share; `adamw` (fused or default) is the optimiser loop of the transformers side."""

    device: torch.device
    adamw: str = "fused"

    def autocast(self) -> AbstractContextManager[object]:
        """bf16 on a GPU; fp32 on a CPU, where bf16 is slower without AMX."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda")

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32


def names(work: Workload, pair: Pair, setting: Setting) -> list[str]:
    """The sides that a workload is run on; sorting is left out where it changes nothing."""
    found = [OURS, PADDED]
    if work.sorting_matters:
        found.append(SORTED)
    modern = pair.config.family == "modernbert" and setting.device.type == "cuda"
    if modern and importlib.util.find_spec("packed_encoders"):
        found.append(PACKED)
    return found


def side(name: str, pair: Pair, work: Workload, mode: Mode, setting: Setting) -> Work:
    """What to time. Every side sees the same tokens and, in training, has the same loss and gradient.

    Raises:
        BackendError: packed-encoders refuses this architecture or machine.
    """
    direction = torch.randn(pair.config.hidden_size, generator=torch.Generator().manual_seed(1)).to(setting.device)
    if name == OURS:
        return _ours(pair.ours, work, mode, setting, direction)
    model = _packed_encoders(pair.theirs) if name == PACKED else pair.theirs
    return _theirs(model, work.padded(name != PADDED, setting.device), mode, setting, direction)


def _ours(encoder: nn.Module, work: Workload, mode: Mode, setting: Setting, direction: Tensor) -> Work:
    packs = work.packs(AUTO_TOKENS[setting.device.type], setting.device)

    def loss(packed: Packed) -> Tensor:
        return (encoder(packed).float() @ direction).sum()

    if mode == "inference":
        return _inference(encoder, encoder, packs, setting)
    groups = [{"params": list(encoder.parameters())}]
    return _step(encoder, loss, packs, build_optimizer(groups, Optim(lr=RATE)), setting)


def _theirs(
    model: Any, batches: list[tuple[Tensor, Tensor]], mode: Mode, setting: Setting, direction: Tensor
) -> Work:
    def forward(batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(input_ids=batch[0], attention_mask=batch[1]).last_hidden_state  # (B, S, D)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return ((forward(batch).float() @ direction) * batch[1]).sum()

    if mode == "inference":
        return _inference(model, forward, batches, setting)
    options = {"fused": True} if setting.adamw == "fused" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, **options)
    return _step(model, loss, batches, optimizer, setting)


def _inference(
    model: nn.Module, forward: Callable[[Any], object], batches: Sequence[Any], setting: Setting
) -> Work:
    def run() -> None:
        model.eval()
        with torch.inference_mode(), setting.autocast():
            for batch in batches:
                forward(batch)

    return run


def _step(
    model: nn.Module,
    loss: Callable[[Any], Tensor],
    batches: Sequence[Any],
    optimizer: torch.optim.Optimizer,
    setting: Setting,
) -> Work:
    """One optimiser step over all batches: the gradient is that of the whole workload on every side."""

    def run() -> None:
        model.train()
        optimizer.zero_grad(set_to_none=True)
        for batch in batches:
            with setting.autocast():
                value = loss(batch)
            value.backward()
        optimizer.step()

    return run


def _packed_encoders(model: Any) -> Any:
    """A copy that runs on packed-encoders' kernels, in bf16 weights, as its documentation shows."""
    peer = importlib.import_module("packed_encoders")
    copied = copy.deepcopy(model).to(torch.bfloat16)
    try:
        peer.pack(copied)
    except (peer.PackedEncodersError, ImportError, RuntimeError) as error:
        raise BackendError(f"packed-encoders does not run here: {str(error).splitlines()[0]}") from error
    return copied
