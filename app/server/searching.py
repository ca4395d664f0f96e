"""The index of a server, asked with vectors that the queue has computed. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.embedding import Embedder
from tasks.search.index import Index
from tasks.search.searcher import Searcher
from tasks.vectors import Vectors


@dataclass(frozen=True)
class Encoded:
    """In place of an embedder: it has encoded already."""

    vectors: Vectors
    fingerprint: str

    def encode(
        self,
        texts: Sequence[str],
        role: str,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Vectors:
        return self.vectors


class Finder:
    """Hits of one query.

    Raises:
        ConfigError: no index, an unfinished one, or one that another model made.
    """

    def __init__(self, folder: str, embedder: Embedder) -> None:
        self.index = Index.open(folder)
        self.index.require_model(embedder)
        self.fingerprint = embedder.fingerprint

    def find(self, query: str, vectors: Vectors, k: int, mode: str) -> list[dict[str, Any]]:
        """The k best documents as {id, text, score}, the best first."""
        embedder: Any = Encoded(vectors, self.fingerprint)
        (hits,) = Searcher(self.index, embedder).search([query], k, mode)
        return [vars(hit) for hit in hits]
