"""Rows to learn retrieval from: a query, its positive and its negatives, each distinct text tokenised once.

Dimensions: N rows, M negatives of all rows, n most negatives of a row in a batch, Q rows of a batch,
B sequences of a batch, U distinct query texts, V distinct document texts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modernbert.errors import ConfigError
from tasks.data.examples import Indices
from tasks.data.passages import PassageExamples, examples_of
from tasks.data.ranking.batches import TupleBatch
from tasks.data.ranking.collection import Collection, Texts

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TupleRows:
    """N rows as numbers: of distinct texts, and of documents (several texts may be of one document).

    Row i has the negatives at `offsets[i]` to `offsets[i + 1]`.
    """

    query: IntArray  # (N,) text
    positive: IntArray  # (N,) text
    negative: IntArray  # (M,) text
    offsets: IntArray  # (N+1,)
    positive_document: IntArray  # (N,)
    negative_document: IntArray  # (M,)
    positive_score: FloatArray | None = None  # (N,) a teacher's
    negative_score: FloatArray | None = None  # (M,) a teacher's
    score: FloatArray | None = None  # (N,) of graded pairs

    def __len__(self) -> int:
        return len(self.query)


class TupleExamples:
    """Example i is row i: its query, its positive and up to `negatives` of its negatives.

    A row with more negatives than that shows the next ones each epoch, in turn (see `set_epoch`).

    Args:
        tokens: of U + V texts: the distinct queries, then the distinct documents.
        queries: U.
        rows: the N rows.
        negatives: n, most of a row.
        collect: makes the collection of these rows from tokens (see `collection`).

    Attributes:
        known: sorted int64 keys `query text * documents + document text` of every pair that is known to be
            relevant: each positive, every text of its document and each positive of the same query text.
        documents: V, the factor of these keys.

    Raises:
        ConfigError: a negative number of negatives.
    """

    def __init__(
        self,
        tokens: Texts,
        queries: int,
        rows: TupleRows,
        negatives: int,
        collect: Callable[[Texts], Collection],
    ) -> None:
        if negatives < 0:
            raise ConfigError(f"task.negatives={negatives}: allowed is 0 (in-batch negatives alone) or more.")
        self.texts = examples_of(tokens)
        self.queries, self.documents = queries, len(tokens) - queries
        self.rows, self.negatives, self.epoch = rows, negatives, 0
        self._collect = collect
        self.known = known_pairs(rows, self.documents)
        sizes = tokens.lengths.astype(np.int64)
        own = sizes[rows.query] + sizes[queries + rows.positive]
        self.lengths = (own + longest(sizes[queries + rows.negative], rows.offsets, negatives)).astype(np.int32)
        longest_one = self.texts.max_seqlen if isinstance(self.texts, PassageExamples) else int(sizes.max(initial=0))
        self.max_seqlen = longest_one  # tokens of a sequence
        cut = tokens.full_lengths > tokens.lengths
        self.cut = cut[rows.query] | cut[queries + rows.positive]

    def __len__(self) -> int:
        return len(self.rows)

    def set_epoch(self, epoch: int) -> None:
        """Which negatives come next, for rows with more than a batch shows; the loader calls it."""
        self.epoch = epoch

    def collection(self) -> Collection:
        """Its own queries searching its own documents; nothing is tokenised again."""
        return self._collect(self.texts.tokens)

    def chosen(self, row: int) -> IntArray:
        """Positions, in all M negatives, of those that this row shows in this epoch."""
        start, stop = int(self.rows.offsets[row]), int(self.rows.offsets[row + 1])
        count, most = stop - start, self.negatives
        if count <= most:
            return np.arange(start, stop)
        return start + (self.epoch * most + np.arange(most)) % count

    def collate(self, indices: Indices) -> TupleBatch:
        rows, index = self.rows, np.asarray(indices, dtype=np.int64)
        queries = rows.query[index]
        texts: list[int] = []
        documents: list[int] = []
        owner: list[int] = []
        rank: list[int] = []
        picked = [self.chosen(row) for row in index.tolist()]
        for place, (row, negatives) in enumerate(zip(index.tolist(), picked, strict=True)):
            texts += [int(rows.positive[row]), *rows.negative[negatives].tolist()]
            documents += [int(rows.positive_document[row]), *rows.negative_document[negatives].tolist()]
            owner += [place] * (1 + len(negatives))
            rank += range(1, 2 + len(negatives))
        text_id = np.concatenate([queries, np.asarray(texts, dtype=np.int64)])
        sequences = text_id + self.queries * (np.arange(len(text_id)) >= len(index))
        first = len(index)
        return TupleBatch(
            self.texts.collate(sequences).packed,
            self._targets(index, picked),
            torch.from_numpy(index),
            first,
            torch.tensor([*range(first), *owner], dtype=torch.int64),
            torch.tensor([0] * first + rank, dtype=torch.int64),
            torch.from_numpy(text_id),
            torch.tensor([-1] * first + documents, dtype=torch.int64),
        )

    def _targets(self, index: IntArray, picked: list[IntArray]) -> Tensor | None:
        rows = self.rows
        if rows.score is not None:
            return torch.from_numpy(rows.score[index])
        if rows.positive_score is None or rows.negative_score is None:
            return None
        scores = np.full((len(index), 1 + self.negatives), np.nan, dtype=np.float32)
        scores[:, 0] = rows.positive_score[index]
        for place, negatives in enumerate(picked):
            scores[place, 1 : 1 + len(negatives)] = rows.negative_score[negatives]
        return torch.from_numpy(scores)


def longest(sizes: IntArray, offsets: IntArray, most: int) -> IntArray:
    """(N,) tokens of the `most` longest negatives of each row: what a batch must have room for in any epoch."""
    counts = np.diff(offsets)
    owner = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((-sizes, owner))
    place = np.arange(len(sizes)) - np.repeat(offsets[:-1], counts)
    kept = np.where(place < most, sizes[order], 0)
    return np.bincount(owner, weights=kept, minlength=len(counts)).astype(np.int64)


def known_pairs(rows: TupleRows, documents: int) -> IntArray:
    """Sorted keys of the pairs that are relevant; see `TupleExamples.known`."""
    texts_of: dict[int, set[int]] = {}
    for numbers, texts in ((rows.positive_document, rows.positive), (rows.negative_document, rows.negative)):
        for number, text in zip(numbers.tolist(), texts.tolist(), strict=True):
            texts_of.setdefault(number, set()).add(text)
    keys = {
        query * documents + text
        for query, document in zip(rows.query.tolist(), rows.positive_document.tolist(), strict=True)
        for text in texts_of[document]
    }
    return np.array(sorted(keys), dtype=np.int64)
