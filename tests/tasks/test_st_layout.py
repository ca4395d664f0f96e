"""A saved model in sentence-transformers: all three kinds give our vectors there; its folders are read back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from retrieval_parts import ROWS, MakeEncoder, new_task, read, with_language_head

from modernbert.errors import ConfigError, EncoderError
from modernbert.packing import pack, unpack
from tasks.run import Run, save_run
from tasks.st_layout import Layout, read_layout, write_layout
from tasks.vectors import similarity

peer = pytest.importorskip("sentence_transformers", reason="the oracle of the saved layout")

QUERIES = [row["query"] for row in ROWS]
DOCUMENTS = [row["positive"] for row in ROWS] + ["the courier please refund money " * 12]  # the last one is cut
PREFIXES = {"query_prefix": "where is ", "document_prefix": "the app "}


def saved(folder: Path, encoder: Path, kind: str, **settings: Any) -> Run:
    """A run that was saved and loaded."""
    task, _ = new_task(encoder, read(folder, ROWS), kind, **settings)
    if kind == "multi_vector":
        task.punctuation = task.punctuation.new_tensor([5, 6])
    save_run(folder / "run", task, encoder, {"kind": kind} | settings, {})
    return Run.load(folder / "run", "cpu")


def ours(run: Run, texts: list[str], role: Any) -> Any:
    ids = [
        torch.tensor(run.tokenizer(text).input_ids[: run.schema.max_length])
        for text in run.schema.with_prefix(texts, role)
    ]
    for row, text in zip(ids, run.schema.with_prefix(texts, role), strict=True):
        if len(run.tokenizer(text).input_ids) > len(row):
            row[-1] = run.tokenizer.sep_token_id
    with torch.no_grad():
        return run.task.encode(pack(ids), role)


@pytest.mark.parametrize(("family", "settings"), [
    ("bert", {}), ("bert", {"pooling": "cls", "projection": 12}), ("modernbert", PREFIXES),
    ("roberta", {"projection": 40, "query_max_length": 8} | PREFIXES),
])  # fmt: skip
def test_dense(tiny_encoder: MakeEncoder, tmp_path: Path, family: str, settings: dict[str, Any]) -> None:
    run = saved(tmp_path, tiny_encoder(family), "dense", **settings)
    model = peer.SentenceTransformer(str(tmp_path / "run" / "model"), device="cpu")
    assert model.similarity_fn_name == "cosine"
    limit = settings.get("query_max_length")
    if limit is None:
        found = torch.from_numpy(model.encode_query(QUERIES))
        assert torch.allclose(found, ours(run, QUERIES, "query").values, atol=1e-5)
    else:
        from tasks.embedding import Embedder

        found = torch.from_numpy(model.encode_query([*QUERIES, DOCUMENTS[-1]]))
        assert torch.allclose(
            found, Embedder(run.task, run.tokenizer).encode([*QUERIES, DOCUMENTS[-1]], "query").values, atol=1e-5
        )
    found = torch.from_numpy(model.encode_document(DOCUMENTS))
    assert torch.allclose(found, ours(run, DOCUMENTS, "document").values, atol=1e-5)
    if "projection" in settings:
        assert found.shape[1] == settings["projection"]
        assert not torch.allclose(found, torch.zeros(()))


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_multi_vector(tiny_encoder: MakeEncoder, tmp_path: Path, family: str) -> None:
    run = saved(tmp_path, tiny_encoder(family), "multi_vector", projection=24, **PREFIXES)
    # The tiny vocabulary has no punctuation: its words stand for it, here and in the file of the mask.
    skipped = ["the", "app"]
    run.task.punctuation = torch.tensor(run.tokenizer.convert_tokens_to_ids(skipped))
    mask = tmp_path / "run" / "model" / "3_MultiVectorMask" / "config.json"
    mask.write_text(json.dumps(json.loads(mask.read_text()) | {"skiplist_words": skipped}))
    model = peer.MultiVectorEncoder(str(tmp_path / "run" / "model"), device="cpu")
    queries, documents = ours(run, QUERIES, "query"), ours(run, DOCUMENTS, "document")
    theirs = model.encode_query(QUERIES), model.encode_document(DOCUMENTS)
    for found, vectors in zip(theirs, (queries, documents), strict=True):
        assert [len(each) for each in found] == vectors.cu_seqlens.diff().tolist()
        assert torch.allclose(torch.cat(found), vectors.values, atol=1e-5)
    assert torch.allclose(model.similarity(*theirs), similarity(queries, documents), atol=1e-5)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_sparse(tiny_encoder: MakeEncoder, tmp_path: Path, family: str) -> None:
    encoder = with_language_head(tiny_encoder(family), tmp_path / "mlm")
    run = saved(tmp_path, encoder, "sparse", **PREFIXES)
    model = peer.SparseEncoder(str(tmp_path / "run" / "model"), device="cpu")
    for found, role in ((model.encode_query(QUERIES), "query"), (model.encode_document(DOCUMENTS), "document")):
        values = ours(run, QUERIES if role == "query" else DOCUMENTS, role).values
        assert torch.allclose(found.to_dense(), values, atol=1e-5)
        assert 0 < int((values > 0).sum()) < values.numel()
    assert model.similarity_fn_name == "dot"


def test_sparse_in_chunks_and_its_gradient(tiny_encoder: MakeEncoder, tmp_path: Path, monkeypatch: Any) -> None:
    encoder = with_language_head(tiny_encoder("bert"), tmp_path / "mlm")
    task, _ = new_task(encoder, read(tmp_path, ROWS), "sparse")
    packed = pack([[2, 8, 9, 10, 11, 12, 3], [2, 9, 3], [2, 30, 31, 3]])

    def values_and_gradients() -> list[torch.Tensor]:
        values = task(packed)
        (values * torch.linspace(-1, 1, values.numel()).view_as(values)).sum().backward()
        found = [values.detach(), *(p.grad.clone() for p in task.parameters())]
        task.zero_grad()
        return found

    whole = values_and_gradients()
    monkeypatch.setattr("tasks.segment_max.CHUNK_LOGITS", 2 * task.head.size)  # two tokens at a time
    for a, b in zip(whole, values_and_gradients(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    hidden = task.encoder(packed)
    inner = task.head.transform
    hidden = inner["norm"](torch.nn.functional.gelu(inner["dense"](hidden)))
    logits = hidden @ task.encoder.embeddings.word_embeddings.weight.t() + task.head.bias
    plain = torch.stack([torch.log1p(torch.relu(part)).amax(0) for part in unpack(logits, packed)])
    torch.testing.assert_close(plain, whole[0], atol=1e-5, rtol=1e-5)
    (plain * torch.linspace(-1, 1, plain.numel()).view_as(plain)).sum().backward()
    for parameter, gradient in zip(task.parameters(), whole[1:], strict=True):
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-5, rtol=1e-4)


def test_a_run_keeps_what_its_base_has(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    """A dense checkpoint of sentence-transformers: pooling, projection, prompts and length come with it."""
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    first = Transformer(str(tiny_encoder("bert")), max_seq_length=20)
    modules = [first, Pooling(32, "cls"), Dense(32, 10), Normalize()]
    prompts = {"query": "where is ", "passage": "the app "}
    theirs = peer.SentenceTransformer(modules=modules, prompts=prompts, device="cpu")
    theirs.save(str(tmp_path / "base"), create_model_card=False)
    found = read_layout(tmp_path / "base")
    assert found is not None
    assert (found.kind, found.pooling, found.activation) == ("dense", "cls", "tanh")
    assert (found.query_prefix, found.document_prefix) == ("where is ", "the app ")
    task, _ = new_task(tmp_path / "base", read(tmp_path, ROWS))
    assert (task.head.pool, task.head.size, task.head.activation) == ("cls", 10, "tanh")
    save_run(tmp_path / "run", task, tmp_path / "base", {}, {})
    run = Run.load(tmp_path / "run", "cpu")
    expected = torch.from_numpy(theirs.encode(QUERIES))
    assert torch.allclose(ours(run, QUERIES, "query").values, expected, atol=1e-5)
    again, _ = new_task(tmp_path / "base", read(tmp_path, ROWS), projection=6, pooling="mean")
    assert (again.head.pool, again.head.size, again.head.activation) == ("mean", 6, "identity")


def test_a_plain_encoder_has_no_layout(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    assert read_layout(tiny_encoder("bert")) is None
    run = saved(tmp_path, tiny_encoder("bert"), "dense")
    (run.folder / "model" / "modules.json").unlink()
    with pytest.raises(ConfigError, match="no modules of a dense model"):
        Run.load(run.folder, "cpu")


@pytest.mark.parametrize(("file", "change", "message"), [
    ("1_Pooling/config.json", {"pooling_mode_max_tokens": True}, "pooling must be cls or mean"),
    ("1_Pooling/config.json", {"include_prompt": False}, "the prompt included"),
    ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.GELU"}, "must be Tanh or Identity"),
    ("modules.json", [{"idx": 0, "path": "", "type": "sentence_transformers.models.WordEmbeddings"}], "WordEmbeddings"),
])  # fmt: skip
def test_what_would_compute_something_else_is_refused(tmp_path: Path, file: str, change: Any, message: str) -> None:
    layout = Layout("dense", "mean", {"linear.weight": torch.zeros(4, 8)})
    write_layout(tmp_path, layout, 8, {})
    path = tmp_path / file
    value = json.loads(path.read_text())
    path.write_text(json.dumps(value | change if isinstance(change, dict) else change))
    with pytest.raises(EncoderError, match=message):
        read_layout(tmp_path)


def test_a_layout_is_read_as_it_was_written(tmp_path: Path) -> None:
    weight = torch.randn(4, 8)
    layouts = [
        Layout("dense", "cls", {"linear.weight": weight, "linear.bias": weight[:, 0]}, "tanh", "a ", "b ", 64, 16),
        Layout("multi_vector", "mean", {"linear.weight": weight}, "identity", "", "", 64, None, False),
        Layout("sparse", "mean", {}, "identity", "q: ", "", 64),
    ]
    for layout in layouts:
        folder = tmp_path / layout.kind
        folder.mkdir()
        write_layout(folder, layout, 8, {})
        found = read_layout(folder)
        assert found is not None
        left, right = dict(vars(found)), dict(vars(layout))
        ours, theirs = left.pop("projection"), right.pop("projection")
        assert set(ours) == set(theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
        if layout.kind == "sparse":
            left["skips_punctuation"] = right["skips_punctuation"]
        if layout.kind == "dense":
            left["skips_punctuation"] = right["skips_punctuation"]
        assert left == right
        shutil.rmtree(folder)
