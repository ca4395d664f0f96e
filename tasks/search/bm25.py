"""BM25, the floor that every ranking is measured against (Robertson and Zaragoza 2009), by the library bm25s.

Words are runs of letters and digits in lower case, of any language: nothing is stemmed and no word is left out, as that
would be right for one language and wrong for the next. On scifact it reaches nDCG@10 0.665, on cranfield 0.381.

Q queries, N documents, k results.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import bm25s
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from modernbert.errors import ConfigError

WORD = r"(?u)\w+"
#: How soon a repeated word stops counting, and how much length does: the defaults of Lucene's successors and bm25s.
K1, B = 1.5, 0.75


class Bm25:
    """An index in memory over documents, which are numbered in their order."""

    def __init__(self, documents: Sequence[str]) -> None:
        self.size = len(documents)
        tokens = bm25s.tokenize(list(documents), stopwords=None, token_pattern=WORD, show_progress=False)
        self.model = bm25s.BM25(k1=K1, b=B)
        self.has_words = any(len(ids) for ids in tokens.ids)  # bm25s refuses a corpus without a word
        if self.has_words:
            self.model.index(tokens, show_progress=False)

    def scores(self, query: str) -> NDArray[np.float32]:
        """(N,) the score of every document; 0 where it shares no word with the query."""
        words = re.findall(WORD, query.lower())
        if not words or not self.has_words:
            return np.zeros(self.size, dtype=np.float32)
        return self.model.get_scores(words)

    def rank(
        self,
        queries: Sequence[str],
        k: int,
        exclude: Sequence[Sequence[int]] | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The k best documents of each query, the best first; of equal scores the lower number.

        Args:
            exclude: numbers of documents that a query must not find.

        Returns:
            scores (Q, k) fp32 and numbers (Q, k) int64; -inf and -1 where fewer documents share a word with the query.

        Raises:
            ConfigError: k below 1.
        """
        if k < 1:
            raise ConfigError(f"k={k}: at least 1 document can be asked for")
        best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        found = np.full((len(queries), k), -1, dtype=np.int64)
        for row, query in enumerate(queries):
            scores = self.scores(query)
            if exclude is not None:
                scores[list(exclude[row])] = 0
            chosen = strongest(scores, k)
            best[row, : len(chosen)], found[row, : len(chosen)] = scores[chosen], chosen
            if advance:
                advance(1)
        return torch.from_numpy(best), torch.from_numpy(found)


def bm25_ranking(
    queries: Sequence[str], documents: Sequence[str], k: int, advance: Callable[[int], None] | None = None
) -> tuple[Tensor, Tensor]:
    """Scores (Q, k) and numbers (Q, k) of the k best documents of each query; see `Bm25.rank`."""
    return Bm25(documents).rank(queries, k, advance=advance)


def strongest(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the k highest scores above 0, the highest first, of equal ones the lower position."""
    if k < len(scores):
        # All that reach the k-th score, so that which of equal ones is taken does not depend on the partition.
        border = max(float(np.partition(scores, len(scores) - k)[len(scores) - k]), 0.0)
        candidates = np.flatnonzero((scores >= border) & (scores > 0))
    else:
        candidates = np.flatnonzero(scores > 0)
    return candidates[np.argsort(-scores[candidates], kind="stable")][:k]
