"""`modernbert search`: a table of hits for one query, or a file of hits for many."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.table import Table as Drawn
from rich.text import Text

from app import console
from app.compose import plain
from app.progress import tracking
from app.threads import use_threads
from modernbert.errors import ConfigError, DataError
from tasks.answers import Hit
from tasks.comparison import shortened
from tasks.data import readers
from tasks.data.ranking.columns import QUERY, QUERY_ID
from tasks.data.ranking.runs import write_run
from tasks.data.schema import map_columns
from tasks.data.writers import open_writer
from tasks.embedding import Embedder
from tasks.run import Run, has_text
from tasks.search.index import Index
from tasks.search.model import embedder_of_run, index_of_run, reopen
from tasks.search.passage import WIDTH, matching_passages
from tasks.search.rerank import Reranker
from tasks.search.searcher import Searcher

#: Queries answered at a time.
CHUNK = 512
RUN_FILES = (".trec", ".run")


def main(cfg: DictConfig) -> int:
    """Answer `cfg.query` or the queries of `cfg.input`; returns the exit status."""
    use_threads(cfg.threads)
    settings = plain(cfg)
    if (settings["query"] is None) == (settings["input"] is None):
        raise ConfigError('give one query, as in modernbert search index=… "how do I …", or input=<file of queries>.')
    if (settings["input"] is None) != (settings["output"] is None):
        raise ConfigError("input=<file of queries> and output=<file of hits> go together.")
    query = None if settings["query"] is None else str(settings["query"])
    if query is not None and not query.strip():
        raise ConfigError("the query is empty: say what to look for.")
    searcher = open_searcher(settings)
    if query is None:
        return search_file(searcher, settings)
    (hits,) = searcher.search([query], settings["k"], settings["mode"])
    show(query, hits, searcher)
    return 0


def open_searcher(settings: Mapping[str, Any]) -> Searcher:
    """The index, and of its model and a reranker what the mode needs."""
    if settings["index"] is None and settings["run"] is None:
        raise ConfigError("which index? Give index=<folder>, or run=<folder> for the one in that run.")
    folder = Path(settings["index"]) if settings["index"] else index_of_run(settings["run"])
    index = Index.open(folder)
    embedder = None
    if settings["mode"] != "text":
        given = settings["run"]
        embedder = (
            embedder_of_run(given, settings["device"], index.meta.model["precision"])
            if given
            else reopen(index.meta.model, folder, settings["device"])
        )
    reranker = Reranker(Run.load(settings["rerank"], settings["device"])) if settings["rerank"] else None
    return Searcher(index, embedder, reranker, settings["rerank_depth"])


def show(query: str, hits: Sequence[Hit], searcher: Searcher) -> None:
    """A table a person reads: rank, score, id, and the passage of the text that matches."""
    if not hits:
        console.out().print(Text(f"nothing found for {query!r}"))
        return
    found = shown_passages(query, hits, searcher.embedder)
    drawn = Drawn(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    drawn.add_column("", justify="right", style="dim")
    drawn.add_column("score", justify="right")
    drawn.add_column("id", overflow="fold", max_width=28)
    drawn.add_column("text", overflow="fold", ratio=1)
    for rank, (hit, passage) in enumerate(zip(hits, found, strict=True), start=1):
        drawn.add_row(str(rank), f"{hit.score:.3f}", Text(hit.id), Text(passage))
    console.out().print(drawn)


def shown_passages(query: str, hits: Sequence[Hit], embedder: Embedder | None) -> list[str]:
    """What is shown of each hit: its passage with the characters it is at, or a part of it that matches."""
    if all(hit.passage is None for hit in hits):
        return matching_passages(query, [hit.text for hit in hits], embedder)
    lines = [" ".join((hit.passage or "").split()) for hit in hits]
    return [
        f"[{hit.start}:{hit.end}] {shortened(line, 2 * WIDTH)}" for hit, line in zip(hits, lines, strict=True)
    ]


def search_file(searcher: Searcher, settings: Mapping[str, Any]) -> int:
    """Hits of every query of a file, in its order: a row a hit, or a TREC run."""
    source, output = settings["input"], Path(settings["output"])
    if output.resolve() == Path(source).resolve():
        raise ConfigError(f"output={output} is the input file: name another file, nothing is overwritten.")
    queries = list(read_queries(source, settings["columns"]))
    output.parent.mkdir(parents=True, exist_ok=True)
    parts = (queries[start : start + CHUNK] for start in range(0, len(queries), CHUNK))
    with tracking("searching", len(queries)) as advance:
        answered = (
            (part, searcher.search([q for _, q in part], settings["k"], settings["mode"], advance)) for part in parts
        )
        count = write_hits(output, answered, searcher.index.meta.split != "none")
    console.out().print(f"{count:,} hits of {len(queries):,} queries, in {output}")
    return 0


def write_hits(
    output: Path, answered: Iterator[tuple[Sequence[tuple[str, str]], list[list[Hit]]]], located: bool = False
) -> int:
    """Write rankings as they come; returns the number of hits.

    Args:
        located: hits have passages.
    """
    if output.suffix in RUN_FILES:
        run = [
            (name, [(hit.id, hit.score) for hit in hits])
            for part, found in answered
            for (name, _), hits in zip(part, found, strict=True)
        ]
        write_run(output, run, "modernbert")
        return sum(len(ranking) for _, ranking in run)
    count = 0
    with open_writer(output) as writer:
        for part, found in answered:
            rows = [
                (name, query, rank, hit.score, hit.id, hit.text, hit.start, hit.end, hit.passage)
                for (name, query), hits in zip(part, found, strict=True)
                for rank, hit in enumerate(hits, start=1)
            ]
            names = ("query_id", "query", "rank", "score", "id", "text", "start", "end", "passage")
            columns = zip(*rows, strict=True) if rows else ([] for _ in names)
            cells = {name: list(column) for name, column in zip(names, columns, strict=True)}
            writer.write({name: cells[name] for name in (names if located else names[:6])})
            count += len(rows)
    return count


def read_queries(source: str, given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Ids and texts of queries; without ids the row is the id.

    Raises:
        DataError: rows without a query.
    """
    table = readers.read(source)
    mapping, notes = map_columns(table, (QUERY, QUERY_ID), given)
    for note in [*table.notes, *notes]:
        console.note(note)
    queries = table.columns[mapping["query"]]
    names = table.columns[mapping["query_id"]] if "query_id" in mapping else table.rows
    empty = [row for row, query in zip(table.rows, queries, strict=True) if not has_text(query)]
    if empty:
        raise DataError(f"{source}: rows {', '.join(map(str, empty[:10]))} have no query: fill or delete them.")
    yield from ((str(name), query) for name, query in zip(names, queries, strict=True))
