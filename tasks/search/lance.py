"""The engine of large corpora: LanceDB, embedded, on disk, with vectors and full text.

Dense vectors alone. The table's own versions keep a change from counting before meta.json says so.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Sequence
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from modernbert.errors import BackendError, ConfigError
from tasks.data.ranking import Document
from tasks.search.fuse import Ranking
from tasks.search.meta import Borders, Meta, Piece
from tasks.vectors import Vectors

FOLDER, TABLE = "lance", "documents"
#: From this many documents on vectors are found through an index (IVF-PQ); below, comparing all takes under a second.
ANN_ROWS = 200_000
#: Of the cells of that index so many are looked into, and so many times k candidates are compared exactly.
PROBES, REFINE = 40, 20
#: Queries of one scan: 15 times the speed of one by one (50 queries, 30,000 documents, 1 thread).
QUERIES = 256
#: Ids of one condition; a longer one is parsed slowly.
IDS = 500


class LanceEngine:
    """Documents in a LanceDB table of an index folder."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.folder, self.meta = folder / FOLDER, meta

    @cached_property
    def table(self) -> Any:
        """The table as it was at the version that meta.json names."""
        database = connect(self.folder)
        if TABLE not in database.list_tables().tables:
            types = {"id": pa.string(), "text": pa.string(), "vector": pa.list_(pa.float32(), self.meta.dimension)}
            if self.meta.split != "none":
                types["borders"] = pa.list_(pa.int64())
            return database.create_table(TABLE, schema=pa.schema(list(types.items())))
        table = database.open_table(TABLE)
        if self.meta.version is not None and table.version != self.meta.version:
            table.checkout(self.meta.version)
        return table

    # -- changing ------------------------------------------------------------------------------------------

    def put(
        self, documents: Sequence[Document], vectors: Vectors, digest: str, borders: Borders | None = None
    ) -> None:
        """Add documents; their ids are new. `borders` are those of their passages, where they are split."""
        values = vectors.values.to("cpu").float().contiguous().numpy()
        columns = {
            "id": pa.array([document.id for document in documents], pa.string()),
            "text": pa.array([document.full for document in documents], pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), self.meta.dimension),
        }
        if borders is not None:
            columns["borders"] = pa.array(borders, pa.list_(pa.int64()))
        self.table.add(pa.table(columns))
        self.meta.pieces.append(Piece(f"{len(self.meta.pieces):06d}", len(documents), digest))
        self.meta.version = self.table.version

    def remove(self, ids: Collection[str]) -> int:
        """Take documents out; returns how many there were."""
        before = self.table.count_rows()
        for condition in conditions(ids):
            self.table.delete(condition)
        gone = before - self.table.count_rows()
        if gone:
            # Which pieces they were in is not kept: none is taken for whole, and one count holds for all.
            self.meta.pieces = [Piece("rest", before - gone, None)]
        self.meta.version = self.table.version
        return gone

    def tidy(self) -> None:
        """Take back what was written after meta.json was saved, and from now on keep the way back to what is saved."""
        self.table.checkout_latest()
        if self.meta.version == self.table.version:
            return
        if self.meta.version is not None:
            self.table.checkout(self.meta.version)
            self.table.restore()
        self.meta.version = self.table.version
        self.meta.save(self.folder.parent)

    def finish(self) -> None:
        """Index words and, of a very large corpus, vectors; compact the table. Older versions are given up."""
        from lancedb.index import FTS, IvfPq

        self.meta.version = None
        self.meta.save(self.folder.parent)
        there = {index.name for index in self.table.list_indices()}
        if "text_idx" not in there:
            # Every language alike, as in tasks.search.bm25.
            words = FTS(stem=False, remove_stop_words=False, ascii_folding=False, with_position=False)
            self.table.create_index("text", config=words)
        if "vector_idx" not in there and self.table.count_rows() >= ANN_ROWS:
            self.table.create_index("vector", config=IvfPq(distance_type="dot"))
        with warnings.catch_warnings():
            # It warns of other processes that read an older version: nobody else has this folder open for writing.
            warnings.simplefilter("ignore", UserWarning)
            self.table.optimize(cleanup_older_than=timedelta(0))

    # -- searching -----------------------------------------------------------------------------------------

    def ids(self) -> list[str]:
        """Every document's id."""
        found = self.table.search().select(["id"]).limit(max(1, self.table.count_rows())).to_arrow()
        return found.column("id").to_pylist()

    def dense(self, queries: Vectors, k: int) -> list[Ranking]:
        """The k nearest documents of each query; approximate from ANN_ROWS documents on."""
        rankings: list[Ranking] = [[] for _ in range(len(queries))]
        for start in range(0, len(queries), QUERIES):
            asked = queries.select(slice(start, start + QUERIES)).values.to("cpu").float().numpy()
            search = self.table.search(asked, vector_column_name="vector").distance_type("dot")
            found = search.nprobes(PROBES).refine_factor(REFINE).limit(k).select(["id", "_distance"]).to_arrow()
            number = found["query_index"].to_pylist() if len(asked) > 1 else [0] * found.num_rows
            for i, name, distance in zip(number, found["id"].to_pylist(), found["_distance"].to_pylist(), strict=True):
                # LanceDB's distance is 1 less the dot product.
                rankings[start + i].append((name, 1 - distance))
        return [sorted(ranking, key=lambda hit: -hit[1]) for ranking in rankings]

    def text(self, queries: Sequence[str], k: int) -> list[Ranking]:
        """The k best documents of each query by LanceDB's BM25."""
        from lancedb.query import MatchQuery

        rankings: list[Ranking] = []
        for query in queries:
            words = MatchQuery(query, "text")  # type: ignore[call-arg]  # pydantic's dataclass hides the defaults
            search = self.table.search(words, query_type="fts").limit(k).select(["id", "_score"])
            rankings.append([(row["id"], row["_score"]) for row in search.to_arrow().to_pylist()])
        return rankings

    def texts(self, ids: Collection[str]) -> dict[str, str]:
        """The texts of documents by id."""
        return self.cells("text", ids)

    def borders(self, ids: Collection[str]) -> dict[str, list[int]]:
        """The borders of the passages of documents by id."""
        return self.cells("borders", ids)

    def cells(self, column: str, ids: Collection[str]) -> dict[str, Any]:
        """What a column has for documents."""
        found: dict[str, Any] = {}
        for condition in conditions(ids):
            rows = self.table.search().where(condition).select(["id", column]).limit(IDS).to_arrow()
            found |= dict(zip(rows.column("id").to_pylist(), rows.column(column).to_pylist(), strict=True))
        return found


def connect(folder: Path) -> Any:
    """A LanceDB database in a folder.

    Raises:
        BackendError: LanceDB is not installed.
    """
    try:
        import lancedb
    except ImportError as error:
        raise BackendError("LanceDB is not installed: pip install 'modernbert[search]', or engine=exact.") from error
    folder.mkdir(parents=True, exist_ok=True)
    return lancedb.connect(folder)


def require_dense(kind: str) -> None:
    """ConfigError for vectors that only the exact engine compares."""
    if kind != "dense":
        raise ConfigError(f"engine=lance holds dense vectors, this model gives {kind}: use engine=exact.")


def conditions(ids: Collection[str]) -> Iterator[str]:
    """SQL conditions that together name the ids."""
    listed = sorted(ids)
    for start in range(0, len(listed), IDS):
        quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in listed[start : start + IDS])
        yield f"id IN ({quoted})"
