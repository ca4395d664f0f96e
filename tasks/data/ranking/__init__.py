"""Retrieval and reranking data: from the formats people have to rows, batches and collections."""

from __future__ import annotations

from tasks.data.ranking.batches import SequenceBatch, TextRole, TupleBatch
from tasks.data.ranking.beir import Beir, is_beir, read_beir
from tasks.data.ranking.collection import Chunk, Collection, Judged
from tasks.data.ranking.corpus import Document, load_corpus, read_corpus
from tasks.data.ranking.examples import TupleExamples, TupleRows
from tasks.data.ranking.rows import RankingTable, read_tuples
from tasks.data.ranking.runs import Ranking, read_run, write_run

__all__ = [
    "Beir",
    "Chunk",
    "Collection",
    "Document",
    "Judged",
    "Ranking",
    "RankingTable",
    "SequenceBatch",
    "TextRole",
    "TupleBatch",
    "TupleExamples",
    "TupleRows",
    "is_beir",
    "load_corpus",
    "read_beir",
    "read_corpus",
    "read_run",
    "read_tuples",
    "write_run",
]
