"""`modernbert index`: a corpus made searchable, added to, and taken from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from app import bulk, console
from app.compose import plain
from app.progress import tracking
from app.rundir import data_name
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.data import readers
from tasks.data.ranking import Document
from tasks.data.ranking.corpus import corpus_file, read_corpus
from tasks.embedding import Embedder
from tasks.search.index import Index, choose_engine, is_index
from tasks.search.meta import Meta
from tasks.search.model import INDEXES, open_embedder, remembered, reopen


def main(cfg: DictConfig) -> int:
    """Build, extend or shrink an index; returns the exit status."""
    use_threads(cfg.threads)
    settings = plain(cfg)
    ids = [str(name) for name in settings["delete"]]
    if bool(settings["corpus"]) == bool(ids):
        raise ConfigError("give either corpus=<documents> to index, or delete=[id,…] to take documents out.")
    if ids:
        return delete(settings, ids)
    folder = index_folder(settings)
    there = is_index(folder)
    if there:
        require_purpose(folder, bool(settings["add"]))
    elif settings["add"]:
        raise ConfigError(f"add=true, but there is no index in {folder}: leave add out to build one.")
    embedder, model = chosen_model(settings, folder, there)
    by_ray = settings["engine"] == "ray"
    source = settings["corpus"]
    count = bulk.rows_of(bulk.shards(source)) if by_ray else readers.count(corpus_file(source))
    index = Index.open(folder, complete=False) if there else begin(settings, folder, embedder, model, count)
    if there and not index.meta.complete:
        console.note(f"going on with {folder}: {len(index):,} documents are there")
    budget = None if settings["tokens_per_batch"] == "auto" else int(settings["tokens_per_batch"])
    if by_ray:
        embedder = encoded = bulk.encode(settings, folder, embedder, model, budget)
        documents = encoded.documents()
    else:
        documents = read_documents(source, settings["columns"], own_ids=bool(settings["add"]))
    with tracking("encoding documents", count) as advance:
        added = index.add(documents, embedder, budget, advance)
    if by_ray:
        bulk.forget(folder)
    replaced = f", {added.replaced:,} replaced" if added.replaced else ""
    kept = f", {added.kept:,} were there" if added.kept else ""
    done = f"{added.encoded:,} documents encoded{kept}{replaced}"
    console.out().print(f"{done}; the index has {len(index):,}, in {folder}", soft_wrap=True)
    console.out().print(f'search it: modernbert search index={folder} query="…"', soft_wrap=True)
    return 0


def index_folder(settings: Mapping[str, Any]) -> Path:
    """Where the index is or will be."""
    if settings["output"]:
        return Path(settings["output"])
    if settings["run"] is None:
        raise ConfigError("output=<folder> is missing: without run there is no usual place for an index.")
    return Path(settings["run"]) / INDEXES / data_name(settings["corpus"])


def require_purpose(folder: Path, add: bool) -> None:
    """ConfigError where a finished index would be built again, or an unfinished one be added to."""
    complete = Meta.load(folder).complete
    if complete and not add:
        raise ConfigError(
            f"{folder} is a finished index: add=true adds the corpus to it and replaces documents of the same id; for "
            "another index name another output."
        )
    if add and not complete:
        raise ConfigError(f"{folder} is not finished: run the command that began it again, then add.")


def chosen_model(settings: Mapping[str, Any], folder: Path, there: bool) -> tuple[Embedder, dict[str, Any]]:
    """The model that was given, or for an index that is there the one that made it."""
    given = settings["run"] is not None or any(value is not None for value in settings["encoder"].values())
    if there and not given:
        meta = Meta.load(folder)
        return reopen(meta.model, folder, settings["device"]), meta.model
    return open_embedder(settings["run"], settings["encoder"], settings["device"], settings["precision"])


def begin(
    settings: Mapping[str, Any], folder: Path, embedder: Embedder, model: Mapping[str, Any], count: int | None
) -> Index:
    """A new index, its engine chosen by the size of the corpus."""
    asked = "auto" if settings["engine"] == "ray" else settings["engine"]
    engine, note = choose_engine(asked, count, embedder.vector_kind)
    if note:
        console.note(note)
    return Index.create(folder, engine, embedder, remembered(model, folder), settings["corpus"])


def read_documents(source: str, columns: Mapping[str, Any], own_ids: bool) -> Iterator[Document]:
    """The documents of a corpus; the first table's notes are told.

    Args:
        own_ids: refuse a corpus whose ids are its row numbers: added, they would replace other documents.
    """
    told = False
    for table in read_corpus(source, columns):
        if not told:
            told = True
            for note in table.notes:
                console.note(note)
            if own_ids and table.columns["id"] == [str(row) for row in table.rows]:
                raise ConfigError(f"{source} has no column of ids, so what it adds or replaces is open: add one.")
        cells = (table.columns[name] for name in ("id", "title", "text"))
        yield from (Document(*row) for row in zip(*cells, strict=True))


def delete(settings: Mapping[str, Any], ids: list[str]) -> int:
    """Take documents out of an index; no model is needed."""
    if settings["output"] is None:
        raise ConfigError("output=<folder> is missing: which index are the documents taken out of?")
    index = Index.open(settings["output"])
    before = len(index)
    absent = index.delete(ids)
    if absent:
        console.warn(f"{len(absent):,} of {len(ids):,} ids are not in the index: {', '.join(absent[:10])}")
    console.out().print(f"{before - len(index):,} documents taken out; the index has {len(index):,}")
    return 0
