"""Queries with their candidates as examples: pairs that are read as one text, or a query beside its documents.

Dimensions: N pairs (rows), E examples, P pairs of a batch, B sequences of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modernbert.attention import Prefixed
from modernbert.packing import Packed, pack
from tasks.data.examples import Batch, Indices, TextExamples
from tasks.data.layout import ranges
from tasks.data.tokens import Tokens
from tasks.data.windows import best_window

IntArray = npt.NDArray[np.int64]


@dataclass
class CandidateBatch(Batch):
    """P pairs, those of one query beside each other where an example is a query.

    `index` (P,) are rows of the table, `targets` (P,) fp32 their labels or None.

    Attributes:
        query: (P,) int64 number of each pair's query in its table.
        teacher: (P,) fp32 scores of a better model, or None.
        cu_windows: (P+1,) borders of the pairs in windows, where long documents are read so; else None.
    """

    query: Tensor
    teacher: Tensor | None = None
    cu_windows: Tensor | None = None

    def merge(self, outputs: Tensor) -> Tensor:
        """The score of a pair is that of its best window (max passage; Dai and Callan 2019, arXiv:1905.09217)."""
        return outputs if self.cu_windows is None else best_window(outputs, self.cu_windows)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> CandidateBatch:
        """The same batch on another device."""
        moved = [
            None if values is None else values.to(device, non_blocking=non_blocking)
            for values in (self.targets, self.index, self.query, self.teacher, self.cu_windows)
        ]
        targets, index, query, teacher, cu_windows = moved
        assert index is not None
        assert query is not None
        return CandidateBatch(self.packed.to(device), targets, index, query, teacher, cu_windows)


class Texts(Protocol):
    """The token ids of N pairs."""

    #: Tokens of each row before anything was cut (N,), and how many of these are read at most.
    full_lengths: npt.NDArray[np.int32]
    limit: int
    #: Tokens of the longest sequence, with what it sees before it.
    max_seqlen: int

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        """(N,) whether a text of the pair was cut short."""

    def cost(self, rows: IntArray) -> int:
        """Tokens of these rows of one query in one pack."""

    def pack(self, examples: Sequence[IntArray]) -> Packed:
        """The rows of some examples, in order."""

    def windows(self, examples: Sequence[IntArray]) -> Tensor | None:
        """(P+1,) borders of these rows in sequences, where a row may be several."""


class PairTexts:
    """Query and document as one sequence, for a cross-encoder: B = P."""

    def __init__(self, tokens: Tokens, limit: int) -> None:
        self.texts, self.limit = TextExamples(tokens), limit
        self.lengths, self.full_lengths = tokens.lengths, tokens.full_lengths
        self.max_seqlen = int(tokens.lengths.max(initial=0))

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        return self.full_lengths > self.lengths

    def cost(self, rows: IntArray) -> int:
        return int(self.lengths[rows].sum())

    def pack(self, examples: Sequence[IntArray]) -> Packed:
        return self.texts.collate(np.concatenate(examples)).packed

    def windows(self, examples: Sequence[IntArray]) -> None:
        return None


class WindowTexts:
    """The query with each window of its document, for a cross-encoder: B >= P.

    Args:
        tokens, starts, cut: from `tasks.data.tokenise.tokenise_pair_windows`.
        limit: most tokens of a window with its query.
    """

    def __init__(self, tokens: Tokens, starts: IntArray, cut: npt.NDArray[np.bool_], limit: int) -> None:
        self.texts, self.starts, self.cut, self.limit = TextExamples(tokens), starts, cut, limit
        self.full_lengths = tokens.full_lengths[starts[:-1]]
        self.lengths = np.diff(tokens.offsets[starts])
        self.max_seqlen = int(tokens.lengths.max(initial=0))

    @property
    def in_windows(self) -> int:
        """How many documents take more than one window."""
        return int((np.diff(self.starts) > 1).sum())

    def cost(self, rows: IntArray) -> int:
        return int(self.lengths[rows].sum())

    def pack(self, examples: Sequence[IntArray]) -> Packed:
        rows = np.concatenate(examples)
        return self.texts.collate(ranges(self.starts[rows], self.starts[rows + 1] - self.starts[rows])).packed

    def windows(self, examples: Sequence[IntArray]) -> Tensor:
        rows = np.concatenate(examples)
        return torch.from_numpy(np.concatenate([[0], np.cumsum(self.starts[rows + 1] - self.starts[rows])]))


class ApartTexts:
    """The query of an example once, then its documents, each naming it as its prefix: B = E + P.

    Args:
        queries, documents: tokens of distinct texts.
        query, document: (N,) the number of each row's texts in these.
        limit: most tokens of a document.
        segments: whether documents are of BERT's second segment, as in a pair.
    """

    def __init__(
        self, queries: Tokens, documents: Tokens, query: IntArray, document: IntArray, limit: int, segments: bool
    ) -> None:
        self.queries, self.documents, self.query, self.document = queries, documents, query, document
        self.limit, self.segments = limit, segments
        self.query_lengths, self.document_lengths = queries.lengths, documents.lengths
        self.full_lengths = documents.full_lengths[document]
        self.max_seqlen = int(queries.lengths.max(initial=0)) + int(documents.lengths.max(initial=0))

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        query = self.queries.full_lengths > self.query_lengths
        document = self.documents.full_lengths > self.document_lengths
        return query[self.query] | document[self.document]

    def cost(self, rows: IntArray) -> int:
        return int(self.query_lengths[self.query[rows[0]]]) + int(self.document_lengths[self.document[rows]].sum())

    def pack(self, examples: Sequence[IntArray]) -> Prefixed:
        sequences: list[npt.NDArray[np.int32]] = []
        prefix: list[int] = []
        for rows in examples:
            first = len(sequences)
            sequences.append(part(self.queries, self.query[rows[0]]))
            sequences += [part(self.documents, number) for number in self.document[rows]]
            prefix += [-1] + [first] * len(rows)
        plain, named = pack(sequences), torch.tensor(prefix)
        types = torch.repeat_interleave((named >= 0).long(), plain.lengths.long()) if self.segments else None
        return Prefixed(plain.input_ids, plain.cu_seqlens, plain.max_seqlen, types, named)

    def windows(self, examples: Sequence[IntArray]) -> None:
        return None


def part(tokens: Tokens, number: int) -> npt.NDArray[np.int32]:
    """The ids of one text."""
    return tokens.input_ids[tokens.offsets[number] : tokens.offsets[number + 1]]


class Candidates:
    """Example i is the pairs `members[i]`: one of them, or those of a query.

    Args:
        texts: of N pairs.
        query: (N,) int64 the number of each pair's query.
        members: rows of each example.
        labels, teacher: (N,) fp32, or None.
        most: pairs of an example that a batch shows; None for all. The relevant ones stay, the others take turns
            from epoch to epoch, so this needs labels.
    """

    def __init__(
        self,
        texts: Texts,
        query: IntArray,
        members: Sequence[IntArray],
        labels: Tensor | None = None,
        teacher: Tensor | None = None,
        most: int | None = None,
    ) -> None:
        self.texts, self.query, self.members = texts, query, list(members)
        self.labels, self.teacher, self.most, self.epoch = labels, teacher, most, 0
        self.cut, self.max_seqlen = texts.cut, texts.max_seqlen
        self.lengths = np.array([texts.cost(self.longest(rows)) for rows in self.members], dtype=np.int32)

    def __len__(self) -> int:
        return len(self.members)

    def set_epoch(self, epoch: int) -> None:
        """Which of the candidates that are not relevant come next; the loader calls it."""
        self.epoch = epoch

    def longest(self, rows: IntArray) -> IntArray:
        """As many rows as a batch shows, the longest, for a bound on its tokens."""
        if self.most is None or len(rows) <= self.most:
            return rows
        sizes = np.array([self.texts.cost(rows[i : i + 1]) for i in range(len(rows))])
        return rows[np.argsort(-sizes, kind="stable")[: self.shown(rows)]]

    def shown(self, rows: IntArray) -> int:
        """How many of these rows a batch shows: all relevant ones, and at least one other."""
        assert self.labels is not None
        assert self.most is not None
        return max(self.most, int((self.labels[rows] > 0).sum()) + 1)

    def chosen(self, rows: IntArray) -> IntArray:
        """The rows of an example that this epoch shows."""
        if self.most is None or len(rows) <= self.most:
            return rows
        assert self.labels is not None
        relevant = (self.labels[rows] > 0).numpy()
        others, room = rows[~relevant], self.shown(rows) - int(relevant.sum())
        turn = (self.epoch * room + np.arange(min(room, len(others)))) % max(1, len(others))
        return np.sort(np.concatenate([rows[relevant], others[turn]]))

    def positions(self, batch: Batch) -> list[int]:
        """Which examples a batch shows: its index numbers their pairs."""
        owner = np.repeat(np.arange(len(self)), [len(rows) for rows in self.members])
        rows = np.concatenate(self.members)
        found = owner[np.isin(rows, batch.index.cpu().numpy())]
        return [int(i) for i in np.unique(found)]

    def parts(self, budget: int) -> Candidates:
        """The same pairs as examples of at most `budget` tokens, but at least one pair, for measuring."""
        pieces = []
        for rows in self.members:
            sizes = np.array([self.texts.cost(rows[i : i + 1]) for i in range(len(rows))])
            piece = (np.cumsum(sizes) - 1) // max(1, budget)
            pieces += np.split(rows, np.flatnonzero(np.diff(piece)) + 1)
        return Candidates(self.texts, self.query, pieces, self.labels, self.teacher)

    def collate(self, indices: Indices) -> CandidateBatch:
        examples = [self.chosen(self.members[i]) for i in np.asarray(indices).tolist()]
        index = torch.from_numpy(np.concatenate(examples))
        return CandidateBatch(
            self.texts.pack(examples),
            None if self.labels is None else self.labels[index],
            index,
            torch.from_numpy(self.query)[index],
            None if self.teacher is None else self.teacher[index],
            self.texts.windows(examples),
        )
