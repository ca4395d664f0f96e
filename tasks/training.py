"""How a task takes an optimiser step: packed micro-batches, ranks that exchange once, and numbers that are none.

`Task` has Lightning's hooks; what they do in a training stands here, as functions of the task.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor

from tasks.data.examples import Batch
from tasks.exchange import exchange, may_join
from tasks.optim import build_optimizer, schedule, word_table
from tasks.row_adamw import RowAdamW, clip_grad_norm
from tasks.sharding import Sharded

if TYPE_CHECKING:
    from tasks.base import Task


@dataclass
class Throughput:
    """What training has done so far on this rank, for the progress bar: real tokens, forward passes, last loss."""

    tokens: int = 0
    micro_batches: int = 0
    loss: float | Tensor = math.nan


def take_step(task: Task, step: list[Batch]) -> None:
    """Gradients of a step's micro-batches, clipped, into the weights; the learning rate moves on in any case."""
    optimizer: Any = task.optimizers()
    total = task.all_ranks(sum(task.units(batch) for batch in step))
    loss = task.memory.run(task, step, lambda: task.backward_step(step, total))
    if task.trainer.world_size > 1:
        loss = loss.new_tensor(task.all_ranks(float(loss)))
    scaler = loss_scaler(task)
    if scaler is not None:
        scaler.unscale_(optimizer.optimizer)  # clipping wants the true norm
    limit = task.optim.clip or math.inf  # type: ignore[union-attr]
    norm = clip_grad_norm(task.parameters(), limit)
    sound = is_sound(task, step, loss, norm)
    if sound:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    task.lr_schedulers().step()  # type: ignore[union-attr]
    task.throughput.tokens += sum(batch.packed.num_tokens for batch in step)
    task.throughput.micro_batches += len(step)
    if sound:
        task.throughput.loss = loss
        task.epoch_losses.append(loss)
        task.log("train_loss", loss, batch_size=sum(len(batch) for batch in step))


def accumulate(task: Task, step: list[Batch], total: float) -> Tensor:
    """Backward through each micro-batch; returns the step's loss. Ranks exchange gradients once, at the last or
    after it (`tasks.exchange`).

    DDP averages over ranks, the loss is divided by the units of all ranks: hence the factor world_size.
    """
    world = task.trainer.world_size
    loss = torch.zeros((), device=task.device)
    joined = False
    gather_weights(task)
    for position, batch in enumerate(step):
        joined = position == len(step) - 1 and may_join(task, [batch])
        with contextlib.nullcontext() if joined else task.no_exchange():
            part = task.loss_sum(task.outputs(task.memory.at(batch)), batch) / total
            task.manual_backward(part * world)
        loss += part.detach()
    if not joined:
        exchange(task, step)
    return loss


def gather_weights(task: Task) -> None:
    """Before a step: weights that processes share out."""
    if isinstance(task.trainer.strategy, Sharded):
        task.trainer.strategy.gather()


def loss_scaler(task: Task) -> Any:
    """The loss scaler of precision=16-mixed, else None."""
    return getattr(task.trainer.precision_plugin, "scaler", None)


def is_sound(task: Task, step: list[Batch], loss: Tensor, norm: Tensor) -> bool:
    """Whether loss and gradient are numbers; if not, what `numbers` is set to happens, before the weights move."""
    scaler = loss_scaler(task)
    if scaler is not None and math.isfinite(float(loss)) and scaler.get_scale() > 1:
        return True  # a scale too large for fp16 is ordinary: the scaler leaves the step out and halves it
    done = task.trainer.fit_loop.epoch_loop.batch_progress.total.completed  # steps left out count too
    return task.numbers.sound(task, step, done, float(loss), float(norm))


def optimizers(task: Task) -> Any:
    """The optimiser and its schedule, as Lightning takes them.

    Raises:
        RuntimeError: a task without optimiser settings.
    """
    if task.optim is None:
        raise RuntimeError("this task was loaded for prediction; it has no optimiser settings")
    # DDP wraps the model in a process of its own too, and exchanges dense gradients only.
    alone = not isinstance(task.trainer.strategy, ParallelStrategy) and not task.uses_word_table
    table = word_table(task.encoder) if alone else None
    optimizer = build_optimizer(task.parameter_groups(task.optim), task.optim, table)
    steps = int(task.trainer.estimated_stepping_batches)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(task.optim, steps))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def close_optimizer(task: Task) -> None:
    """Bring to an end what an optimiser does beside the training."""
    optimizer = task.optimizers(use_pl_optimizer=False)
    if isinstance(optimizer, RowAdamW):
        optimizer.close()


def progress(task: Task) -> dict[str, Any]:
    """What a resumed training needs beside weights and optimiser."""
    return {
        "throughput": [task.throughput.tokens, task.throughput.micro_batches],
        "history": task.history,
        "epoch_losses": torch.stack(task.epoch_losses) if task.epoch_losses else None,
        "skipped": [task.numbers.skipped, task.numbers.in_a_row],
        "memory": [task.memory.budget, task.encoder.gradient_checkpointing],
    }


def take_back(task: Task, held: Mapping[str, Any]) -> None:
    """Go on from what `progress` gave."""
    task.throughput.tokens, task.throughput.micro_batches = held["throughput"]
    task.history = list(held["history"])
    task.epoch_losses = [] if held["epoch_losses"] is None else list(held["epoch_losses"].unbind())
    task.numbers.skipped, task.numbers.in_a_row = held["skipped"]
    task.memory.budget, recompute = held["memory"]
    task.encoder.gradient_checkpointing |= recompute
