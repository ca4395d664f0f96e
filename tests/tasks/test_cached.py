"""Cached gradients are those of one large batch, dropout, autocast and random numbers included."""

from __future__ import annotations

from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tasks.cached import step_gradient
from tasks.contrastive import info_nce


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.4), nn.Tanh(), nn.Linear(16, 8), nn.Dropout(0.2))
        self.calls = 0

    def forward(self, batch: Tensor) -> Tensor:
        self.calls += 1
        return self.layers(batch)


def loss_of(outputs: list[Tensor]) -> Tensor:
    """Each half of the vectors against the other."""
    values = torch.cat(outputs).float()
    first, second = values.chunk(2)
    return info_nce(first @ second.t(), torch.arange(len(first))).mean()


def plain(model: Small, step: list[Tensor]) -> Tensor:
    loss = loss_of([model(batch) for batch in step])
    loss.backward()
    return loss.detach()


def gradients(model: nn.Module) -> list[Tensor]:
    found = [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]
    model.zero_grad()
    return found


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("half", [False, True])
def test_gradients_are_those_of_one_batch(parts: int, half: bool) -> None:
    model = Small().train()
    step = list(torch.randn(20, 6).chunk(parts))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
        torch.manual_seed(7)
        expected = plain(model, step)
        after = torch.rand(1)
        wanted = gradients(model)
        torch.manual_seed(7)
        model.calls = 0
        loss = step_gradient(model, step, loss_of, lambda part: part.backward())
        assert torch.equal(torch.rand(1), after)  # the second forwards leave the course of random numbers alone
    assert model.calls == 2 * parts - 1
    assert float(loss) == pytest.approx(float(expected), abs=1e-6)
    found = gradients(model)
    assert len(found) == len(wanted) == 4
    for a, b in zip(found, wanted, strict=True):
        # bf16 rounds each micro-batch's part of the gradient by itself.
        torch.testing.assert_close(a, b, atol=5e-3 if half else 1e-6, rtol=2e-2 if half else 1e-5)


def test_ranks_exchange_once_and_the_factor_scales() -> None:
    model = Small().eval()
    step = list(torch.randn(12, 6).chunk(3))
    plain(model, step)
    wanted = gradients(model)
    events: list[str] = []

    @contextmanager
    def no_exchange() -> Any:
        events.append("without")
        yield
        events.append("end")

    def backward(part: Tensor) -> None:
        events.append("backward")
        part.backward()

    silent: Any = no_exchange
    assert isinstance(silent(), AbstractContextManager)
    step_gradient(model, step, loss_of, backward, silent, factor=2.0)
    assert events == ["without", "backward", "end", "without", "backward", "end", "backward"]
    for a, b in zip(gradients(model), wanted, strict=True):
        torch.testing.assert_close(a, 2 * b, atol=1e-6, rtol=1e-5)
