"""transformers' Trainer on the rows of a named-entity task: token classification as its documentation shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from app.bench.job import Job, Result, arguments, read_rows, timed
from tasks.data.entities import TagSet
from tasks.data.readers import Table
from tasks.ner_schema import words_of

METRICS = ("f1", "precision", "recall")
ALIKE: dict[str, tuple[Any, ...]] = {
    "task.scheme": ("BIO",),
    "task.subwords": ("first",),
    "task.head": ("linear",),
    "task.loss": ("cross_entropy",),
    "task.class_weights": (None,),
    "task.head_dropout": (None,),
}
#: The target that PyTorch's cross-entropy passes over.
NO_TARGET = -100


def ner(job: Job) -> Result:
    """AutoModelForTokenClassification, padded to the longest in the batch; the first sub-word of a word learns."""
    import transformers

    checked = read_rows(job)
    tags: TagSet = checked.schema.tags
    tokenizer = transformers.AutoTokenizer.from_pretrained(job.base)
    if hasattr(tokenizer, "add_prefix_space"):
        # Byte-level tokenizers take words that are apart already only with the space before each.
        tokenizer = transformers.AutoTokenizer.from_pretrained(job.base, add_prefix_space=True)
    splits = {name: token_rows(table, tags, tokenizer, job.max_length) for name, table in checked.tables.items()}
    transformers.set_seed(job.seed)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        job.base, num_labels=len(tags.names), dtype=torch.float32
    )
    trainer = transformers.Trainer(
        model=model,
        args=arguments(job, len(splits["train"])),
        train_dataset=splits["train"],
        data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
    )
    spent = timed(trainer.train)
    best = trainer.predict(splits["test"]).predictions.argmax(-1)  # type: ignore[arg-type, union-attr]
    gold = [[tags.names[tag] for tag in numbers] for numbers in tags_of(checked.tables["test"], tags)]
    found = []
    for row, numbers, wanted in zip(splits["test"], best, gold, strict=True):
        # A word that truncation left out, or that has no sub-word, is O.
        mine = ["O"] * len(wanted)
        for position, word in first_subwords(row["words"]):
            mine[word] = tags.names[numbers[position]]
        found.append(mine)
    return Result(*spent, trainer.state.global_step, quality(gold, found))


def tags_of(table: Table, tags: TagSet) -> list[np.ndarray]:
    """Tag numbers of the words of each text."""
    rows = zip(words_of(table), table.columns["entities"], strict=True)
    return [tags.encode(found, words) for words, found in rows]


def token_rows(table: Table, tags: TagSet, tokenizer: Any, max_length: int) -> list[dict[str, Any]]:
    """Rows as Trainer takes them, token ids and a tag at the first sub-word of each word; `words` it leaves out."""
    rows = []
    for text, words, numbers in zip(table.columns["text"], words_of(table), tags_of(table, tags), strict=True):
        encoded = tokenizer(
            [text[a:b] for a, b in words], is_split_into_words=True, truncation=True, max_length=max_length
        )
        labels = [NO_TARGET] * len(encoded["input_ids"])
        for position, word in first_subwords(encoded.word_ids()):
            labels[position] = int(numbers[word])
        rows.append({**encoded, "labels": labels, "words": encoded.word_ids()})
    return rows


def first_subwords(words: Sequence[int | None]) -> Iterator[tuple[int, int]]:
    """(position, word) where a word begins."""
    before = None
    for position, word in enumerate(words):
        if word is not None and word != before:
            yield position, word
        before = word


def quality(gold: list[list[str]], found: list[list[str]]) -> dict[str, float]:
    """As users of Trainer measure it: seqeval's default."""
    from seqeval.metrics import f1_score, precision_score, recall_score

    return {
        "f1": float(f1_score(gold, found)),
        "precision": float(precision_score(gold, found)),
        "recall": float(recall_score(gold, found)),
    }
