"""Optimiser groups and schedules, by hand-computed values."""

from __future__ import annotations

import pytest
from torch import nn

from modernbert.errors import ConfigError
from tasks.optim import Optim, parameter_groups, schedule


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(4, 2)
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
        self.final = nn.LayerNorm(2)


def test_lower_layers_learn_slower_and_vectors_do_not_decay() -> None:
    encoder, head = Stack(), nn.Linear(2, 3)
    groups = parameter_groups(encoder, head, Optim(lr=1.0, layer_decay=0.5, weight_decay=0.1))
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert found[id(head.weight)] == (1.0, 0.1)
    assert found[id(head.bias)] == (1.0, 0.0)
    assert found[id(encoder.final.weight)] == (1.0, 0.0)
    assert found[id(encoder.layers[1].weight)] == (0.5, 0.1)
    assert found[id(encoder.layers[0].bias)] == (0.25, 0.0)
    assert found[id(encoder.embeddings.weight)] == (0.125, 0.1)
    everything = {id(p) for m in (encoder, head) for p in m.parameters()}
    assert set(found) == everything


def test_a_frozen_parameter_is_left_out() -> None:
    encoder, head = Stack(), nn.Linear(2, 3)
    encoder.embeddings.weight.requires_grad_(False)
    groups = parameter_groups(encoder, head, Optim(lr=1.0))
    assert id(encoder.embeddings.weight) not in {id(p) for g in groups for p in g["params"]}


@pytest.mark.parametrize(
    ("name", "at", "factor"),
    [
        ("linear", 0, 1 / 11),
        ("linear", 9, 10 / 11),
        ("linear", 10, 1.0),
        ("linear", 55, 0.5),
        ("linear", 100, 0.0),
        ("cosine", 55, 0.5),
        ("wsd", 55, 1.0),
        ("wsd", 91, 0.5),
        ("wsd", 100, 0.0),
    ],
)
def test_schedules(name: str, at: int, factor: float) -> None:
    assert schedule(Optim(lr=1e-4, warmup=0.1, schedule=name), 100)(at) == pytest.approx(factor)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": 0.0}, "optim.lr=0.0: allowed is above 0"),
        ({"lr": 1e-4, "schedule": "linaer"}, "optim.schedule=linaer: allowed is one of linear, cosine, wsd"),
        ({"lr": 1e-4, "warmup": 1.0}, "optim.warmup=1.0"),
        ({"lr": 1e-4, "layer_decay": 0.0}, "optim.layer_decay=0.0"),
        ({"lr": 1e-4, "clip": 0.0}, "optim.clip=0.0: allowed is above 0, or null"),
    ],
)
def test_out_of_range_is_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Optim(**settings)
