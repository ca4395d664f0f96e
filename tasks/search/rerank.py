"""Hits in the order of a reranking run, which reads query and document together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from modernbert.errors import ConfigError
from tasks.answers import Hit
from tasks.data.readers import Table
from tasks.run import Run


class Reranker:
    """A saved reranking run as a function of a query and its hits."""

    def __init__(self, run: Run) -> None:
        if run.name != "reranking":
            raise ConfigError(f"rerank={run.folder} is a run of {run.name}: give one of reranking.")
        self.run = run

    def __call__(self, query: str, hits: Sequence[Hit]) -> list[Hit]:
        """The hits by the run's score, the best first."""
        scores = pair_scores(self.run, [query] * len(hits), [hit.text for hit in hits])
        scored = [replace(hit, score=score) for hit, score in zip(hits, scores, strict=True)]
        return sorted(scored, key=lambda hit: -hit.score)


def pair_scores(run: Run, queries: Sequence[str], documents: Sequence[str]) -> list[float]:
    """The score of each query with the document at its own place; an empty document scores lowest."""
    columns = {"query": list(queries), "document": list(documents)}
    outputs = run.outputs(Table("pairs", columns, list(range(1, len(queries) + 1)), []))
    return [float("-inf") if output is None else float(output.value) for output in outputs]
