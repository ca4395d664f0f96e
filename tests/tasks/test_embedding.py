"""Texts to vectors: order, prefixes, streams; runs, plain encoders and published ones; the fingerprint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from retrieval_parts import ROWS, MakeEncoder, new_task, read, with_language_head

from modernbert.errors import ConfigError, DataError
from modernbert.packing import pack
from tasks.classification import Classification, ClassificationSchema
from tasks.data.readers import Table
from tasks.embedding import Embedder
from tasks.run import save_run

TEXTS = [row["positive"] for row in ROWS] + ["good", "please refund money " * 9]


@pytest.mark.parametrize("kind", ["dense", "multi_vector", "sparse"])
def test_order_is_kept_whatever_the_batches(tiny_encoder: MakeEncoder, tmp_path: Path, kind: str) -> None:
    encoder = tiny_encoder("bert")
    if kind == "sparse":
        encoder = with_language_head(encoder, tmp_path / "mlm")
    task, tokenizer = new_task(encoder, read(tmp_path, ROWS), kind, query_prefix="where is ")
    embedder = Embedder(task, tokenizer)
    done: list[int] = []
    found = embedder.encode(TEXTS, "query", tokens_per_batch=16, advance=done.append)
    assert (sum(done), len(found), embedder.dimension) == (len(TEXTS), len(TEXTS), found.dimension)
    streamed = list(embedder.stream(iter(TEXTS), "query", chunk=3))
    assert [len(part) for part in streamed] == [3, 3, 2]
    for i, text in enumerate(TEXTS):
        with torch.no_grad():
            alone = task.encode(pack([tokenizer(f"where is {text}").input_ids]), "query").stored()
        for other in (found.select([i]), streamed[i // 3].select([i % 3])):
            left, right = (v.values.to_dense() if v.is_csr else v.values for v in (alone, other))
            assert torch.allclose(left, right, atol=1e-5)


def test_a_plain_encoder_is_mean_pooled(tiny_encoder: MakeEncoder) -> None:
    embedder = Embedder.from_encoder(str(tiny_encoder("modernbert")), device="cpu")
    assert (embedder.kind, embedder.dimension, embedder.task.schema.max_length) == ("dense", 32, 256)
    ids = embedder.tokenizer(TEXTS[0]).input_ids
    with torch.no_grad():
        expected = torch.nn.functional.normalize(embedder.task.encoder(pack([ids])).mean(0), dim=0)
    assert torch.allclose(embedder.encode(TEXTS[:1], "document").values[0], expected, atol=1e-6)


def test_published_modules_are_read() -> None:
    """all-MiniLM-L6-v2 as sentence-transformers has it: mean pooling, 256 tokens."""
    peer = pytest.importorskip("sentence_transformers")
    from modernbert import weights

    embedder = Embedder.from_encoder("minilm", device="cpu")
    assert (embedder.dimension, embedder.task.schema.max_length) == (384, 256)
    texts = ["How do I reset it?", "a much longer text about nothing in particular " * 60]
    theirs = torch.from_numpy(peer.SentenceTransformer(str(weights.resolve("minilm")), device="cpu").encode(texts))
    assert torch.allclose(embedder.encode(texts, "query").values, theirs, atol=1e-5)


def test_fingerprint_is_of_all_that_decides_a_vector(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    encoder, table = tiny_encoder("bert"), read(tmp_path, ROWS)

    def fingerprint(**settings: Any) -> str:
        return Embedder(*new_task(encoder, table, **settings)).fingerprint

    own = fingerprint()
    assert own == fingerprint()
    others = [
        fingerprint(**s)
        for s in ({"pooling": "cls"}, {"query_prefix": "q "}, {"projection": 8}, {"kind": "multi_vector"})
    ]
    assert len({own, *others}) == 5
    task, tokenizer = new_task(encoder, table)
    with torch.no_grad():
        next(task.encoder.parameters())[0, 0] += 1e-3
    assert Embedder(task, tokenizer).fingerprint != own
    save_run(tmp_path / "run", new_task(encoder, table)[0], encoder, {}, {})
    assert Embedder.from_run(tmp_path / "run", "cpu").fingerprint == own


def test_what_is_refused(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    table = Table("rows.csv", {"text": ["good", "bad"], "label": ["a", "b"]}, [2, 3])
    schema = ClassificationSchema.fit(table, {"text": "text", "label": "label"}, {}, 32)
    embedder = Embedder.from_encoder(str(tiny_encoder("bert")), device="cpu")
    save_run(tmp_path, Classification(embedder.task.encoder, schema), tiny_encoder("bert"), {}, {})
    with pytest.raises(ConfigError, match="give a run of task=retrieval"):
        Embedder.from_run(tmp_path, "cpu")
    with pytest.raises(DataError, match="give a string"):
        embedder.encode(["good", 3], "query")  # type: ignore[list-item]
