"""Reports over two real processes: `compute` on each gives what one process gives for all rows."""

from __future__ import annotations

import json
from pathlib import Path

import forked  # noqa: F401  its server has the libraries imported
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from tasks.metrics import (
    CorrelationReport,
    MulticlassReport,
    MultilabelReport,
    RankingReport,
    RegressionReport,
    Report,
)

ROWS = 61


def rows_of(rank: int, world: int) -> torch.Tensor:
    return torch.arange(rank, ROWS, world)


def results(rank: int, world: int) -> list[dict[str, float | None]]:
    """Metrics of the rows of a rank; the second rank has none of the scores, as with very little data."""
    torch.manual_seed(0)
    logits, scores = torch.randn(ROWS, 3), torch.rand(ROWS)
    targets, gold = torch.randint(0, 3, (ROWS,)), torch.randint(0, 2, (ROWS, 3))
    rows = rows_of(rank, world)
    multiclass, multilabel = MulticlassReport(["a", "b", "c"]), MultilabelReport(["a", "b", "c"])
    regression, ranking, correlation = RegressionReport(), RankingReport(), CorrelationReport()
    multiclass.update(logits[rows], targets[rows], rows)
    multilabel.update(logits[rows], gold[rows], rows)
    if rank == 0:
        every = torch.arange(ROWS)
        regression.update(scores, scores.square(), every)
        correlation.update(scores, scores.square(), every)
    ranking.update(gold[rows], gold[rows].sort(dim=1, descending=True).values, rows)
    reports: list[Report] = [multiclass, multilabel, regression, ranking, correlation]
    return [report.compute() for report in reports]


def run(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    try:
        Path(folder, f"{rank}.json").write_text(json.dumps(results(rank, world)))
    finally:
        dist.destroy_process_group()


def test_ranks_are_added_up(tmp_path: Path) -> None:
    mp.start_processes(run, (2, str(tmp_path)), 2, start_method="forkserver")  # type: ignore[no-untyped-call]
    alone = results(0, 1)
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == alone
