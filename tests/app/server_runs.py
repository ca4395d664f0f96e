"""Saved runs for the tests of the server, with heads that nothing has trained, and servers in this process."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from starlette.testclient import TestClient

from app.server import loading
from app.server.context import Context
from app.server.guard import Guard
from app.server.routes import build_app
from app.server.settings import Limits, Settings, named
from modernbert import weights
from tasks.classification import Classification, ClassificationSchema
from tasks.data.readers import Table
from tasks.ner import Ner
from tasks.ner_schema import NerSchema
from tasks.run import save_run

TEXTS = [
    "the parcel has not come yet",
    "i was charged twice for one order",
    "my password does not work",
    "how do i send shoes back",
    "courier left it with a neighbour again",
    "please refund money",
]
TOPICS = ["parcel", "order", "password", "shoes", "courier", "money"]
LIMITS = Limits(body=20_000, upload=50_000, texts=100, tokens=2_000, waiting=64, seconds=20.0)
MAX_LENGTH = 24


def save_classifier(
    folder: Path, encoder: Path, labels: list[str], kind: str = "auto", pair: bool = False, seed: int = 1
) -> Path:
    """A run over `text` (and `topic`) whose rows have these labels in turn."""
    columns: dict[str, list[Any]] = {"text": TEXTS, "topic": TOPICS}
    columns["label"] = [labels[i % len(labels)] for i in range(len(TEXTS))]
    roles = {"text": "text", "label": "label"} | ({"text_pair": "topic"} if pair else {})
    schema = ClassificationSchema.fit(Table("rows.csv", columns, [*range(2, 8)]), roles, {"kind": kind}, MAX_LENGTH)
    torch.manual_seed(seed)
    task = Classification(weights.load_encoder(encoder), schema, kind=kind).eval()
    # The head of a fresh model says nearly the same for every text; a larger one tells them apart.
    torch.nn.init.normal_(task.head.classifier.weight, std=0.5)
    folder.mkdir(parents=True)
    save_run(folder, task, encoder, {"kind": kind}, {"encoder": {"source": "tiny"}})
    return folder


def save_tagger(folder: Path, encoder: Path) -> Path:
    """A run that finds two types of entities, at random."""
    columns = {"text": TEXTS, "entities": [[(0, 3, "THING")], [(0, 1, "PERSON")], [], [], [], []]}
    schema = NerSchema.fit(Table("rows.jsonl", columns, [*range(1, 7)]), {"text": "text"}, {}, MAX_LENGTH)
    torch.manual_seed(1)
    task = Ner(weights.load_encoder(encoder), schema).eval()
    torch.nn.init.normal_(task.head.classifier.weight, std=0.8)
    folder.mkdir(parents=True)
    save_run(folder, task, encoder, {}, {"encoder": {"source": "tiny"}})
    return folder


def settings(*folders: Path, **changed: Any) -> Settings:
    """Of a server of these runs; a key of `Limits` goes there."""
    inside = {field.name for field in dataclasses.fields(Limits)} & set(changed)
    limits = dataclasses.replace(LIMITS, **{key: changed.pop(key) for key in inside})
    keys: dict[str, Any] = {
        "host": "127.0.0.1", "port": 1, "token": None, "page": False, "tokens_per_batch": "auto", "batch_wait": 1.0,
        "device": "cpu", "precision": "auto", "threads": 1, "index": None,
    }  # fmt: skip
    return Settings(runs=named([str(folder) for folder in folders]), limits=limits, **(keys | changed))


@contextmanager
def client_of(context: Context, load: bool = True) -> Iterator[TestClient]:
    """A client of a server in this process; with `load` its runs are loaded and it is ready."""
    if load:
        loading.load(context)
        context.phase = "ready"
    try:
        yield TestClient(Guard(build_app(context), context), "http://127.0.0.1", raise_server_exceptions=False)  # type: ignore[arg-type]
    finally:
        context.batcher.close()
