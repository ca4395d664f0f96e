"""Pairs of a query and a document to be scored.

Dimensions: N pairs.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from tasks.data.examples import Indices
from tasks.data.passages import examples_of
from tasks.data.ranking.batches import TupleBatch
from tasks.data.ranking.collection import Texts, join_tokens


class PairExamples:
    """Example i is query i and document i; a batch has all its queries first, as in training."""

    def __init__(self, queries: Texts, documents: Texts) -> None:
        self.texts = examples_of(join_tokens([queries, documents]))
        self.count = len(queries)
        self.lengths: npt.NDArray[np.int32] = queries.lengths + documents.lengths
        whole = queries.full_lengths + documents.full_lengths
        self.cut: npt.NDArray[np.bool_] = whole > self.lengths

    def __len__(self) -> int:
        return self.count

    def collate(self, indices: Indices) -> TupleBatch:
        index = torch.as_tensor(np.asarray(indices, dtype=np.int64))
        both = torch.cat([index, index + self.count])
        number = torch.arange(len(index))
        is_document = torch.arange(2) == 1
        return TupleBatch(
            self.texts.collate(both.numpy()).packed,
            None,
            index,
            len(index),
            number.repeat(2),
            is_document.long().repeat_interleave(len(index)),
            both,
            torch.where(is_document.repeat_interleave(len(index)), both, -1),
        )
