"""What tasks answer: the output types that files, page and server show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


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
    """A document found for a query."""

    id: str
    text: str
    score: float
