"""`modernbert bench ranking`: measure a ranking over a large synthetic corpus; time and peak memory.

The measurement runs in a process of its own: `python -m app.bench.ranking_suite <settings as JSON>`.
Q queries, N documents, D features.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table
from torch import Tensor

from app import console
from app.bench import child, memory, report, suite
from modernbert.errors import ConfigError
from tasks.metrics import RankingReport
from tasks.metrics.ranking import judged
from tasks.vectors import Vectors, normalise, top_k

#: How far a query's vector is from that of its one relevant document: cosine 0.5, as of a good model on an easy set.
NOISE = 3**0.5
BYTES = 4


@dataclass(frozen=True)
class Settings:
    """The keys of conf/bench_ranking.yaml but `json`.

    Raises:
        ConfigError: for a value outside its range.
    """

    documents: int
    queries: int
    dimension: int
    chunk: int
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        suite.require_least_one(self, "documents", "queries", "dimension", "chunk")
        if self.queries > self.documents:
            raise ConfigError(f"queries={self.queries}: each has a document of its own, there are {self.documents}.")

    @property
    def at_once(self) -> int:
        """Bytes of all vectors and all scores, where nothing is streamed."""
        return BYTES * (self.documents * self.dimension + self.queries * (self.documents + self.dimension))


def main(cfg: DictConfig) -> int:
    """Measure in a process of its own; returns the exit status."""
    settings = suite.settings_of(Settings, cfg)
    device = suite.begin(settings.device, settings.threads)
    row = json.loads(child.run("app.bench.ranking_suite", [json.dumps(asdict(settings))]))
    row["at_once_bytes"] = settings.at_once
    found = report.document("ranking", device, torch.get_num_threads(), asdict(settings), rows=[row])
    report.emit(cfg.json, found, table(settings, row), (verdict(settings, row),))
    return 0


def work(words: list[str]) -> None:
    """What the process of its own does: prints the row as JSON."""
    settings = Settings(**json.loads(words[0]))
    device = suite.begin(settings.device, settings.threads)
    # The same on a few documents first: libraries are loaded, and work space is there.
    few = min(settings.documents, max(settings.queries, 2 * settings.chunk))
    Evaluation(Settings(**asdict(settings) | {"documents": few}), device).run()
    evaluation = Evaluation(settings, device)
    peak = memory.measure(evaluation.run, device) if memory.CLEAR.exists() or device.type == "cuda" else None
    if peak is None:
        evaluation.run()
    print(json.dumps(evaluation.row | {"peak_bytes": peak}))


class Evaluation:
    """Queries against a corpus that is made chunk by chunk, so that only what measuring needs is in memory."""

    def __init__(self, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.making = 0.0  # seconds spent on making vectors, which are not counted
        self.row: dict[str, Any] = {}

    def run(self) -> None:
        """Rank, judge, compute every metric with its interval."""
        settings = self.settings
        start, self.making = time.perf_counter(), 0.0
        queries = self.queries()
        metrics = RankingReport()
        _, found = top_k(Vectors("dense", queries), self.chunks(), max(metrics.ks))
        numbers = torch.arange(settings.queries)
        metrics.update(*judged(found, numbers, (numbers, numbers, torch.ones_like(numbers))), numbers)
        values = metrics.compute()
        seconds = time.perf_counter() - start - self.making
        self.row = {
            "documents": settings.documents,
            "queries": settings.queries,
            "seconds": round(seconds, 3),
            "making_seconds": round(self.making, 3),
            "ndcg@10": values["ndcg@10"],
        }

    def queries(self) -> Tensor:
        """(Q, D): query i is near document i."""
        start = time.perf_counter()
        source = torch.Generator().manual_seed(1)
        parts = []
        for first in range(0, self.settings.queries, self.settings.chunk):
            documents = self.documents(first)[: self.settings.queries - first]
            noise = normalise(torch.randn(documents.shape, generator=source))
            parts.append(normalise(documents + NOISE * noise))
        self.making += time.perf_counter() - start
        return torch.cat(parts).to(self.device)

    def chunks(self) -> Iterator[tuple[Tensor, Vectors]]:
        """Numbers and vectors of all documents."""
        for first in range(0, self.settings.documents, self.settings.chunk):
            start = time.perf_counter()
            values = self.documents(first)
            self.making += time.perf_counter() - start
            yield torch.arange(first, first + len(values)), Vectors("dense", values)

    def documents(self, first: int) -> Tensor:
        """The chunk that begins with document `first`, (n, D): the same whenever it is made."""
        count = min(self.settings.chunk, self.settings.documents - first)
        source = torch.Generator().manual_seed(2 + first)
        return normalise(torch.randn(count, self.settings.dimension, generator=source))


def table(settings: Settings, row: dict[str, Any]) -> Table:
    """One line: what was measured."""
    peak = "unknown" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}"
    columns = ["documents", "queries", "features", "seconds", "peak MB"]
    counts = [f"{number:,}" for number in (settings.documents, settings.queries, settings.dimension)]
    return console.table(columns, [[*counts, f"{row['seconds']:.1f}", peak]], right=columns)


def verdict(settings: Settings, row: dict[str, Any]) -> str:
    """What the time holds, and what the memory would be otherwise."""
    return (
        f"\nSearch in chunks of {settings.chunk:,} documents, every metric and its interval; making the vectors took "
        f"another {row['making_seconds']:.1f} s. nDCG@10 {row['ndcg@10']:.3f}.\n"
        f"All vectors and scores at once would take {settings.at_once / 1e6:,.0f} MB."
    )


if __name__ == "__main__":
    work(sys.argv[1:])
