"""One side of a comparison as something to call: inference or a training step of one implementation.

Dimensions: T tokens, B sequences, S longest sequence of a batch, D hidden.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
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
OURS, EQUAL, PACKED = "ours", "transformers", "packed-encoders"
PADDED, SORTED = "transformers padded", "transformers sorted"  # where lengths differ
#: Small, so that random weights stay where they are however many rounds there are.
RATE = 1e-6


@dataclass(frozen=True)
class Setting:
    """What all cells of a run share: fp32 on a CPU, bf16 autocast over fp32 weights on a GPU.

    `adamw` is the optimiser loop of the transformers side: fused, as in its Trainer, or default, as in torch.
    """

    device: torch.device
    adamw: str = "fused"
    autocast: bool = True

    @property
    def dtype(self) -> torch.dtype:
        """That of the matrix products."""
        return torch.bfloat16 if self.device.type == "cuda" else torch.float32

    @property
    def budget(self) -> int:
        """Tokens of one pass on our side, as in training and prediction."""
        return AUTO_TOKENS[self.device.type]

    def precision(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        enabled = self.autocast and self.device.type == "cuda"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)


def names(work: Workload, pair: Pair, setting: Setting) -> list[str]:
    """The sides that a workload is run on; sorting is left out where it changes nothing."""
    found = [OURS, PADDED, SORTED] if work.sorting_matters else [OURS, EQUAL]
    modern = pair.config.family == "modernbert" and setting.device.type == "cuda"
    if modern and importlib.util.find_spec("packed_encoders"):
        found.append(PACKED)
    return found


def side(name: str, pair: Pair, work: Workload, mode: Mode, setting: Setting) -> Work:
    """What to time. Every side sees the same tokens and, in training, has the same loss and gradient.

    Raises:
        BackendError: packed-encoders refuses this architecture or machine.
    """
    source = torch.Generator().manual_seed(1)
    direction = torch.randn(pair.config.hidden_size, generator=source).to(setting.device)
    if name == OURS:
        return _ours(pair.ours, work, mode, setting, direction)
    model = pair.theirs
    if name == PACKED:
        # Its weights are bf16 already, and under autocast it leaves its fast path.
        model, setting = _packed_encoders(pair.theirs), replace(setting, autocast=False)
    return _theirs(model, work.padded(name != PADDED, setting.device), mode, setting, direction)


def _ours(encoder: nn.Module, work: Workload, mode: Mode, setting: Setting, direction: Tensor) -> Work:
    packs = work.packs(setting.budget, setting.device)

    def loss(packed: Packed) -> Tensor:
        return (encoder(packed).float() @ direction).sum()

    if mode == "inference":
        return _inference(encoder, encoder, packs, setting)
    groups = [{"params": list(encoder.parameters())}]
    return _step(encoder, loss, packs, build_optimizer(groups, Optim(lr=RATE)), setting)


def _theirs(model: Any, batches: list[tuple[Tensor, Tensor]], mode: Mode, setting: Setting, direction: Tensor) -> Work:
    def forward(batch: tuple[Tensor, Tensor]) -> Tensor:
        return model(input_ids=batch[0], attention_mask=batch[1]).last_hidden_state  # (B, S, D)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return ((forward(batch).float() @ direction) * batch[1]).sum()

    if mode == "inference":
        return _inference(model, forward, batches, setting)
    options: dict[str, Any] = {"fused": True} if setting.adamw == "fused" else {}
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, **options)
    return _step(model, loss, batches, optimizer, setting)


def _inference(model: nn.Module, forward: Callable[[Any], object], batches: Sequence[Any], setting: Setting) -> Work:
    def run() -> None:
        model.eval()
        with torch.inference_mode(), setting.precision():
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
            with setting.precision():
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
