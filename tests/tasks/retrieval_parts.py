"""What the tests of retrieval share: a few rows, a task with random weights, a checkpoint with a language head."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM

from modernbert import weights
from tasks.data.ranking.rows import RankingTable
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer
from tasks.optim import Optim
from tasks.retrieval import Retrieval
from tasks.retrieval_schema import RetrievalSchema

ROWS = [
    {"query": "where is my parcel", "positive": "the courier left it with a neighbour", "negative": ["good", "bad"]},
    {"query": "password", "positive": "my password does not work again please open the app", "negative": ["refund"]},
    {"query": "where is my parcel", "positive": "the parcel has not come yet", "negative": []},
    {"query": "send shoes", "positive": "please send shoes back", "negative": ["the courier left it with a neighbour"]},
    {"query": "charged twice", "positive": "i was charged twice for one order", "negative": ["app closes when open"]},
    {"query": "map", "positive": "app closes when open map", "negative": ["i was charged twice for one order"]},
]  # fmt: skip
SCORED = [
    {"sentence1": "where is my parcel", "sentence2": "the parcel has not come yet", "score": 4.0},
    {"sentence1": "password", "sentence2": "my password does not work", "score": 5.0},
    {"sentence1": "refund", "sentence2": "the courier left it with a neighbour", "score": 0.5},
    {"sentence1": "app closes", "sentence2": "good fine", "score": 1.0},
    {"sentence1": "charged twice", "sentence2": "please refund money", "score": 2.5},
]


def read(folder: Path, rows: list[dict[str, Any]], split: str = "train", name: str = "rows") -> RankingTable:
    """Rows as a table, by way of a file."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = Report()
    table = RetrievalSchema.read(str(path), {}, report, {"split": split})
    report.raise_if_errors()
    return table


def new_task(
    encoder: Path,
    table: RankingTable,
    kind: str = "dense",
    dropout: float | None = None,
    task: Any = Retrieval,
    **settings: Any,
) -> tuple[Retrieval, Any]:
    """A task with a checkpoint's weights, in evaluation mode, and its tokenizer."""  # fmt: skip
    schema = RetrievalSchema.fit(table, {"query": "query"}, {"negatives": 2} | settings, 64)
    torch.manual_seed(3)
    made = task(weights.load_encoder(encoder, dropout), schema, Optim(lr=1e-3), kind=kind, **settings)
    made.load_head(weights.read_tensors(encoder))
    made.read_modules(encoder)
    return made.eval(), load_tokenizer(encoder)


def with_language_head(encoder: Path, folder: Path) -> Path:
    """A checkpoint of the same tokenizer whose masked-language head gives weights of some size."""
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(encoder))
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.2)
        elif "word_embeddings" in name or "tok_embeddings" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    for path in encoder.glob("tokenizer*"):
        shutil.copyfile(path, folder / path.name)
    return folder


MakeEncoder = Callable[..., Path]
