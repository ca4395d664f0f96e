"""`modernbert bench twostage`: retrieve, then rerank the first k, beside BM25 and the retriever alone.

Quality is over all queries. Latency is that of one query at a time, from its text to the ranked documents, tokenising
included; vectors of documents and BM25's index are there before.

Q queries, N documents, K ranks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.table import Table
from torch import Tensor

from app import console
from app.bench import report, suite
from app.bench.measure import Clock, device_clock, timed
from app.doctor import Doctor
from app.progress import tracking
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.data.ranking.collection import Collection
from tasks.data.ranking.rows import read_tuples
from tasks.data.schema import Report
from tasks.embedding import Embedder
from tasks.metrics import RankingReport
from tasks.metrics.paired import Paired, paired
from tasks.metrics.ranking import HEADLINE, judged, trec_order
from tasks.retrieval_measure import encoded, qrels_of
from tasks.run import Run
from tasks.search.bm25 import Bm25
from tasks.search.model import open_embedder
from tasks.search.rerank import Reranker, pair_scores
from tasks.vectors import Vectors, top_k
from tasks.verdict import p_value

WORDS, VECTORS = "BM25", "retriever"
#: Ranks that are kept of every system, so that recall@100 is that of the usual tables.
KEPT = 100
SHOWN = (HEADLINE, "mrr@10", "recall@100")

Found = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Settings:
    """The keys of conf/bench_twostage.yaml but `json`.

    Raises:
        ConfigError: for a value outside its range.
    """

    retriever: str
    reranker: str
    data: dict[str, Any]
    depths: Sequence[int]
    queries: int | None
    timed: int
    tokens_per_batch: int | str
    device: str
    precision: str
    threads: int | None

    def __post_init__(self) -> None:
        fits = isinstance(self.depths, list) and all(isinstance(k, int) and 1 <= k <= KEPT for k in self.depths)
        if not fits or not self.depths:
            raise ConfigError(f"depths={self.depths}: give numbers of documents from 1 to {KEPT}, such as [10,50,100].")
        if self.queries is not None and self.queries < 1:
            raise ConfigError(f"queries={self.queries}: allowed is null, or 1 or more.")
        suite.require_least_one(self, "timed")

    @property
    def budget(self) -> int | None:
        """Most tokens of one forward pass."""
        return None if self.tokens_per_batch == "auto" else int(self.tokens_per_batch)


def main(cfg: DictConfig) -> int:
    """Measure quality and latency; returns the exit status."""
    settings = suite.settings_of(Settings, cfg)
    use_threads(settings.threads)
    name = settings.retriever
    is_run = (Path(name) / "task.json").is_file()
    run, encoder = (name, {}) if is_run else (None, {"source": name})
    embedder, _ = open_embedder(run, encoder, settings.device, settings.precision)
    reranker = Reranker(Run.load(settings.reranker, settings.device, settings.precision))
    system = TwoStage(embedder, reranker.run, settings)
    metrics = {name: measured(system.collection, found) for name, found in system.rankings().items()}
    latency = system.latency(device_clock(system.embedder.task.device))
    rows = [row(name, metrics, latency[name]) for name in metrics]
    found = report.document(
        "twostage", system.embedder.task.device, torch.get_num_threads(), vars(settings),
        documents=len(system.collection.documents), queries=len(system.collection.queries),
        indexing_seconds=round(system.indexing, 2), rows=rows,
    )  # fmt: skip
    report.emit(cfg.json, found, table(rows), (remark(found),))
    return 0


class TwoStage:
    """A corpus that is searched by words and by vectors, and a reranker.

    Raises:
        ConfigError: graded pairs, which have nothing to search.
    """

    def __init__(self, embedder: Embedder, reranker: Run, settings: Settings) -> None:
        self.embedder, self.reranker, self.settings = embedder, reranker, settings
        self.collection = collection = self.read()
        self.words = Bm25(collection.documents)
        start = time.perf_counter()
        with tracking("encoding documents", len(collection.documents)) as advance:
            self.documents = self.encode(advance)
        self.indexing = time.perf_counter() - start

    def read(self) -> Collection:
        """The queries that are measured, and the whole corpus."""
        data, told = self.settings.data, Report()
        table = read_tuples(data["test"], data["columns"], told, "test", data["corpus"])
        Doctor().show(told)
        if table.kind != "tuples":
            raise ConfigError(f"data.test={data['test']} has graded pairs: give queries with the documents they want.")
        if self.settings.queries is not None:
            first = set(list(dict.fromkeys(table.columns["query_id"]))[: self.settings.queries])
            table = table.select([i for i, name in enumerate(table.columns["query_id"]) if name in first])
        found = self.embedder.task.schema.examples(table, self.embedder.tokenizer, "evaluate")
        assert isinstance(found, Collection)
        return found

    def encode(self, advance: Callable[[int], None]) -> Vectors:
        """The vectors of all documents."""
        parts = []
        for numbers, part in encoded(self.embedder.task, self.collection, ("document",), self.settings.budget):
            parts.append(part)
            advance(len(numbers))
        return Vectors.cat(parts)

    def retrieve(self, queries: Sequence[str]) -> Found:
        """Scores and numbers (Q, KEPT) by vectors."""
        asked = self.embedder.encode(queries, "query", self.settings.budget)
        return top_k(asked, [(torch.arange(len(self.documents)), self.documents)], KEPT)

    def look_up(self, queries: Sequence[str]) -> Found:
        """Scores and numbers (Q, KEPT) by words."""
        return self.words.rank(queries, KEPT)

    def rerank(self, queries: Sequence[str], numbers: Tensor) -> Tensor:
        """The reranker's scores of documents (Q, K); -inf where there is none."""
        rows, ranks = (numbers >= 0).nonzero(as_tuple=True)
        documents = [self.collection.documents[i] for i in numbers[rows, ranks].tolist()]
        scores = torch.full(numbers.shape, -torch.inf)
        found = pair_scores(self.reranker, [queries[i] for i in rows.tolist()], documents)
        scores[rows, ranks] = torch.tensor(found, dtype=scores.dtype)
        return scores

    def rankings(self) -> dict[str, Tensor]:
        """Document numbers (Q, KEPT) of every system, the best first."""
        queries, ids = list(self.collection.queries), self.collection.document_ids
        _, words = trec_order(*self.look_up(queries), ids)
        scores, numbers = self.retrieve(queries)
        _, vectors = trec_order(scores.cpu(), numbers.cpu(), ids)
        parts = []
        with tracking("reranking", len(queries)) as advance:
            for i, query in enumerate(queries):
                parts.append(self.rerank([query], vectors[i : i + 1, : max(self.settings.depths)]))
                advance(1)
        known = torch.cat(parts)
        found = {WORDS: words, VECTORS: vectors}
        for k in self.settings.depths:
            _, first = trec_order(known[:, :k], vectors[:, :k], ids)
            found[stage_name(k)] = torch.cat([first, vectors[:, k:]], dim=1)
        return found

    def latency(self, clock: Clock) -> dict[str, list[float]]:
        """Seconds of each of some queries, for every system."""
        queries = list(self.collection.queries)[: self.settings.timed]

        def both(query: str, k: int) -> None:
            self.rerank([query], self.retrieve([query])[1][:, :k].cpu())

        systems: dict[str, Callable[[str], object]] = {
            WORDS: lambda query: self.look_up([query]),
            VECTORS: lambda query: self.retrieve([query]),
            **{stage_name(k): partial(both, k=k) for k in self.settings.depths},
        }
        for ask in systems.values():
            ask(queries[0])  # the first call of each is slower
        found: dict[str, list[float]] = {name: [] for name in systems}
        for query in queries:
            for name, ask in systems.items():
                found[name].append(timed(partial(ask, query), clock).wall)
        return found


def stage_name(k: int) -> str:
    return f"{VECTORS}, {k} reranked"


def measured(collection: Collection, numbers: Tensor) -> RankingReport:
    """The metrics of a ranking (Q, K) of all queries."""
    found = RankingReport()
    everyone = torch.arange(len(collection.queries))
    found.update(*judged(numbers, everyone, qrels_of(collection)), everyone)
    return found


def row(name: str, metrics: dict[str, RankingReport], seconds: Sequence[float]) -> dict[str, Any]:
    """What the document has of a system; differences are to the retriever alone."""
    found = metrics[name].compute()
    told: dict[str, Any] = {"system": name}
    for metric in SHOWN:
        told |= {key: found[key] for key in (metric, f"{metric}_low", f"{metric}_high")}
    told |= {"ms": 1e3 * statistics.median(seconds), "ms_95": 1e3 * float(np.quantile(seconds, 0.95))}
    if name != VECTORS:
        first, second = (metrics[key].per_query()[1][HEADLINE] for key in (VECTORS, name))
        told["difference"] = vars(paired(first, second))
    return told


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """A line a system."""
    columns = ["", HEADLINE, "95% interval", *SHOWN[1:], "ms a query", "95% of them below", f"to {VECTORS}", "p"]
    lines = []
    for one in rows:
        difference = Paired(**one["difference"]) if "difference" in one else None
        compared = ["", ""]
        if difference is not None:
            low, high = difference.low, difference.high
            compared = [f"{difference.difference:+.3f} ({low:+.3f} to {high:+.3f})", p_value(difference)]
        interval = f"{one[f'{HEADLINE}_low']:.3f} to {one[f'{HEADLINE}_high']:.3f}"
        shown = [f"{one[metric]:.3f}" for metric in SHOWN]
        times = [f"{one[name]:,.1f}" for name in ("ms", "ms_95")]
        lines.append([one["system"], shown[0], interval, *shown[1:], *times, *compared])
    return console.table(columns, lines, right=columns[1:])


def remark(found: dict[str, Any]) -> str:
    """What was searched, and what is not in the latency."""
    count = min(found["settings"]["timed"], found["queries"])
    return (
        f"\n{found['queries']:,} queries, {found['documents']:,} documents. Encoding the documents took "
        f"{found['indexing_seconds']:,.1f} s, once. Latency: median of {count} queries, one at a time."
    )
