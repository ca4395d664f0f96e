"""The rows a model gets most wrong, kept in a heap of fixed size while predictions stream by."""

from __future__ import annotations

import heapq
from typing import Any, NamedTuple

import torch
from torch import Tensor


class _Entry(NamedTuple):
    loss: float
    order: int  # -index: of two equal losses the earlier row is kept, whatever the order they came in
    predicted: Any
    gold: Any


class WorstErrors:
    """The `k` wrong predictions with the highest loss, whatever the order of the batches."""

    def __init__(self, k: int = 50) -> None:
        self.k = k
        self._heap: list[_Entry] = []

    def update(self, loss: Tensor, predicted: Tensor, gold: Tensor, index: Tensor) -> None:
        """Adds B rows: loss (B,), predicted and gold (B,) or (B, L), index (B,) their place in the data."""
        wrong = (predicted != gold.to(predicted.device)).reshape(len(loss), -1).any(dim=1).to(loss.device)
        rows = wrong.nonzero().squeeze(1)
        if len(self._heap) == self.k:  # most batches add nothing once the heap is full
            rows = rows[loss[rows] >= self._heap[0].loss]
        # A stable order over the whole batch: topk alone may take either of two equal losses.
        chosen = rows[torch.argsort(index.to(rows.device)[rows])]
        chosen = chosen[torch.argsort(loss[chosen], descending=True, stable=True)][: self.k]
        for i in chosen.tolist():
            self._push(_Entry(float(loss[i]), -int(index[i]), predicted[i].tolist(), gold[i].tolist()))

    def add(self, loss: float, predicted: Any, gold: Any, index: int) -> None:
        """Adds one wrong prediction; `predicted` and `gold` of any type that can be compared."""
        self._push(_Entry(loss, -index, predicted, gold))

    def merge(self, other: WorstErrors) -> None:
        """Takes over the rows of another rank or file."""
        for entry in other._heap:
            self._push(entry)

    def rows(self) -> list[dict[str, Any]]:
        """`index`, `loss`, `predicted`, `gold` of each, the worst first."""
        ordered = sorted(self._heap, key=lambda entry: entry[:2], reverse=True)
        return [
            {"index": -entry.order, "loss": entry.loss, "predicted": entry.predicted, "gold": entry.gold}
            for entry in ordered
        ]

    def _push(self, entry: _Entry) -> None:
        if len(self._heap) < self.k:
            heapq.heappush(self._heap, entry)
        else:
            heapq.heappushpop(self._heap, entry)
