"""Streaming metrics with bootstrap intervals: one report a kind of task, each with the same calls."""

from __future__ import annotations

from .classification import MulticlassReport
from .correlation import CorrelationReport
from .multilabel import MultilabelReport
from .ranking import RankingReport
from .rates import confused_pairs
from .regression import RegressionReport
from .report import Report
from .spans import SpanReport
from .worst import WorstErrors

__all__ = [
    "CorrelationReport",
    "MulticlassReport",
    "MultilabelReport",
    "RankingReport",
    "RegressionReport",
    "Report",
    "SpanReport",
    "WorstErrors",
    "confused_pairs",
]
