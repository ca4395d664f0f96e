"""What a training is compared with, a task a runner: `python -m app.bench.peers <job file> <result file>`.

The rows, their checks and the order of labels are ours, so that both sides learn from the same; tokenising,
batching, the model and the loop are transformers' own, as its documentation shows them.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.data.module import Checked, DataSettings, check
from tasks.data.readers import Table
from tasks.run import task_class, write_json

#: Settings that transformers' Trainer has not: key -> the values at which both sides do the same.
ALIKE: dict[str, tuple[Any, ...]] = {
    "optim.schedule": ("linear", "cosine"),
    "optim.layer_decay": (1.0,),
    "encoder.dropout": (None,),
    "trainer.devices": (1,),
    "trainer.strategy": ("auto",),
    "trainer.precision": ("auto", 32, "32", "bf16-mixed"),
}
ALIKE_CLASSIFICATION: dict[str, tuple[Any, ...]] = {
    "task.kind": ("auto", "binary", "multiclass"),
    "task.loss": ("cross_entropy",),
    "task.class_weights": (None,),
    "task.pooling": ("auto",),
    "task.head_dropout": (None,),
}


@dataclass(frozen=True)
class Job:
    """One training of a peer: the configuration of `modernbert train` as a plain dict, and what it settles."""

    config: dict[str, Any]
    base: str  # folder of the pretrained weights
    max_length: int
    seed: int
    folder: str  # for whatever the peer writes


@dataclass(frozen=True)
class Result:
    """What one training took and reached, whoever ran it."""

    seconds: float
    cpu_seconds: float
    steps: int
    quality: dict[str, float]


@dataclass(frozen=True)
class Peer:
    """How a task's peer is trained, the metrics (of metrics.json) to show, and keys that must stay alike."""

    train: Callable[[Job], Result]
    metrics: tuple[str, ...]
    alike: Mapping[str, tuple[Any, ...]]


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
    wall, cpu = time.perf_counter(), time.process_time()
    trainer.train()
    spent = time.perf_counter() - wall, time.process_time() - cpu
    logits = torch.from_numpy(trainer.predict(splits["test"]).predictions)  # type: ignore[arg-type]
    targets = torch.tensor([row["labels"] for row in splits["test"]])
    return Result(*spent, trainer.state.global_step, quality(logits, targets, names))


def require(config: dict[str, Any]) -> None:
    """Refuse what cannot be compared, before anything is trained.

    Raises:
        ConfigError: a task without peer, a package that is missing, or a setting that only our side has.
    """
    name = config["task"]["name"]
    if name not in PEERS:
        raise ConfigError(f"task={name} has no peer to be timed against yet; {', '.join(PEERS)} has.")
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError("transformers' Trainer needs accelerate: pip install 'modernbert[peers]'.")
    for key, allowed in {**ALIKE, **PEERS[name].alike}.items():
        section, _, last = key.partition(".")
        value = config[section][last]
        if value not in allowed:
            shown = " or ".join("null" if v is None else str(v) for v in allowed)
            raise ConfigError(f"{key}={value}: Trainer has no such setting, so here it stays {shown}.")
    if config["data"]["test"] is None:
        raise ConfigError("data.test is missing: a time without the quality it buys compares nothing.")


def read_rows(job: Job) -> Checked:
    """The training and test rows as `modernbert train` reads them: same files, same checks, same labels."""
    task = job.config["task"]
    schema = task_class(task["_target_"]).schema_type
    checked = check(schema, DataSettings(**job.config["data"]), task, job.max_length, job.seed)
    checked.report.raise_if_errors()
    return checked


def classification_rows(table: Table, checked: Checked, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Rows as Trainer takes them: token ids and a label number, not padded yet."""
    schema = checked.schema
    texts = [table.columns[column] for column in schema.text_columns()]
    encoded = tokenizer(*texts, truncation=True, max_length=max_length)
    labels = schema.labels.targets(table.columns[schema.columns["label"]]).tolist()
    columns = [*encoded.keys(), "labels"]
    return [dict(zip(columns, row, strict=True)) for row in zip(*encoded.values(), labels, strict=True)]


def arguments(job: Job, rows: int) -> Any:
    """TrainingArguments with our optimiser settings and transformers' defaults for all the rest."""
    from transformers import TrainingArguments

    from app.train import precision

    optim, trainer = job.config["optim"], job.config["trainer"]
    steps = -(-rows // optim["batch_size"]) * trainer["max_epochs"]
    total = steps if trainer["max_steps"] < 0 else min(steps, trainer["max_steps"])
    return TrainingArguments(
        output_dir=job.folder,
        per_device_train_batch_size=optim["batch_size"],
        learning_rate=optim["lr"],
        weight_decay=optim["weight_decay"],
        adam_beta1=optim["betas"][0],
        adam_beta2=optim["betas"][1],
        adam_epsilon=optim["eps"],
        max_grad_norm=optim["clip"] or 0.0,
        lr_scheduler_type=optim["schedule"],
        warmup_steps=round(optim["warmup"] * total),
        num_train_epochs=trainer["max_epochs"],
        max_steps=total,
        label_smoothing_factor=job.config["task"].get("label_smoothing", 0.0),
        bf16=precision(trainer["precision"], trainer["accelerator"]) == "bf16-mixed",
        use_cpu=trainer["accelerator"] == "cpu",
        seed=job.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )


def quality(logits: torch.Tensor, targets: torch.Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """By our own report, so that both sides are judged alike."""
    from tasks.metrics import MulticlassReport

    report = MulticlassReport(list(names))
    report.update(logits, targets)
    found = report.compute()
    return {name: float(found[name] or 0.0) for name in PEERS["classification"].metrics}


#: task=<name> -> its peer; a task that joins needs a function above and a line here.
PEERS = {"classification": Peer(classification, ("accuracy", "f1_macro"), ALIKE_CLASSIFICATION)}


def main(words: list[str]) -> None:
    job = Job(**json.loads(Path(words[0]).read_text(encoding="utf-8")))
    use_threads(job.config["trainer"]["threads"])
    write_json(Path(words[1]), asdict(PEERS[job.config["task"]["name"]].train(job)))


if __name__ == "__main__":
    main(sys.argv[1:])
