"""An index: a folder with the vectors and texts of a corpus, made by one model, that grows and shrinks by id.

Documents are encoded in pieces. A piece counts when meta.json names it, so a build that is killed goes on where it was,
and a piece is known by the ids and texts it was made of.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from modernbert.errors import ConfigError, DataError
from tasks.data.ranking import Document
from tasks.embedding import Embedder
from tasks.search.exact import ExactEngine
from tasks.search.fuse import Ranking
from tasks.search.lance import LanceEngine, require_dense
from tasks.search.meta import META, Borders, Meta, digest_of
from tasks.vectors import Vectors

#: Documents of a piece: at 16 a second (2 cores) a kill costs a minute, and like lengths still meet.
PIECE = 1024
#: From this many documents on engine=auto takes LanceDB: below, comparing all of them takes some milliseconds.
LARGE = 20_000
ENGINES = ("auto", "exact", "lance")


class Engine(Protocol):
    """What holds the documents of an index; see `ExactEngine` for what each does."""

    def put(
        self, documents: Sequence[Document], vectors: Vectors, digest: str, borders: Borders | None = None
    ) -> None: ...
    def remove(self, ids: set[str]) -> int: ...
    def tidy(self) -> None: ...
    def finish(self) -> None: ...
    def ids(self) -> list[str]: ...
    def dense(self, queries: Vectors, k: int) -> list[Ranking]: ...
    def text(self, queries: Sequence[str], k: int) -> list[Ranking]: ...
    def texts(self, ids: set[str]) -> dict[str, str]: ...
    def borders(self, ids: set[str]) -> dict[str, list[int]]: ...


@dataclass
class Added:
    """What became of a corpus: documents encoded, found as they were, and put in the place of older ones."""

    encoded: int = 0
    kept: int = 0
    replaced: int = 0


class Index:
    """An index folder. `create` begins one, `open` reads one."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.folder, self.meta = folder, meta
        self.engine: Engine = LanceEngine(folder, meta) if meta.engine == "lance" else ExactEngine(folder, meta)

    def __len__(self) -> int:
        return self.meta.count

    @classmethod
    def create(cls, folder: Path, engine: str, embedder: Embedder, model: dict[str, Any], source: str) -> Index:
        """Begin an index in a folder that is not there or empty.

        Args:
            engine: exact or lance (see `choose_engine`).

        Raises:
            ConfigError: the folder holds something, or LanceDB is asked for vectors it has no place for.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"output={folder} is there and is no index: name a new folder.")
        if engine == "lance":
            require_dense(embedder.vector_kind)
        kind, size, fingerprint = embedder.vector_kind, embedder.dimension, embedder.fingerprint
        meta = Meta(engine, kind, size, fingerprint, model, source, split=embedder.split)
        folder.mkdir(parents=True, exist_ok=True)
        meta.save(folder)
        return cls(folder, meta)

    @classmethod
    def open(cls, folder: str | Path, complete: bool = True) -> Index:
        """Read an index.

        Args:
            complete: refuse one whose first build was not finished.

        Raises:
            ConfigError: no index, an unfinished one, one of a newer version.
        """
        meta = Meta.load(Path(folder))
        if complete and not meta.complete:
            raise ConfigError(
                f"index={folder} is not finished ({meta.count:,} documents so far): run the same `modernbert index` "
                "command again, it goes on where it stopped."
            )
        return cls(Path(folder), meta)

    def require_model(self, embedder: Embedder) -> None:
        """ConfigError unless this very model, with its prefixes, made the index: other vectors mean something else."""
        if embedder.fingerprint != self.meta.fingerprint:
            raise ConfigError(
                f"index={self.folder} was made by another model ({described(self.meta.model)}; fingerprint "
                f"{self.meta.fingerprint[:12]}, this one has {embedder.fingerprint[:12]}). Search it with that model, "
                "or build an index with this one."
            )

    def add(
        self,
        documents: Iterable[Document],
        embedder: Embedder,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Added:
        """Encode and add a corpus; one of the same id is replaced. What was added before a kill is not encoded again.

        Raises:
            ConfigError: another model made the index.
            DataError: an id comes twice, or an unfinished build began with other documents.
        """
        self.require_model(embedder)
        self.engine.tidy()
        done, building = Added(), not self.meta.complete
        known = [piece.digest for piece in self.meta.pieces]
        held, seen = set(self.engine.ids()), set[str]()
        for number, part in enumerate(pieces(documents)):
            check_ids(part, seen)
            digest = digest_of(part)
            if building and number < len(known) and known[number] != digest:
                raise DataError(
                    f"index={self.folder} was begun with other documents ({self.meta.source}): from document "
                    f"{number * PIECE + 1:,} on they differ. Delete the folder, or name another output."
                )
            if digest in known:
                done.kept += len(part)
                if advance:
                    advance(len(part))
            else:
                texts = [document.full for document in part]
                vectors, borders = embedder.encode_passages(texts, tokens_per_batch, advance)
                if replaced := {document.id for document in part} & held:
                    done.replaced += self.engine.remove(replaced)
                self.engine.put(part, vectors, digest, borders)
                self.meta.save(self.folder)
                self.engine.tidy()
                done.encoded += len(part)
        if not seen and building:
            raise DataError(f"{self.meta.source} has no documents: an index needs at least one.")
        self.finish()
        return done

    def delete(self, ids: Iterable[str]) -> list[str]:
        """Take documents out by id; returns the ids that were not there."""
        asked = list(dict.fromkeys(ids))
        self.engine.tidy()
        there = set(self.engine.ids())
        if found := there & set(asked):
            self.engine.remove(found)
            self.meta.save(self.folder)
            self.engine.tidy()
            self.finish()
        return [name for name in asked if name not in there]

    def finish(self) -> None:
        self.engine.finish()
        self.meta.complete = True
        self.meta.save(self.folder)


def choose_engine(asked: str, documents: int | None, kind: str) -> tuple[str, str | None]:
    """exact or lance, and a sentence where the choice is worth telling.

    Raises:
        ConfigError: an unknown engine, or lance for vectors that it has no place for.
    """
    if asked not in ENGINES:
        raise ConfigError(f"engine={asked}: allowed is {', '.join(ENGINES)}.")
    if asked == "lance":
        require_dense(kind)
    if asked != "auto":
        return asked, None
    if documents is None or documents < LARGE:
        return "exact", None
    if kind != "dense":
        return "exact", f"{documents:,} documents of {kind} vectors: every search compares all of them."
    if importlib.util.find_spec("lancedb") is None:
        return "exact", (
            f"{documents:,} documents without LanceDB: every search compares all of them. "
            "For an index on disk: pip install 'modernbert[search]'."
        )
    return "lance", f"{documents:,} documents: engine=lance (LanceDB)."


def pieces(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """PIECE documents at a time."""
    stream = iter(documents)
    while part := list(islice(stream, PIECE)):
        yield part


def check_ids(part: Sequence[Document], seen: set[str]) -> None:
    """DataError for an id that came before; an id is what a hit is told by."""
    for document in part:
        if document.id in seen:
            raise DataError(f"document id {document.id!r} comes twice: every document needs an id of its own.")
        seen.add(document.id)


def described(model: dict[str, Any]) -> str:
    """A model as it was given."""
    return f"run={model['run']}" if "run" in model else f"encoder.source={model['encoder']['source']}"


def is_index(folder: Path) -> bool:
    return (folder / META).is_file()
