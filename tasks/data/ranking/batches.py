"""The batches of retrieval: rows to learn from, and single texts to be encoded.

Dimensions: Q rows of a batch, B sequences of a batch, n most negatives of a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from tasks.data.examples import Batch

#: What a text is to the encoder: prefixes and length limits go by it.
TextRole = Literal["query", "document"]


@dataclass
class TupleBatch(Batch):
    """Rows of a query, its positive and its negatives, as B sequences: Q queries first, then all documents.

    Documents are in order of row, each row's positive before its negatives. `index` (Q,) is the position of each
    row in its examples. `targets` are teacher scores (Q, 1+n) of the positive and the negatives, NaN where a row
    has fewer; or scores (Q,) of graded pairs; or None.

    Attributes:
        queries: Q.
        row: (B,) int64 which row of the batch a sequence belongs to, 0 to Q-1.
        rank_in_row: (B,) int64: 0 the query, 1 the positive, 2 … the negatives.
        text_id: (B,) int64 number of the distinct text in the training data; queries and documents count apart.
        document_id: (B,) int64 number of the document (texts with one document id share it); -1 for queries.
    """

    queries: int
    row: Tensor
    rank_in_row: Tensor
    text_id: Tensor
    document_id: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TupleBatch:
        """The same batch on another device."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return TupleBatch(
            self.packed.to(device),
            None if self.targets is None else moved(self.targets),
            moved(self.index),
            self.queries,
            moved(self.row),
            moved(self.rank_in_row),
            moved(self.text_id),
            moved(self.document_id),
        )


@dataclass
class SequenceBatch(Batch):
    """Single texts; `is_query` (B,) bool says which are queries. `targets` is None."""

    is_query: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SequenceBatch:
        """The same batch on another device."""
        index, is_query = (t.to(device, non_blocking=non_blocking) for t in (self.index, self.is_query))
        return SequenceBatch(self.packed.to(device), None, index, is_query)
