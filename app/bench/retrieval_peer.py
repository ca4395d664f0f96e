"""The peer of task=retrieval: sentence-transformers' trainer, as its documentation shows it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from app.bench.job import Job, Result, arguments, read_rows, require_packages, timed
from app.bench.rerank_peer import device
from tasks.data.ranking import Collection
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.vectors import Vectors

METRICS = ("ndcg@10", "recall@100", "spearman")
#: What only our side has; the peers are MultipleNegativesRankingLoss and, of graded pairs, CoSENTLoss.
ALIKE: dict[str, tuple[Any, ...]] = {
    "task.kind": ("dense",),
    "task.loss": ("auto", "infonce", "cosent"),
    "task.temperature": ("auto", 0.05),
    "task.pooling": (None, "mean"),
    "task.projection": (None,),
    "task.symmetric": (False,),
    "task.focal_gamma": (0.0,),
    "task.mix_negatives": (0,),
    "task.false_negative_margin": (None,),
    "task.matryoshka": (None,),
    "task.query_max_length": (None,),
}
SCALE = 20.0  # 1 / 0.05


def retrieval(job: Job) -> Result:
    """Pairs with in-batch negatives and, where the rows have them, one negative each; graded pairs with CoSENT.

    Raises:
        ConfigError: a package is missing.
    """
    require_packages("SentenceTransformerTrainer", "sentence_transformers", "datasets")
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import CoSENTLoss, MultipleNegativesRankingLoss
    from transformers import set_seed

    checked = read_rows(job)
    scored = checked.schema.kind == "scored"
    rows = dataset(checked.tables["train"], checked.schema)
    set_seed(job.seed)
    model = SentenceTransformer(job.base, device=device(job))
    model.max_seq_length = job.max_length
    loss = CoSENTLoss(model, scale=SCALE) if scored else MultipleNegativesRankingLoss(model, scale=SCALE)
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments(job, len(rows), SentenceTransformerTrainingArguments),
        train_dataset=rows,
        loss=loss,
    )
    spent = timed(trainer.train)
    collection = checked.schema.examples(checked.tables["test"], load_tokenizer(Path(job.base)), "evaluate")
    return Result(*spent, trainer.state.global_step, quality(model, collection, checked.schema))


def dataset(table: Table, schema: Any) -> Any:
    """The rows as the trainer takes them: columns of texts in the order anchor, positive, negative, or a score."""
    from datasets import Dataset

    columns: dict[str, list[Any]] = {
        "query": schema.with_prefix(table.columns["query"], "query"),
        "positive": schema.with_prefix(table.columns["positive"], "document"),
    }
    negatives = table.columns.get("negatives")
    if schema.kind == "scored":
        columns["score"] = [float(score) for score in table.columns["score"]]
    elif negatives and all(negatives):
        columns["negative"] = schema.with_prefix([texts[0] for texts in negatives], "document")
    return Dataset.from_dict(columns)


def quality(model: Any, collection: Collection, schema: Any) -> dict[str, float]:
    """By our own report, so that both sides are judged alike."""
    from tasks.metrics import CorrelationReport, RankingReport
    from tasks.retrieval_measure import fill_report

    texts = [(collection.queries, "query"), (collection.documents, "document")]
    vectors = [
        model.encode(
            schema.with_prefix(list(part), role),
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        for part, role in texts
    ]
    report = CorrelationReport() if schema.kind == "scored" else RankingReport()
    fill_report(report, collection, Vectors("dense", torch.cat(vectors).float().cpu()))
    found = report.compute()
    return {name: float(found[name] or 0.0) for name in METRICS if name in found}
