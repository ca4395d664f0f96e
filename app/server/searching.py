"""The index of a server, asked with vectors that the queue has computed. Imports torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tasks.answers import plain_hit
from tasks.data.ranking import TextRole
from tasks.embedding import Embedder
from tasks.search.index import Index
from tasks.search.searcher import Searcher
from tasks.vectors import Kind, Vectors


@dataclass(frozen=True)
class Encoded:
    """In place of an embedder: it has encoded the query already."""

    vectors: Vectors
    embedder: Embedder

    @property
    def kind(self) -> Kind:
        return self.embedder.kind

    @property
    def fingerprint(self) -> str:
        return self.embedder.fingerprint

    def encode(
        self,
        texts: Sequence[str],
        role: TextRole,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] | None = None,
        whole: bool = False,
    ) -> Vectors:
        if role == "query":
            return self.vectors
        return self.embedder.encode(texts, role, tokens_per_batch, advance, whole).to("cpu")


class Finder:
    """Hits of one query.

    Raises:
        ConfigError: no index, an unfinished one, or one that another model made.
    """

    def __init__(self, folder: str, embedder: Embedder) -> None:
        self.index = Index.open(folder)
        self.index.require_model(embedder)
        self.embedder = embedder

    def find(self, query: str, vectors: Vectors, k: int, mode: str) -> list[dict[str, Any]]:
        """The k best documents as {id, text, score}, the best first; with {start, end, passage} where documents are
        split."""
        embedder: Any = Encoded(vectors, self.embedder)
        (hits,) = Searcher(self.index, embedder).search([query], k, mode)
        return [plain_hit(hit) for hit in hits]
