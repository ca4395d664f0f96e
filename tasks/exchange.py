"""When the processes of a training exchange gradients, so that one that runs out of memory can begin its step again.

A process that fails while others are exchanging leaves them with half of a step. So all meet before: where each has
had a micro-batch as large as its last one through a backward, they exchange during the backward of the last one, at
little cost; else it too is done first, and then a backward that adds nothing exchanges.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tasks.data.examples import Batch
from tasks.memory import FAILED, PROVEN, UNPROVEN, ElsewhereError, meet, positions
from tasks.sharding import Sharded


def may_join(task: Any, batches: Sequence[Batch]) -> bool:
    """Whether gradients may be exchanged in the backward of these micro-batches, the last of a step; else `exchange`
    does it after them. Every process must ask.

    Raises:
        ElsewhereError: another process begins the step again.
    """
    if task.trainer.world_size == 1:
        return True
    tokens = max(batch.packed.num_tokens for batch in batches)
    task.memory.exchanged = agree(task, PROVEN if tokens <= task.memory.proven else UNPROVEN) == PROVEN
    return task.memory.exchanged


def exchange(task: Any, step: Sequence[Batch]) -> None:
    """Exchange the gradients that each process has kept to itself; on every process.

    Raises:
        ElsewhereError: as above.
    """
    agree(task, PROVEN)
    task.memory.exchanged = True
    task.manual_backward(nothing(task, step[-1]))


def agree(task: Any, level: int) -> int:
    worst = meet(task, level)
    if worst == FAILED:
        raise ElsewhereError
    return worst


def nothing(task: Any, batch: Batch) -> Tensor:
    """Zero, whose backward adds zero to the gradients, and makes the processes exchange them."""
    if not isinstance(task.trainer.strategy, Sharded):
        parts = [weight.flatten()[:0].sum() for weight in task.parameters() if weight.requires_grad]
        return torch.stack(parts).sum()
    # FSDP exchanges in the backward of a forward pass: that of one example, which draws no random numbers.
    data = task.trainer.datamodule
    one = data.examples["train"].collate(positions(data, batch)[-1:]).to(batch.packed.input_ids.device)
    with torch.random.fork_rng(devices=[task.device] if task.device.type == "cuda" else []):
        return task(one.packed).flatten()[:0].sum()
