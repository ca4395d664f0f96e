"""Saved runs with a tiny random BERT: nothing is trained, but every file of a run is there."""

from __future__ import annotations

import json
import os
import re
import socket
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from gradio_client import Client
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertModel

from modernbert import weights
from tasks.classification import Classification, ClassificationSchema
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer
from tasks.evaluation import evaluate
from tasks.ner import Ner
from tasks.ner_schema import NerSchema
from tasks.reranking import Reranking
from tasks.reranking_schema import RerankingSchema
from tasks.retrieval import Retrieval
from tasks.retrieval_schema import RetrievalSchema
from tasks.run import Run, save_run, write_json
from ui.page import serving
from ui.ports import free_port
from ui.shelf import Shelf
from ui.training import Trainings

TEXTS = [
    "The parcel has not come yet",
    "I was charged twice for one order",
    "My password does not work",
    "How do I send the shoes back?",
    "The courier left it with a neighbour <b>again</b>",
    "Please refund ${my} {{money}}",
    "The app closes when I open the map",
    "Where is my order? " * 20,
]
PAIRS = ["delivery", "money", "account", "returns", "delivery", "money", "app", "delivery"]
MAX_LENGTH = 24  # tokens; cuts the last text
THINGS = {"parcel": "THING", "order": "THING", "password": "THING", "courier": "PERSON", "neighbour": "PERSON"}


@pytest.fixture(scope="session")
def encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT of 2 layers, 32 wide, and its WordPiece tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    # Not trained: the trainer breaks ties in another order each time.
    words = sorted(set(re.findall(r"\w+|[^\w\s]", " ".join(TEXTS + PAIRS).lower())))
    letters = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    tokens = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *letters])
    wordpiece = BertWordPieceTokenizer(vocab={token: i for i, token in enumerate(tokens)}, lowercase=True)
    wordpiece.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 64}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=wordpiece.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.3,  # at the usual 0.02 all texts look alike
    )
    BertModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def make_run(encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """make_run(labels, kind=…, pair=…) -> a loaded Run whose rows have these labels in turn."""

    def make(
        labels: list[str],
        kind: str = "auto",
        pair: bool = False,
        thresholds: list[float] | None = None,
        name: str | None = None,
        seed: int = 1,
    ) -> Run:
        folder = tmp_path_factory.mktemp("runs") / (name or f"{kind}-run")
        columns: dict[str, list[Any]] = {"message": list(TEXTS)}
        roles = {"text": "message", "label": "team"}
        if pair:
            columns["topic"], roles["text_pair"] = list(PAIRS), "topic"
        rows = max(len(TEXTS), len(labels))
        columns = {name: [values[i % len(values)] for i in range(rows)] for name, values in columns.items()}
        columns["team"] = [labels[i % len(labels)] for i in range(rows)]
        table = Table("rows.csv", columns, list(range(2, rows + 2)))
        schema = ClassificationSchema.fit(table, roles, {"kind": kind}, MAX_LENGTH)
        torch.manual_seed(seed)
        task = Classification(weights.load_encoder(encoder_folder), schema, kind=kind).eval()
        # The head of a fresh model says nearly the same for every text; a larger one tells them apart.
        torch.nn.init.normal_(task.head.classifier.weight, std=0.5)
        task.thresholds = thresholds
        return saved(folder, task, table, encoder_folder, {"kind": kind})

    return make


def saved(folder: Path, task: Any, table: Table, encoder_folder: Path, settings: dict[str, Any]) -> Run:
    """Evaluate a task on its own rows, save it, and load the run."""
    examples = task.schema.examples(table, load_tokenizer(encoder_folder), "evaluate")
    report = evaluate(task, examples, table, "test", folder)
    facts = {"encoder": {"source": "tiny"}, "data": {"train": {"source": "rows.csv", "rows": len(table)}}}
    save_run(folder, task, encoder_folder, settings, facts)
    write_json(folder / "metrics.json", {"test": report.compute()})
    (folder / "README.md").write_text("---\ntags: [x]\n---\n\n# The card\n", encoding="utf-8")
    return Run.load(folder, device="cpu")


@pytest.fixture(scope="session")
def ner_run(tiny_encoder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two types of entities, found at random; the rows have columns of the names that answers take.

    The encoder has a fixed vocabulary: one that is trained differs from run to run, and so would what is found.
    """
    encoder_folder = tiny_encoder("bert")
    found = [
        [(at, at + len(word), label) for word, label in THINGS.items() if (at := text.find(word)) >= 0]
        for text in TEXTS
    ]
    columns = {"text": list(TEXTS), "entities": [sorted(spans) for spans in found], "entities_predicted": ["-"] * 8}
    table = Table("rows.jsonl", columns, list(range(1, len(TEXTS) + 1)))
    schema = NerSchema.fit(table, {"text": "text"}, {}, MAX_LENGTH)
    torch.manual_seed(1)
    task = Ner(weights.load_encoder(encoder_folder), schema).eval()
    torch.nn.init.normal_(task.head.classifier.weight, std=0.8)  # decided tags
    return saved(tmp_path_factory.mktemp("runs") / "ner-run", task, table, encoder_folder, {})


#: Queries with the place among TEXTS of what answers them.
ASKED = {"where is my parcel": 0, "charged twice": 1, "password does not work": 2, "send shoes back": 3}


@pytest.fixture(scope="session")
def make_search_run(tiny_encoder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """make_search_run(kind) -> a run that searches, untrained."""

    def make(kind: str = "dense", name: str | None = None) -> Run:
        folder, encoder = tmp_path_factory.mktemp("search"), tiny_encoder("bert")
        rows = [{"query": query, "positive": TEXTS[at]} for query, at in ASKED.items()]
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        table = RetrievalSchema.read(str(path), {}, Report(), {"split": "test"})
        schema = RetrievalSchema.fit(table, {"query": "query"}, {}, MAX_LENGTH)
        torch.manual_seed(1)
        task = Retrieval(weights.load_encoder(encoder), schema, kind=kind).eval()
        task.load_head(weights.read_tensors(encoder))
        task.read_modules(encoder)
        return saved(folder / (name or f"{kind}-search"), task, table, encoder, {"kind": kind})

    return make


@pytest.fixture(scope="session")
def search_run(make_search_run: Callable[..., Run]) -> Run:
    """One vector a text."""
    return make_search_run()


@pytest.fixture(scope="session")
def rerank_run(tiny_encoder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Scores of pairs, untrained: each query with four candidates."""
    folder, encoder = tmp_path_factory.mktemp("rerank"), tiny_encoder("bert")
    rows = [
        {"query": query, "document": TEXTS[i], "label": int(i == at)} for query, at in ASKED.items() for i in range(4)
    ]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    table = RerankingSchema.read(str(path), {}, Report(), {})
    schema = RerankingSchema.fit(table, {}, {}, MAX_LENGTH)
    torch.manual_seed(2)
    task = Reranking(weights.load_encoder(encoder), schema).eval()
    torch.nn.init.normal_(task.head.classifier.weight, std=0.5)
    return saved(folder / "rerank-run", task, table, encoder, {})


@pytest.fixture(scope="session")
def run(make_run: Callable[..., Run]) -> Run:
    """Five classes."""
    return make_run(["delivery", "billing", "account", "returns", "app"])


@contextmanager
def opened(*runs: Run, trainings: Trainings | None = None) -> Iterator[Client]:
    """A client of the page of these runs, which is really served on a free port."""
    # Workers of pytest-xdist look for a port at the same time: each has a hundred of its own.
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    port = free_port("127.0.0.1", 20_000 + 100 * worker)
    shelf = Shelf(loaded={run.folder.name: run for run in runs})
    with serving(shelf, "127.0.0.1", port, trainings) as address:
        yield Client(address, verbose=False, analytics_enabled=False)


@pytest.fixture(scope="session")
def open_page() -> Callable[..., Any]:
    return opened


@pytest.fixture(scope="session")
def client(run: Run) -> Iterator[Client]:
    """The page of the five classes."""
    with opened(run) as client:
        yield client


@pytest.fixture
def busy_port() -> Iterator[int]:
    """A port that another program listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]
