"""Queries and the documents they search, to be measured: every text tokenised once, or chunk by chunk.

Dimensions: Q queries, N documents, J judged pairs, B sequences of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tasks.data.examples import Indices, TextExamples
from tasks.data.passages import PassageExamples, Passages, examples_of
from tasks.data.ranking.batches import SequenceBatch, TextRole
from tasks.data.tokens import Tokens

IntArray = npt.NDArray[np.int64]
#: Tokens of texts, whole or in passages.
Texts = Tokens | Passages
Encode = Callable[[Sequence[str], TextRole], Texts]
#: Sequences of a chunk: as many as `inference_batches` sorts by length at a time.
CHUNK = 4096
#: Documents that a validation searches beside those judged for its queries: enough that a rank means something,
#: few enough to encode at every epoch.
OTHERS = 1000


class Judged(NamedTuple):
    """Pairs of a query and a document, by position; equal lengths J."""

    query: IntArray
    document: IntArray
    value: npt.NDArray[np.int64] | npt.NDArray[np.float64]  # grade (int64), or score (float64)


class Chunk:
    """Consecutive queries or documents of a collection, tokenised: `Examples` of its own.

    `start` is the position of the first of them among the queries or the documents; `index` of a batch counts
    from 0 inside the chunk.
    """

    def __init__(self, tokens: Texts, role: TextRole, start: int) -> None:
        self.examples = examples_of(tokens)
        self.role, self.start = role, start

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        return self.examples.lengths

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        return self.examples.cut

    @property
    def numbers(self) -> IntArray:
        """(n,) positions of its texts among the queries or the documents of the collection."""
        return np.arange(self.start, self.start + len(self))

    def __len__(self) -> int:
        return len(self.examples)

    def collate(self, indices: Indices) -> SequenceBatch:
        batch = self.examples.collate(indices)
        return SequenceBatch(batch.packed, None, batch.index, torch.full((len(batch),), self.role == "query"))


class Collection:
    """Q queries, N documents and what is known of their pairs.

    As `Examples` its sequences are the queries, then the documents; asking for `lengths` tokenises all of them.
    A large corpus is walked with `chunks` instead, which keeps the tokens of one chunk in memory.

    Args:
        queries, query_ids: Q texts (without prefix) and their ids, unique.
        documents, document_ids: N full texts and their ids, unique. Any sequence: a corpus makes its texts on demand.
        qrels: judged pairs with their grade, 0 for judged and not relevant. Documents that are not in it are unjudged.
        encode: texts and their role to tokens, prefix added.
        scored: graded pairs with their score, where the rows are such; `qrels` is empty then.
    """

    def __init__(
        self,
        queries: Sequence[str],
        query_ids: Sequence[str],
        documents: Sequence[str],
        document_ids: Sequence[str],
        qrels: Judged,
        encode: Encode,
        scored: Judged | None = None,
    ) -> None:
        self.queries, self.query_ids = queries, query_ids
        self.documents, self.document_ids = documents, document_ids
        self.qrels, self.scored = qrels, scored
        self._encode = encode
        self._examples: TextExamples | PassageExamples | None = None

    def __len__(self) -> int:
        return len(self.queries) + len(self.documents)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        return self.tokenised().lengths

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        return self.tokenised().cut

    @property
    def is_tokenised(self) -> bool:
        """Whether all sequences are held as tokens."""
        return self._examples is not None

    def tokenised(self) -> TextExamples | PassageExamples:
        """All Q + N sequences; kept from the first call on."""
        if self._examples is None:
            parts = [self._encode(self.queries, "query")]
            if len(self.documents):
                parts.append(self._encode(self.documents, "document"))
            self._examples = examples_of(join_tokens(parts))
        return self._examples

    def collate(self, indices: Indices) -> SequenceBatch:
        batch = self.tokenised().collate(indices)
        return SequenceBatch(batch.packed, None, batch.index, batch.index < len(self.queries))

    def chunks(self, role: TextRole, size: int = CHUNK) -> Iterator[Chunk]:
        """The queries or the documents in order, `size` at a time; tokenised then and there unless all are."""
        texts, first = (self.queries, 0) if role == "query" else (self.documents, len(self.queries))
        for start in range(0, len(texts), size):
            stop = min(start + size, len(texts))
            if self._examples is not None:
                tokens = cut_out(self._examples.tokens, first + start, first + stop)
            else:
                tokens = self._encode([texts[i] for i in range(start, stop)], role)
            yield Chunk(tokens, role, start)


def join_tokens(parts: Sequence[Texts]) -> Texts:
    """One of several, in order; all whole, or all in passages. (Single texts have no second segment: none is kept.)"""
    if len(parts) == 1:
        return parts[0]
    if isinstance(parts[0], Passages):
        own = [part for part in parts if isinstance(part, Passages)]
        tokens = join_tokens([part.tokens for part in own])
        assert isinstance(tokens, Tokens)
        return Passages(tokens, end_to_end([part.starts for part in own]), np.concatenate([p.spans for p in own]))
    whole = [part for part in parts if isinstance(part, Tokens)]
    return Tokens(
        np.concatenate([part.input_ids for part in whole]),
        end_to_end([part.offsets for part in whole]),
        None,
        np.concatenate([part.full_lengths for part in whole]),
    )


def end_to_end(borders: Sequence[IntArray]) -> IntArray:
    """Borders that each begin at 0 as those of all, one behind the other."""
    starts = np.cumsum([0, *(part[-1] for part in borders)])
    found = [part[:-1] + start for part, start in zip(borders, starts, strict=False)]
    return np.concatenate([*found, starts[-1:]]).astype(np.int64)


def cut_out(tokens: Texts, start: int, stop: int) -> Texts:
    """Examples `start` to `stop`, whole ones as views."""
    if isinstance(tokens, Passages):
        return tokens.select(np.arange(start, stop))
    offsets = tokens.offsets[start : stop + 1]
    ids = tokens.input_ids[offsets[0] : offsets[-1]]
    return Tokens(ids, offsets - offsets[0], None, tokens.full_lengths[start:stop])


def take(tokens: Texts, indices: Indices) -> Texts:
    """Examples at `indices`, in that order, copied."""
    if isinstance(tokens, Passages):
        return tokens.select(indices)
    rows = [tokens.input_ids[tokens.offsets[i] : tokens.offsets[i + 1]] for i in indices]
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    ids = np.concatenate([np.zeros(0, np.int32), *rows])
    return Tokens(ids, offsets, None, tokens.full_lengths[np.asarray(indices, dtype=np.int64)])
