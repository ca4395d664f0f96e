"""The gradient of a loss that spans a whole optimiser step, in the memory of one micro-batch.

Cached gradients (Gao, Zhang, Han and Callan 2021, arXiv:2101.06983): each micro-batch is encoded without a graph, the
loss over all vectors of the step gives the gradient of each vector, and a second forward of each micro-batch, with the
dropout masks of the first, carries that gradient to the weights. The result is that of one large batch.

T rows of outputs of a micro-batch (texts, or tokens), D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import Tensor

B = TypeVar("B")
State = tuple[Tensor, Tensor | None]  # of the random generators, of the CPU and of a GPU


def step_gradient(
    model: Callable[[B], Tensor],
    step: Sequence[B],
    loss_of: Callable[[list[Tensor]], Tensor],
    backward: Callable[[Tensor], None],
    no_exchange: Callable[[], AbstractContextManager[None]] = nullcontext,
    at_last: Callable[[], AbstractContextManager[None]] = nullcontext,
    factor: float = 1.0,
) -> Tensor:
    """Backward of `loss_of([model(batch) for batch in step])` with the graph of one micro-batch at a time.

    The last micro-batch is encoded once, the others twice; a step of one costs nothing more than an ordinary one.

    Args:
        model: micro-batch -> outputs (T, D).
        loss_of: the outputs of every micro-batch -> the step's loss, a scalar.
        backward: what runs the backward of a scalar, and adds to the gradients of the weights.
        no_exchange: what keeps ranks from exchanging gradients, around every backward but the last.
        at_last: what is around the last; asked when `loss_of` is done.
        factor: on the gradient; the number of ranks where the exchange is a mean.

    Returns:
        The loss, detached.
    """
    outputs: list[Tensor] = []
    states: list[State] = []
    for batch in step[:-1]:
        with torch.no_grad():
            states.append(random_state(outputs[-1].device if outputs else None))
            outputs.append(model(batch))
    kept = model(step[-1])
    leaves = [output.detach().requires_grad_() for output in (*outputs, kept)]
    loss = loss_of(leaves)
    gradients = [gradient * factor for gradient in torch.autograd.grad(loss, leaves)]
    # The kept graph first: its memory is free before the next forward.
    with no_exchange() if len(step) > 1 else at_last():
        backward(along(kept, gradients[-1]))
    del kept
    for place, (batch, state) in enumerate(zip(step[:-1], states, strict=True)):
        with no_exchange() if place < len(states) - 1 else at_last():
            with replayed(state):
                again = model(batch)
            backward(along(again, gradients[place]))
    return loss.detach()


def along(outputs: Tensor, gradient: Tensor) -> Tensor:
    """A scalar whose gradient with respect to `outputs` is `gradient`."""
    return (outputs * gradient).sum()


def random_state(device: torch.device | None) -> State:
    """Of the generators that dropout draws from. The first micro-batch does not know its device: any GPU's is taken."""
    on_gpu = torch.cuda.is_initialized() if device is None else device.type == "cuda"
    return torch.get_rng_state(), torch.cuda.get_rng_state(device or "cuda") if on_gpu else None


@contextmanager
def replayed(state: State) -> Iterator[None]:
    """Random numbers as they came from `state` on; outside, their course is as if nothing had happened."""
    cpu, gpu = state
    devices = [] if gpu is None else [torch.cuda.current_device()]
    with torch.random.fork_rng(devices=devices):
        torch.set_rng_state(cpu)
        if gpu is not None:
            torch.cuda.set_rng_state(gpu)
        yield
