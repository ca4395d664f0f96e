"""A small corpus with questions, and runs trained on it: what the tests of index, search, mine and compare share.

A test file takes the fixtures by `pytest_plugins = "search_runs"`.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli import main

#: Words that the tiny tokenizer knows; each document has two of them.
WORDS = "parcel money password shoes app map courier neighbour".split()
DOCUMENTS = {f"d{i}": f"the {a} and the {b} come back" for i, (a, b) in enumerate(itertools.combinations(WORDS, 2))}


def write_csv(path: Path, *rows: tuple[str, ...]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with docs.csv (id, text) and questions.csv (query_id, query, document_id)."""
    folder = tmp_path_factory.mktemp("corpus")
    write_csv(folder / "docs.csv", ("id", "text"), *DOCUMENTS.items())
    asked = [(f"q{key}", f"where is my {text.split()[1]} {text.split()[4]}", key) for key, text in DOCUMENTS.items()]
    write_csv(folder / "questions.csv", ("query_id", "query", "document_id"), *asked)
    return folder


@pytest.fixture(scope="session")
def zero_shot(tiny_encoder: Callable[..., Path]) -> str:
    """The words that choose an untrained encoder."""
    return f"encoder.source={tiny_encoder('bert')}"


@pytest.fixture(scope="session")
def train_run(corpus_folder: Path, zero_shot: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """train_run("name", "key=value", …) -> a retrieval run of a few steps; trained once a session for each name."""
    made: dict[str, Path] = {}

    def trained(name: str, *words: str) -> Path:
        if name not in made:
            run = tmp_path_factory.mktemp("runs") / name
            files = [f"data.train={corpus_folder / 'questions.csv'}", f"data.corpus={corpus_folder / 'docs.csv'}"]
            files.append(f"data.test={corpus_folder / 'questions.csv'}")
            settings = ["trainer=cpu", "trainer.max_epochs=1", "optim.batch_size=8", "optim.lr=1e-3", f"run_dir={run}"]
            assert main(["train", "task=retrieval", zero_shot, *files, *settings, *words]) == 0
            made[name] = run
        return made[name]

    return trained
