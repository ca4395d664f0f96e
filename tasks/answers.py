"""What tasks answer: the output types that files, page and server show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Label:
    """What a text is: the chosen label or labels, or a value; `scores` has every label's probability."""

    labels: tuple[str, ...]
    scores: Mapping[str, float]
    value: float | None = None
    cut: bool = False


@dataclass(frozen=True)
class Span:
    """An entity: characters [start, end) of the text as given."""

    start: int
    end: int
    label: str
    text: str
    score: float


@dataclass(frozen=True)
class Hit:
    """A document found for a query.

    Where documents are split (task.split), `passage` is the part that answers best: characters [start, end) of `text`.
    """

    id: str
    text: str
    score: float
    start: int | None = None
    end: int | None = None
    passage: str | None = None


def plain_hit(hit: Hit) -> dict[str, Any]:
    """A hit as JSON; without a passage where documents are whole."""
    return {name: value for name, value in vars(hit).items() if value is not None}
