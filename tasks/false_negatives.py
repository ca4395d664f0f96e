"""Documents of a step that would count as negatives and are none: the same text, another text of the same document, a
document that is known as a positive of the query, or (on request) one that scores suspiciously high.

Q queries (one a row), N documents of a step, K known pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.step_rows import StepRows
from tasks.vectors import expand


@dataclass
class Counts:
    """Pairs of a query and a document of a step, and how many of them were left out as negatives, by reason."""

    pairs: int = 0
    same: int = 0
    known: int = 0
    close: int = 0

    def add(self, other: Counts) -> None:
        """Take in those of another step."""
        self.pairs += other.pairs
        self.same += other.same
        self.known += other.known
        self.close += other.close

    def items(self) -> Iterator[tuple[str, int]]:
        """Each reason with its count."""
        return ((name, getattr(self, name)) for name in ("same", "known", "close"))

    def in_words(self) -> str:
        """What was left out, as a phrase."""
        names = {"same": "of the positive's own text", "known": "known as positives", "close": "above the margin"}
        told = [f"{count:,} {names[name]}" for name, count in self.items() if name != "close" or count]
        return f"of {self.pairs:,} pairs of a query and a document, left out as negatives: {', '.join(told)}"


def same_document(rows: StepRows) -> Tensor:
    """(Q, N) bool: documents with the text or the id of the row's positive, the positive itself among them."""
    text, number = rows.document_text, rows.document_id
    same = text[None, :] == text[rows.positive][:, None]
    return same | (number[None, :] == number[rows.positive][:, None])


def known_positives(rows: StepRows, known: Tensor, documents: int) -> Tensor:
    """(Q, N) bool: documents that the training data name as a positive of the query's text.

    Args:
        known: (K,) sorted keys `query text * documents + document text` (see `TupleExamples.known`).
        documents: the factor of these keys.
    """
    found = torch.zeros(len(rows.query_text), len(rows.document_text), dtype=torch.bool, device=known.device)
    first = torch.searchsorted(known, rows.query_text * documents)
    after = torch.searchsorted(known, (rows.query_text + 1) * documents)
    pair, query = expand(first, after - first)  # every known pair of the step's queries
    wanted = known[pair] - rows.query_text[query] * documents
    texts, column = rows.document_text.sort()
    low, high = torch.searchsorted(texts, wanted), torch.searchsorted(texts, wanted, right=True)
    place, of_pair = expand(low, high - low)
    found[query[of_pair], column[place]] = True
    return found


def too_close(scores: Tensor, positive: Tensor, margin: float) -> Tensor:
    """(Q, N) bool: similarities above that of the positive less `margin` (NV-Retriever, arXiv:2407.15831)."""
    scores = scores.detach()
    return scores > scores.gather(1, positive[:, None]) - margin


def masked(rows: StepRows, same: Tensor, known: Tensor, close: Tensor | None) -> tuple[Tensor, Counts]:
    """What is no negative, (Q, N) bool without the positives' own places, and how many pairs for which reason.

    A pair counts once, for the first reason; the row's own positive for none.
    """
    positive = rows.positive[:, None]
    same = same.scatter(1, positive, False)
    known = (known & ~same).scatter(1, positive, False)
    ignored = same | known
    counts = Counts(same.numel(), int(same.sum()), int(known.sum()))
    if close is not None:
        close = (close & ~ignored).scatter(1, positive, False)
        ignored, counts.close = ignored | close, int(close.sum())
    return ignored, counts
