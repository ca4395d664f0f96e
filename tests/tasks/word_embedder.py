"""An embedder whose vectors are known beforehand, for tests of what is done with vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tasks.vectors import Vectors, normalise

WIDTH = 64


class WordEmbedder:
    """An embedder of vectors that are known beforehand, one direction a word: what is under test is the search."""

    def __init__(self, kind: str = "dense", fingerprint: str = "words") -> None:
        self.kind, self.fingerprint, self.dimension = kind, fingerprint, WIDTH
        self.vector_kind, self.split = kind, "none"
        self.encoded: list[str] = []

    def encode_passages(
        self, texts: Sequence[str], tokens_per_batch: Any = None, advance: Any = None
    ) -> tuple[Vectors, None]:
        return self.encode(texts, "document", tokens_per_batch, advance), None

    def encode(self, texts: Sequence[str], role: str, tokens_per_batch: Any = None, advance: Any = None) -> Vectors:
        self.encoded += list(texts) if role == "document" else []
        rows = [[sum(map(ord, word)) % WIDTH for word in text.lower().split()] or [0] for text in texts]
        if self.kind == "multi_vector":
            cu = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
            return Vectors("multi_vector", torch.eye(WIDTH)[[place for row in rows for place in row]], cu)
        values = torch.zeros(len(rows), WIDTH)
        for i, row in enumerate(rows):
            for place in row:
                values[i, place] += 1
        return Vectors(self.kind, values if self.kind == "sparse" else normalise(values))
