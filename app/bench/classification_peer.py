"""transformers' Trainer on the rows of a classification."""

from __future__ import annotations

from typing import Any

import torch

from app.bench.job import Job, Result, arguments, read_rows, timed
from tasks.data.module import Checked
from tasks.data.readers import Table

METRICS = ("accuracy", "f1_macro")
ALIKE: dict[str, tuple[Any, ...]] = {
    "task.kind": ("auto", "binary", "multiclass"),
    "task.loss": ("cross_entropy",),
    "task.class_weights": (None,),
    "task.pooling": ("auto",),
    "task.head_dropout": (None,),
}


def classification(job: Job) -> Result:
    """transformers' Trainer with AutoModelForSequenceClassification, padded to the longest in the batch."""
    import transformers

    checked = read_rows(job)
    names = checked.schema.labels.names
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.base)
    splits = {
        name: classification_rows(table, checked, tokenizer, job.max_length) for name, table in checked.tables.items()
    }
    transformers.set_seed(job.seed)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        job.base, num_labels=len(names), dtype=torch.float32
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments(job, len(splits["train"])),
        train_dataset=splits["train"],
        processing_class=tokenizer,  # which makes DataCollatorWithPadding the collator
    )
    spent = timed(trainer.train)
    logits = torch.from_numpy(trainer.predict(splits["test"]).predictions)  # type: ignore[arg-type]
    targets = torch.tensor([row["labels"] for row in splits["test"]])
    return Result(*spent, trainer.state.global_step, quality(logits, targets, names))


def classification_rows(table: Table, checked: Checked, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Rows as Trainer takes them: token ids and a label number, not padded yet."""
    schema = checked.schema
    texts = [table.columns[column] for column in schema.text_columns()]
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    labels = schema.labels.targets(table.columns[schema.columns["label"]]).tolist()
    columns = [*encoded.keys(), "labels"]
    return [dict(zip(columns, row, strict=True)) for row in zip(*encoded.values(), labels, strict=True)]


def quality(logits: torch.Tensor, targets: torch.Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """By our own report, so that both sides are judged alike."""
    from tasks.metrics import MulticlassReport

    report = MulticlassReport(list(names))
    report.update(logits, targets)
    found = report.compute()
    return {name: float(found[name] or 0.0) for name in METRICS}
