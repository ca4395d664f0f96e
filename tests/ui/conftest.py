"""Saved runs with a tiny random BERT: nothing is trained, but every file of a run is there."""

from __future__ import annotations

import json
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
from tasks.data.tokenise import load_tokenizer
from tasks.evaluation import evaluate
from tasks.ner import Ner
from tasks.ner_schema import NerSchema
from tasks.run import Run, save_run, write_json
from ui.page import free_port, serving

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

    def make(labels: list[str], kind: str = "auto", pair: bool = False, thresholds: list[float] | None = None) -> Run:
        folder = tmp_path_factory.mktemp("runs") / f"{kind}-run"
        columns: dict[str, list[Any]] = {"message": list(TEXTS)}
        roles = {"text": "message", "label": "team"}
        if pair:
            columns["topic"], roles["text_pair"] = list(PAIRS), "topic"
        rows = max(len(TEXTS), len(labels))
        columns = {name: [values[i % len(values)] for i in range(rows)] for name, values in columns.items()}
        columns["team"] = [labels[i % len(labels)] for i in range(rows)]
        table = Table("rows.csv", columns, list(range(2, rows + 2)))
        schema = ClassificationSchema.fit(table, roles, {"kind": kind}, MAX_LENGTH)
        torch.manual_seed(1)
        task = Classification(weights.load_encoder(encoder_folder), schema, kind=kind).eval()
        # The head of a fresh model says nearly the same for every text; a larger one tells them apart.
        torch.nn.init.normal_(task.head.classifier.weight, std=0.5)
        task.thresholds = thresholds
        return saved(folder, task, table, encoder_folder, {"kind": kind})

    return make


def saved(folder: Path, task: Any, table: Table, encoder_folder: Path, settings: dict[str, Any]) -> Run:
    """Evaluate a task on its own rows, save it, and load the run."""
    examples = task.schema.examples(table, load_tokenizer(encoder_folder))
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


@pytest.fixture(scope="session")
def run(make_run: Callable[..., Run]) -> Run:
    """Five classes."""
    return make_run(["delivery", "billing", "account", "returns", "app"])


@contextmanager
def opened(run: Run) -> Iterator[Client]:
    """A client of the page of a run, which is really served on a free port."""
    port = free_port("127.0.0.1", 20_000)
    with serving(run, "127.0.0.1", port) as address:
        yield Client(address, verbose=False, analytics_enabled=False)


@pytest.fixture(scope="session")
def open_page() -> Callable[[Run], Any]:
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
