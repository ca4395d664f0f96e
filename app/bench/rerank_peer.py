"""The peer of task=reranking: sentence-transformers' CrossEncoderTrainer, as its documentation shows it."""

from __future__ import annotations

from typing import Any

import torch

from app.bench.job import Job, Result, arguments, read_rows, require_packages, timed
from tasks.data.readers import Table

METRICS = ("map", "mrr@10", "ndcg@10")
#: What only our side has; there is one peer for pairs, learned by binary cross-entropy.
ALIKE: dict[str, tuple[Any, ...]] = {
    "task.kind": ("cross",),
    "task.loss": ("bce",),
    "task.pooling": ("auto",),
    "task.head_dropout": (None,),
    "task.candidates": (None,),
    "task.calibrate": ("none",),
}


def reranking(job: Job) -> Result:
    """Pairs with BinaryCrossEntropyLoss, its `pos_weight` our task.positive_weight; scored over the same candidates.

    Raises:
        ConfigError: a package is missing.
    """
    require_packages("CrossEncoderTrainer", "sentence_transformers", "datasets")
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer, CrossEncoderTrainingArguments
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss
    from transformers import set_seed

    checked = read_rows(job)
    schema, tables = checked.schema, checked.tables
    rows = dataset(tables["train"], schema.highest)
    set_seed(job.seed)
    model = CrossEncoder(job.base, num_labels=1, max_length=job.max_length, device=device(job))
    weight = positive_weight(job.config["task"]["positive_weight"], schema)
    trainer = CrossEncoderTrainer(
        model=model,
        args=arguments(job, len(rows), CrossEncoderTrainingArguments),
        train_dataset=rows,
        loss=BinaryCrossEntropyLoss(model, pos_weight=None if weight is None else torch.tensor(weight)),
    )
    spent = timed(trainer.train)
    test = tables["test"]
    pairs = list(zip(test.columns["query"], test.columns["document"], strict=True))
    scores = model.predict(pairs, show_progress_bar=False, convert_to_tensor=True)
    return Result(*spent, trainer.state.global_step, quality(scores.float().cpu(), test))


def device(job: Job) -> str | None:
    return "cpu" if job.config["trainer"]["accelerator"] == "cpu" else None


def positive_weight(asked: Any, schema: Any) -> float | None:
    """task.positive_weight as the number it stands for."""
    return schema.negatives / max(1, schema.positives) if asked == "balanced" else asked


def dataset(table: Table, highest: float) -> Any:
    """The rows as the trainer takes them: two texts and a label from 0 to 1."""
    from datasets import Dataset

    from tasks.reranking_checks import labels_of

    labels = (labels_of(table) / highest).tolist()
    return Dataset.from_dict(
        {"query": table.columns["query"], "document": table.columns["document"], "label": labels}
    )


def quality(scores: torch.Tensor, table: Table) -> dict[str, float]:
    """By our own report, so that both sides are judged alike."""
    from tasks.data.ranking.groups import number_queries
    from tasks.metrics import RankingReport
    from tasks.reranking_checks import labels_of
    from tasks.reranking_tables import add_rankings

    report = RankingReport(headline="map")
    labels = torch.from_numpy(labels_of(table)).float()
    add_rankings(report, scores, labels, torch.from_numpy(number_queries(table)))
    found = report.compute()
    return {name: float(found[name] or 0.0) for name in METRICS}
