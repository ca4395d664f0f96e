"""Questions to an index: by vectors, by words, or by both, and on request ordered anew by a reranker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modernbert.errors import ConfigError
from tasks.answers import Hit
from tasks.embedding import Embedder
from tasks.search.fuse import Ranking, fuse
from tasks.search.index import Index
from tasks.search.locate import locate
from tasks.search.rerank import Reranker

MODES = ("dense", "text", "hybrid")
#: Documents of each ranking that fusion looks at, at least.
FUSED = 100


@dataclass
class Searcher:
    """An index with what is needed to ask it.

    Args:
        embedder: the model that made the index; None where only words are looked for.
        reranker: orders the first `depth` hits anew.

    Raises:
        ConfigError: another model made the index.
    """

    index: Index
    embedder: Embedder | None = None
    reranker: Reranker | None = None
    depth: int = 100

    def __post_init__(self) -> None:
        if self.embedder is not None:
            self.index.require_model(self.embedder)
        if self.depth < 1:
            raise ConfigError(f"rerank_depth={self.depth}: allowed is 1 or more.")

    def search(
        self, queries: Sequence[str], k: int = 10, mode: str = "dense", advance: Callable[[int], None] | None = None
    ) -> list[list[Hit]]:
        """The k best documents of each query, the best first; `score` is the cosine (dense), BM25 (text), the fused
        ranks (hybrid) or the reranker's. Where documents are split, each hit has the passage that answers best.

        Raises:
            ConfigError: k below 1, an unknown mode.
        """
        if k < 1:
            raise ConfigError(f"k={k}: at least 1 document can be asked for.")
        wanted = max(k, self.depth) if self.reranker else k
        rankings = self.rankings(queries, wanted, mode)
        texts = self.index.engine.texts({name for ranking in rankings for name, _ in ranking})
        hits = [[Hit(name, texts[name], score) for name, score in ranking] for ranking in rankings]
        if self.reranker is not None:
            hits = [self.reranker(query, found) for query, found in zip(queries, hits, strict=True)]
        if advance:
            advance(len(queries))
        hits = [found[:k] for found in hits]
        if self.index.meta.split == "none":
            return hits
        return locate(queries, hits, self.index, None if mode == "text" else self.embedder)

    def rankings(self, queries: Sequence[str], k: int, mode: str) -> list[Ranking]:
        """Ids and scores of the k best documents of each query."""
        if mode not in MODES:
            raise ConfigError(f"mode={mode}: allowed is {', '.join(MODES)}.")
        if not queries:
            return []
        if mode == "text":
            return self.index.engine.text(queries, k)
        if self.embedder is None:
            raise ConfigError(f"mode={mode} needs the model that made the index; without one there is mode=text.")
        deep = k if mode == "dense" else max(k, FUSED)
        dense = self.index.engine.dense(self.embedder.encode(queries, "query"), deep)
        if mode == "dense":
            return dense
        words = self.index.engine.text(queries, deep)
        return [fuse(pair, k) for pair in zip(dense, words, strict=True)]
