"""The engine of small corpora: shards on disk, every document compared, BM25 in memory.

Vectors of every kind. Q queries, N documents, k results.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tasks.data.ranking import Document
from tasks.search.bm25 import Bm25
from tasks.search.fuse import Ranking
from tasks.search.meta import Borders, Meta, Piece
from tasks.search.shards import read_documents, read_vectors, write_shard
from tasks.vectors import Vectors, top_k

SHARDS = "shards"
#: Vectors up to this many bytes stay in memory from the first search on.
HELD_BYTES = 1 << 28


class ExactEngine:
    """Documents in shards of an index folder. Changes are written at once and count when `meta` is saved."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.folder, self.meta = folder / SHARDS, meta

    # -- changing ------------------------------------------------------------------------------------------

    def put(
        self, documents: Sequence[Document], vectors: Vectors, digest: str, borders: Borders | None = None
    ) -> None:
        """Add documents; their ids are new. `borders` are those of their passages, where they are split."""
        columns = [[document.id for document in documents], [document.full for document in documents], borders]
        self.write(columns, vectors, digest, len(self.meta.pieces))

    def remove(self, ids: Collection[str]) -> int:
        """Take documents out; returns how many there were. Shards that held one are written anew without it."""
        gone = 0
        for place, piece in reversed(list(enumerate(self.meta.pieces))):
            columns = read_documents(self.folder / piece.name, self.columns)
            names = columns[0]
            kept = [i for i, name in enumerate(names) if name not in ids]
            if len(kept) == len(names):
                continue
            gone += len(names) - len(kept)
            del self.meta.pieces[place]
            if kept:
                vectors = read_vectors(self.folder / piece.name, self.meta.kind, self.meta.dimension).select(kept)
                self.write([[column[i] for i in kept] for column in columns], vectors, None, place)
        self.forget()
        return gone

    @property
    def columns(self) -> tuple[str, ...]:
        """What a shard keeps of documents."""
        return ("id", "text") if self.meta.split == "none" else ("id", "text", "borders")

    def write(self, columns: Sequence[Any], vectors: Vectors, digest: str | None, place: int) -> None:
        """A shard under a number that none had, so that what meta.json on disk names stays as it is."""
        ids, texts, *borders = columns
        numbers = [int(path.name) for path in self.folder.glob("*") if path.name.isdigit()]
        name = f"{max(numbers, default=-1) + 1:06d}"
        write_shard(self.folder / name, ids, texts, vectors, borders[0] if borders else None)
        self.meta.pieces.insert(place, Piece(name, len(ids), digest))
        self.forget()

    def tidy(self) -> None:
        """Delete the shards that meta.json does not name: replaced ones, and those of a build that was killed."""
        named = {piece.name for piece in self.meta.pieces}
        for path in self.folder.glob("*"):
            if path.name not in named:
                shutil.rmtree(path)

    def finish(self) -> None:
        """Nothing is left to do once all documents are in."""

    def forget(self) -> None:
        for name in ("names", "bm25", "held"):
            self.__dict__.pop(name, None)

    # -- searching -----------------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """Every document's id, in the order of the pieces."""
        return self.names

    def dense(self, queries: Vectors, k: int) -> list[Ranking]:
        """The k nearest documents of each query."""
        return self.named(*top_k(queries, self.chunks(), k))

    def text(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """The k best documents of each query by BM25."""
        return self.named(*self.bm25.rank(queries, k))

    def texts(self, ids: Collection[str]) -> dict[str, str]:
        """The texts of documents by id; reads the shards that hold one."""
        return self.cells("text", set(ids))

    def borders(self, ids: Collection[str]) -> dict[str, list[int]]:
        """The borders of the passages of documents by id."""
        return self.cells("borders", set(ids))

    def cells(self, column: str, ids: set[str]) -> dict[str, Any]:
        """What a column has for documents."""
        found: dict[str, Any] = {}
        for piece, here in self.places(ids):
            (cells,) = read_documents(self.folder / piece.name, [column])
            found |= {name: cells[i] for name, i in here.items()}
        return found

    def vectors(self, ids: Collection[str]) -> dict[str, Vectors]:
        """The vectors of documents by id."""
        found: dict[str, Vectors] = {}
        for piece, here in self.places(set(ids)):
            vectors = self.read(piece)
            found |= {name: vectors.select([i]) for name, i in here.items()}
        return found

    def places(self, ids: set[str]) -> Iterator[tuple[Piece, dict[str, int]]]:
        """The shards that hold documents, and the place of each there."""
        start = 0
        for piece in self.meta.pieces:
            names = self.names[start : start + piece.count]
            here = {name: i for i, name in enumerate(names) if name in ids}
            if here:
                yield piece, here
            start += piece.count

    def chunks(self) -> Iterator[tuple[Tensor, Vectors]]:
        """Numbers and vectors of all documents, a shard at a time."""
        if self.held is not None:
            yield torch.arange(len(self.held)), self.held
            return
        start = 0
        for piece in self.meta.pieces:
            yield torch.arange(start, start + piece.count), self.read(piece)
            start += piece.count

    def read(self, piece: Piece) -> Vectors:
        return read_vectors(self.folder / piece.name, self.meta.kind, self.meta.dimension)

    def named(self, scores: Tensor, numbers: Tensor) -> list[Ranking]:
        """Scores and numbers (Q, k) as rankings of ids."""
        pairs = zip(scores.tolist(), numbers.tolist(), strict=True)
        return [[(self.names[n], s) for s, n in zip(*row, strict=True) if n >= 0] for row in pairs]

    @cached_property
    def names(self) -> list[str]:
        return [name for piece in self.meta.pieces for name in read_documents(self.folder / piece.name, ["id"])[0]]

    @cached_property
    def held(self) -> Vectors | None:
        """All vectors in memory, where they are few."""
        size = sum((self.folder / piece.name / "vectors.safetensors").stat().st_size for piece in self.meta.pieces)
        if not self.meta.pieces or size > HELD_BYTES:
            return None
        return Vectors.cat([self.read(piece) for piece in self.meta.pieces])

    @cached_property
    def bm25(self) -> Bm25:
        pieces = self.meta.pieces
        return Bm25([text for piece in pieces for text in read_documents(self.folder / piece.name, ["text"])[0]])
