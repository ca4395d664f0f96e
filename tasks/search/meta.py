"""meta.json of an index: which model made it, of what, and which pieces of it are whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modernbert.errors import ConfigError
from tasks.data.ranking import Document
from tasks.run import write_json

#: Version of meta.json; a reader refuses a higher one.
FORMAT = 2
#: Of each document the start and end of its passages, one after another.
Borders = Sequence[Sequence[int]]
META = "meta.json"


@dataclass
class Piece:
    """Documents that were encoded and written together: `name` of their shard, and what they were made of."""

    name: str
    count: int
    digest: str | None  # None once documents of it were deleted


@dataclass
class Meta:
    """What is known of an index. Only pieces that stand here belong to it.

    Args:
        engine: exact or lance.
        kind, dimension, fingerprint: of the model's vectors (see `tasks.embedding.Embedder`).
        model: how to load that model again: {"run": folder} or {"encoder": arguments of `Embedder.from_encoder`}.
        source: the corpus that it was begun with.
        complete: False while a first build is under way.
        version: of the LanceDB table that belongs to these pieces; None where the newest one does.
        split: where the model splits documents; not none: the borders of passages are kept.
    """

    engine: str
    kind: str
    dimension: int
    fingerprint: str
    model: dict[str, Any]
    source: str
    pieces: list[Piece] = field(default_factory=list)
    complete: bool = False
    version: int | None = None
    split: str = "none"

    @property
    def count(self) -> int:
        return sum(piece.count for piece in self.pieces)

    def save(self, folder: Path) -> None:
        """Beside and renamed: the moment at which a change of the index counts."""
        write_json(folder / META, {"format": FORMAT, **asdict(self)})

    @classmethod
    def load(cls, folder: Path) -> Meta:
        """Raises ConfigError where there is no index, or one of a newer version."""
        file = folder / META
        if not file.is_file():
            raise ConfigError(f"index={folder}: there is no {META}, so it is no index. `modernbert index` makes one.")
        found = json.loads(file.read_text(encoding="utf-8"))
        if found.pop("format", 0) > FORMAT:
            raise ConfigError(f"index={folder} was written by a newer modernbert: upgrade first.")
        return cls(**found | {"pieces": [Piece(**piece) for piece in found["pieces"]]})


def digest_of(documents: Iterable[Document]) -> str:
    """SHA-256 of ids and texts, in order."""
    found = hashlib.sha256()
    for document in documents:
        found.update(json.dumps([document.id, document.full], ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return found.hexdigest()
