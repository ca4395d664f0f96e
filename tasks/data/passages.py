"""Texts in passages: split at borders of their own, each passage a sequence, all passages of a text together.

Split, encode and aggregate (Hu et al. 2022, "Tackling Long Code Search", arXiv:2208.11271). What becomes of the vectors
of a text's passages is the task's affair. A passage is encoded as a text of its own, prefix included.

N texts, W passages, B texts of a batch, T tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modernbert.packing import Packed
from tasks.data.borders import Split, split_text, windows_of
from tasks.data.encode import plain_backend
from tasks.data.examples import Batch, Indices, TextExamples
from tasks.data.layout import IntArray, ranges
from tasks.data.tokens import Tokens
from tasks.data.windows import WindowExamples

log = logging.getLogger(__name__)

Encode = Callable[[Sequence[str]], Tokens]
#: A window can take some tokens more by itself than within its text: up to ROUNDS times it is cut anew, SLACK tokens
#: shorter at first, twice as many each time.
ROUNDS, SLACK = 4, 2


@dataclass(frozen=True)
class Passages:
    """N texts as the tokens of their W passages; in place of `Tokens` where texts are split.

    Attributes:
        tokens: of the passages.
        starts: (N+1,) where each text's passages begin.
        spans: (W, 2) characters [start, end) of each passage in its text.
    """

    tokens: Tokens
    starts: IntArray
    spans: IntArray

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(N,) tokens of each text, those of all its passages."""
        return np.diff(self.tokens.offsets[self.starts]).astype(np.int32)

    @property
    def full_lengths(self) -> npt.NDArray[np.int32]:
        """(N,) the same before anything was cut: of a passage that no window could make short enough."""
        return np.add.reduceat(self.tokens.full_lengths, self.starts[:-1]).astype(np.int32)

    def borders(self) -> list[list[int]]:
        """Of each text the start and end of its passages, one after another."""
        ends = zip(self.starts[:-1].tolist(), self.starts[1:].tolist(), strict=True)
        return [self.spans[start:stop].reshape(-1).tolist() for start, stop in ends]

    def select(self, indices: Indices) -> Passages:
        """Texts at `indices`, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        counts = self.starts[index + 1] - self.starts[index]
        which = ranges(self.starts[index], counts)
        lengths = self.tokens.lengths.astype(np.int64)[which]
        ids = self.tokens.input_ids[ranges(self.tokens.offsets[which], lengths)]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        tokens = Tokens(ids, offsets, None, self.tokens.full_lengths[which])
        return Passages(tokens, np.concatenate([[0], np.cumsum(counts)]), self.spans[which])


def whole_texts(tokens: Tokens, texts: Sequence[str]) -> Passages:
    """Texts of one passage each, as queries are."""
    spans = np.array([(0, len(text)) for text in texts], dtype=np.int64).reshape(-1, 2)
    return Passages(tokens, np.arange(len(tokens) + 1), spans)


def split_texts(
    tokenizer: Any, texts: Sequence[str], how: Split, limit: int, overlap: int, encode: Encode
) -> Passages:
    """Texts in passages that fit the model; it is logged where a text could not be split as asked.

    Args:
        limit: most tokens of a passage, special ones and prefix included.
        overlap: tokens that windows of a long passage share.
        encode: passages to tokens, prefix added, cut at `limit`.
    """
    found = [split_text(text, how) for text in texts]
    tell_odd(texts, [number for number, (_, parsed) in enumerate(found) if not parsed])
    passages = [(number, span) for number, (spans, _) in enumerate(found) for span in spans]
    backend = plain_backend(tokenizer)
    tokens = encode(cut_out(texts, passages))
    for attempt in range(ROUNDS):
        long = set(np.flatnonzero(tokens.full_lengths > tokens.lengths).tolist())
        if not long:
            break
        taken = int(encode(["a"]).lengths[0]) - 1  # by special tokens and the prefix
        room = limit - taken - (SLACK << attempt)
        if room <= overlap:
            break  # `cut` says so
        passages = [
            (number, part)
            for place, (number, span) in enumerate(passages)
            for part in (windows_of(backend, texts[number], span, room, overlap) if place in long else [span])
        ]
        tokens = encode(cut_out(texts, passages))
    counts = np.bincount([number for number, _ in passages], minlength=len(texts))
    spans = np.array([span for _, span in passages], dtype=np.int64)
    return Passages(tokens, np.concatenate([[0], np.cumsum(counts)]), spans)


def cut_out(texts: Sequence[str], passages: Sequence[tuple[int, tuple[int, int]]]) -> list[str]:
    """The text of each passage, which is the number of a text and a span there."""
    return [texts[number][start:end] for number, (start, end) in passages]


def tell_odd(texts: Sequence[str], odd: Sequence[int]) -> None:
    """Log which texts are split otherwise than asked."""
    if odd:
        log.warning(
            "%d of %d documents are not Python and are split at blank lines; the first begins with %r",
            len(odd), len(texts), " ".join(texts[odd[0]][:60].split()),
        )  # fmt: skip


@dataclass(frozen=True)
class PassagePack(Packed):
    """A pack whose sequences are passages; text b has the sequences `cu_passages[b]` to `cu_passages[b + 1]`."""

    cu_passages: Tensor | None = None  # (B+1,) int64; None, which dataclasses ask for, is never given

    def to(self, device: torch.device | str) -> PassagePack:
        """The same pack on another device."""
        plain, borders = super().to(device), self.cu_passages
        assert borders is not None
        moved = borders.to(device, non_blocking=True)
        return PassagePack(plain.input_ids, plain.cu_seqlens, plain.max_seqlen, plain.token_type_ids, moved)


def passage_borders(packed: Packed) -> Tensor | None:
    """(B+1,) borders of the texts of a pack, in sequences; None where each sequence is a text."""
    return packed.cu_passages if isinstance(packed, PassagePack) else None


class PassageExamples:
    """Texts in passages as `TextExamples`; a batch's pack is a `PassagePack`."""

    def __init__(self, passages: Passages) -> None:
        self.tokens = passages
        self.windows = WindowExamples(passages.tokens, passages.starts, "max")
        self.max_seqlen = self.windows.max_seqlen

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        return self.tokens.lengths

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        return self.tokens.full_lengths > self.tokens.lengths

    def __len__(self) -> int:
        return len(self.tokens)

    def collate(self, indices: Indices) -> Batch:
        """The texts at `indices`, in that order."""
        batch = self.windows.collate(indices)
        plain = batch.packed
        packed = PassagePack(
            plain.input_ids, plain.cu_seqlens, plain.max_seqlen, plain.token_type_ids, batch.cu_windows
        )
        return Batch(packed, None, batch.index)


def examples_of(tokens: Tokens | Passages) -> TextExamples | PassageExamples:
    """Texts to be collated, whole or in passages."""
    return PassageExamples(tokens) if isinstance(tokens, Passages) else TextExamples(tokens)
