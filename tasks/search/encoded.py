"""Documents whose vectors are there already, as an index takes them: pieces that other processes have written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

import pyarrow.parquet as pq

from tasks.data.ranking import Document
from tasks.embedding import Embedder
from tasks.search.shards import DOCUMENTS, read_documents, read_vectors
from tasks.vectors import Vectors


class Encoded(Embedder):
    """In the place of the model that made the vectors, for one pass over `documents`.

    Args:
        embedder: that model.
        parts: folders of `write_shard`, in the order of the documents.
    """

    def __init__(self, embedder: Embedder, parts: Sequence[Path]) -> None:
        super().__init__(embedder.task, embedder.tokenizer)
        self.parts = parts
        self.ends = list(accumulate(int(pq.read_metadata(part / DOCUMENTS).num_rows) for part in parts))
        self.given = 0

    def documents(self) -> Iterator[Document]:
        """All documents; a title stands in their text."""
        for part in self.parts:
            for name, text in zip(*read_documents(part), strict=True):
                self.given += 1
                yield Document(name, "", text)

    def encode_passages(
        self,
        texts: Sequence[str],
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> tuple[Vectors, list[list[int]] | None]:
        """The vectors of the documents that were given last, which `texts` must be, and the borders of their passages.

        `advance` is not told: encoding was what took the time.
        """
        first, last = self.given - len(texts), self.given
        vectors: list[Vectors] = []
        borders: list[list[int]] = []
        for part, end, begin in zip(self.parts, self.ends, [0, *self.ends], strict=False):
            if begin < last and first < end:
                span = slice(max(first, begin) - begin, min(last, end) - begin)
                vectors.append(read_vectors(part, self.vector_kind, self.dimension).select(span))
                if self.split != "none":
                    borders += read_documents(part, ["borders"])[0][span]
        return Vectors.cat(vectors), borders if self.split != "none" else None
