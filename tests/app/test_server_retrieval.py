"""Vectors, rankings and an index over HTTP: the numbers of the runs, of sentence-transformers and of `search`."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from server_runs import LIMITS, client_of, settings
from starlette.testclient import TestClient
from transformers import AutoConfig, AutoModelForMaskedLM

from app.server.context import Context
from modernbert import weights
from modernbert.errors import ConfigError
from tasks.data.ranking import Document
from tasks.data.readers import Table
from tasks.embedding import Embedder
from tasks.reranking import Reranking
from tasks.reranking_schema import RerankingSchema
from tasks.retrieval import Retrieval
from tasks.retrieval_schema import RetrievalSchema
from tasks.run import Run, save_run
from tasks.search.index import Index
from tasks.search.rerank import Reranker, pair_scores
from tasks.search.searcher import Searcher

Encoders = Callable[[str], Path]
QUERY = "where is my order"
DOCUMENTS = ["the courier left it with a neighbour", "money back please", "the app closes again", "send shoes back",
             "my parcel has not come yet", "password does not work"]  # fmt: skip
LONG = "the parcel has not come yet " * 8  # 50 tokens


def save_retrieval(folder: Path, encoder: Path, kind: str = "dense") -> Path:
    schema = RetrievalSchema({"query": "query"}, "tuples", 24, "please ", "the ", 12)
    torch.manual_seed(2)
    folder.mkdir(parents=True)
    if kind == "sparse":
        encoder = with_language_head(encoder, folder / "base")
    task = Retrieval(weights.load_encoder(encoder), schema, kind=kind).eval()  # type: ignore[arg-type]
    task.load_head(weights.read_tensors(encoder))
    save_run(folder, task, encoder, {"kind": kind}, {"encoder": {"source": str(encoder)}})
    return folder


def with_language_head(encoder: Path, folder: Path) -> Path:
    """A checkpoint of the same tokenizer with a masked-language head of some size."""
    model = AutoModelForMaskedLM.from_config(AutoConfig.from_pretrained(encoder))
    torch.nn.init.normal_(model.cls.predictions.bias, std=0.2)
    model.save_pretrained(folder)
    for path in encoder.glob("tokenizer*"):
        shutil.copyfile(path, folder / path.name)
    return folder


def save_reranker(folder: Path, encoder: Path) -> Path:
    rows = {"query": [QUERY] * 6, "document": DOCUMENTS, "label": [1, 0, 0, 0, 1, 0]}
    schema = RerankingSchema.fit(Table("rows.csv", rows, [*range(2, 8)]), {}, {}, 40)  # type: ignore[arg-type]
    torch.manual_seed(5)
    task = Reranking(weights.load_encoder(encoder), schema).eval()
    with torch.no_grad():  # texts of a tiny random encoder are else all alike
        for weight in task.encoder.parameters():
            weight.mul_(5 if weight.ndim == 2 else 1)
    torch.nn.init.normal_(task.head.classifier.weight, std=0.3)  # type: ignore[union-attr, arg-type]
    folder.mkdir(parents=True)
    save_run(folder, task, encoder, {}, {"encoder": {"source": "tiny"}})
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def manual(folder: Path, tiny_encoder: Encoders) -> Path:
    return save_retrieval(folder / "manual", tiny_encoder("bert"))


@pytest.fixture(scope="module")
def reranker(folder: Path, tiny_encoder: Encoders) -> Path:
    return save_reranker(folder / "reranker", tiny_encoder("modernbert"))


@pytest.fixture(scope="module")
def index(folder: Path, manual: Path) -> Path:
    embedder = Embedder.from_run(manual, "cpu")
    made = Index.create(folder / "index", "exact", embedder, {"run": str(manual)}, "docs")
    made.add([Document(f"d{i}", "", text) for i, text in enumerate(DOCUMENTS)], embedder)
    return folder / "index"


@pytest.fixture(scope="module")
def client(manual: Path, reranker: Path, index: Path) -> Iterator[TestClient]:
    with client_of(Context(settings(manual, reranker, index=str(index)))) as client:
        yield client


def test_vectors_are_those_of_the_run(client: TestClient, manual: Path) -> None:
    embedder = Embedder.from_run(manual, "cpu")
    for role in ("query", "document"):
        found = client.post("/embed", json={"inputs": DOCUMENTS, "prompt_name": role, "normalize": True}).json()
        assert np.allclose(found, embedder.encode(DOCUMENTS, role).values, atol=1e-6)
    single = client.post("/embed", json={"inputs": DOCUMENTS[0]}).json()
    assert np.allclose(single, [found[0]], atol=1e-6)
    assert np.linalg.norm(single[0]) == pytest.approx(1, abs=1e-6)


def test_vectors_are_those_of_sentence_transformers(client: TestClient, manual: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.SentenceTransformer(str(manual / "model"), device="cpu")
    found = client.post("/embed", json={"inputs": DOCUMENTS, "prompt_name": "document"}).json()
    assert np.allclose(found, model.encode(DOCUMENTS, prompt_name="document"), atol=1e-5)


@pytest.mark.parametrize(("kind", "route"), [("multi_vector", "/embed_all"), ("sparse", "/embed_sparse")])
def test_other_kinds_of_vectors(kind: str, route: str, tmp_path: Path, tiny_encoder: Encoders) -> None:
    run = save_retrieval(tmp_path / "run", tiny_encoder("bert"), kind)
    expected = Embedder.from_run(run, "cpu").encode(DOCUMENTS, "document")
    with client_of(Context(settings(run))) as client:
        found = client.post(route, json={"inputs": DOCUMENTS}).json()
        assert client.post("/embed", json={"inputs": "a"}).status_code == 422
    for i, each in enumerate(found):
        values = expected.select([i]).values
        if kind == "sparse":
            dense = torch.zeros(expected.dimension)
            dense[[v["index"] for v in each]] = torch.tensor([v["value"] for v in each])
            assert all(v["value"] > 0 for v in each)
            assert torch.allclose(dense, values.to_dense()[0], atol=1e-5)
        else:
            assert np.allclose(each, values, atol=1e-6)


def test_a_long_text_is_never_cut_in_silence(client: TestClient) -> None:
    reply = client.post("/embed", json={"inputs": [LONG, "a", LONG], "prompt_name": "query"})
    assert (reply.status_code, reply.headers["X-Truncated"]) == (200, "2")
    for route, body in {
        "/embed": {"inputs": [LONG]},
        "/rerank": {"query": QUERY, "texts": ["a", LONG]},
        "/search": {"query": LONG},
    }.items():
        assert client.post(route, json=body).headers["X-Truncated"] == "1"
        reply = client.post(route, json=body | {"truncate": False})
        assert (reply.status_code, "is longer than the" in reply.json()["error"]) == (413, True)


def test_texts_in_the_order_of_the_reranker(client: TestClient, reranker: Path) -> None:
    scores = pair_scores(Run.load(reranker, "cpu"), [QUERY] * 6, DOCUMENTS)
    order = sorted(range(6), key=lambda i: -scores[i])
    found = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS}).json()
    assert [each["index"] for each in found] == order
    assert [each["score"] for each in found] == pytest.approx([scores[i] for i in order], abs=1e-6)
    assert set(found[0]) == {"index", "score"}
    assert max(scores) - min(scores) > 0.01
    body = {"query": QUERY, "texts": DOCUMENTS, "return_text": True, "raw_scores": False, "truncate": True}
    assert [each["text"] for each in client.post("/rerank", json=body).json()] == [DOCUMENTS[i] for i in order]


def test_scores_are_those_of_a_cross_encoder(client: TestClient, reranker: Path) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    model = sentence_transformers.CrossEncoder(str(reranker / "model"), device="cpu")
    theirs = model.predict([(QUERY, text) for text in DOCUMENTS])
    found = client.post("/rerank", json={"query": QUERY, "texts": DOCUMENTS}).json()
    assert [each["score"] for each in found] == pytest.approx(sorted(theirs.tolist(), reverse=True), abs=1e-5)


@pytest.mark.parametrize("mode", ["dense", "text", "hybrid"])
def test_search_finds_what_the_verb_finds(client: TestClient, manual: Path, index: Path, mode: str) -> None:
    searcher = Searcher(Index.open(index), Embedder.from_run(manual, "cpu"))
    (expected,) = searcher.search([QUERY], 3, mode)
    found = client.post("/search", json={"query": QUERY, "k": 3, "mode": mode}).json()
    assert [(hit["id"], hit["text"]) for hit in found] == [(hit.id, hit.text) for hit in expected]
    assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_search_with_a_second_run(client: TestClient, manual: Path, reranker: Path, index: Path) -> None:
    second = Reranker(Run.load(reranker, "cpu"))
    (expected,) = Searcher(Index.open(index), Embedder.from_run(manual, "cpu"), second).search([QUERY], 4)
    found = client.post("/search", json={"query": QUERY, "k": 4, "rerank": True}).json()
    assert [hit["id"] for hit in found] == [hit.id for hit in expected]
    assert [hit["score"] for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_a_file_of_pairs_has_ranks_among_all_its_rows(manual: Path, reranker: Path) -> None:
    """Rows of one query fall into several batches here; their ranks are still one order."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["query", "document"])
    rows = [(query, document) for query in (QUERY, "shoes", "map") for document in DOCUMENTS]
    writer.writerows(rows)
    context = Context(settings(manual, reranker, tokens_per_batch=20))
    with client_of(context) as client:
        reply = client.post(
            "/runs/reranker/batch", content=text.getvalue().encode(), headers={"content-type": "text/csv"}
        )
    found = list(csv.DictReader(io.StringIO(reply.text)))
    assert [(row["query"], row["document"]) for row in found] == rows
    for start in (0, 6, 12):
        part = found[start : start + 6]
        order = sorted(part, key=lambda row: -float(row["score"]))
        assert [row["rank"] for row in order] == [str(rank) for rank in range(1, 7)]


BAD: list[tuple[str, Any, int]] = [
    ("/embed", {"inputs": []}, 422),
    ("/embed", {"inputs": [""]}, 422),
    ("/embed", {"inputs": [["a", "b"]]}, 422),
    ("/embed", {"inputs": "a", "normalize": False}, 422),
    ("/embed", {"inputs": "a", "prompt_name": "passage"}, 422),
    ("/embed", {"inputs": ["a"] * (LIMITS.texts + 1)}, 413),
    ("/embed_all", {"inputs": "a"}, 422),
    ("/embed_sparse", {"inputs": "a"}, 422),
    ("/rerank", {"query": "a"}, 422),
    ("/rerank", {"query": "a", "texts": "b"}, 422),
    ("/rerank", {"query": "a", "texts": []}, 422),
    ("/rerank", {"query": "", "texts": ["b"]}, 422),
    ("/rerank", {"query": "a", "texts": ["b", None]}, 422),
    ("/rerank", {"query": "a", "texts": ["b"], "raw_scores": True}, 422),
    ("/rerank", {"query": "a", "texts": ["b"] * (LIMITS.texts + 1)}, 413),
    ("/search", {"query": ""}, 422),
    ("/search", {"query": ["a"]}, 422),
    ("/search", {"query": "a", "k": 0}, 422),
    ("/search", {"query": "a", "k": 10_000}, 422),
    ("/search", {"query": "a", "mode": "sql"}, 422),
    ("/search", {"query": "a", "index": "/etc"}, 422),
]


@pytest.mark.parametrize(("route", "body", "status"), BAD)
def test_bad_bodies(client: TestClient, route: str, body: Any, status: int) -> None:
    reply = client.post(route, json=body)
    assert (reply.status_code, reply.json()["error_type"]) == (status, "validation")


def test_info_names_routes_and_documents_and_no_path(client: TestClient, folder: Path) -> None:
    info = client.get("/info")
    assert str(folder) not in info.text
    assert info.json()["documents"] == 6
    assert [run["routes"] for run in info.json()["runs"]] == [
        ["/runs/manual/search", "/runs/manual/embed", "/runs/manual/batch"],
        ["/runs/reranker/rerank", "/runs/reranker/batch"],
    ]


def test_an_index_needs_the_run_that_made_it(
    manual: Path, reranker: Path, index: Path, tmp_path: Path, tiny_encoder: Encoders
) -> None:
    other = save_retrieval(tmp_path / "other", tiny_encoder("modernbert"))
    for runs, message in (([reranker], "none of the runs is one of retrieval"), ([other], "made by another model")):
        context = Context(settings(*runs, index=str(index)))
        with pytest.raises(ConfigError, match=message), client_of(context):
            pass
    moved = tmp_path / "moved"
    shutil.copytree(index, moved)
    with client_of(Context(settings(other, manual, index=str(moved)))) as client:
        assert client.post("/search", json={"query": QUERY}).status_code == 200
        assert client.post("/runs/other/search", json={"query": QUERY}).status_code == 422
