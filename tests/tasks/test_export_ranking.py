"""Exports of dense retrieval and of cross-encoders answer as the run does; other kinds are refused in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modernbert import weights
from modernbert.errors import ConfigError
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer
from tasks.export import Exporter, ParityError, Rows, open_export
from tasks.export.formats import require_fit
from tasks.export.padded import Padded, TorchModel
from tasks.reranking import Reranking
from tasks.reranking_schema import RerankingSchema
from tasks.retrieval import Retrieval
from tasks.retrieval_schema import RetrievalSchema
from tasks.run import Run, save_run

WORDS = ("parcel", "money", "password", "shoes", "courier", "map", "app", "neighbour", "order", "refund")
FAMILIES = ["bert", "roberta", "modernbert"]


def spread(task: torch.nn.Module) -> None:
    """Random weights so large that texts get different answers."""
    torch.manual_seed(2)
    with torch.no_grad():
        for name, value in task.named_parameters():
            if value.dim() == 2 and "embeddings" not in name:
                value.normal_(std=0.3)


def retrieval_run(folder: Path, encoder: Path, **settings: object) -> Run:
    """A saved run of retrieval, and rows beside it that its task.json names."""
    rows = folder.with_name(folder.name + ".jsonl")
    texts = [{"query": f"where is my {w} {'again ' * i}", "positive": f"the {w} has not come yet"}
             for i, w in enumerate(WORDS)]  # fmt: skip
    rows.write_text("".join(json.dumps(row) + "\n" for row in texts), encoding="utf-8")
    table = RetrievalSchema.read(str(rows), {}, Report(), {"split": "train"})
    schema = RetrievalSchema.fit(table, {"query": "query"}, settings, 60)
    torch.manual_seed(3)
    task = Retrieval(weights.load_encoder(encoder), schema, **settings)
    task.load_head(weights.read_tensors(encoder))
    task.read_modules(encoder)
    spread(task)
    save_run(folder, task, encoder, settings, {"data": {"test": {"source": str(rows), "rows": 10}}})
    return Run.load(folder, "cpu")


def reranking_run(folder: Path, encoder: Path, **settings: object) -> Run:
    """A saved run of reranking with its labelled pairs."""
    folder.mkdir(parents=True)
    pairs = [(f"where is my {q}", f"the {d} has not come yet {'again ' * i}", int(q == d))
             for q in WORDS[:4] for i, d in enumerate(WORDS)]  # fmt: skip
    lines = ["query,document,label", *(f"{q},{d},{label}" for q, d, label in pairs)]
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    table = RerankingSchema.read(str(folder / "predictions.csv"), {}, Report(), {})
    schema = RerankingSchema.fit(table, {}, settings, 60)
    task = Reranking(weights.load_encoder(encoder), schema, **settings)
    spread(task)
    save_run(folder, task, encoder, settings, {})
    return Run.load(folder, "cpu")


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[..., Path]) -> Run:
    folder = tmp_path_factory.mktemp("dense") / "run"
    return retrieval_run(folder, tiny_encoder("bert"), query_prefix="ask: ", projection=12, query_max_length=16)


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[..., Path]) -> Run:
    return reranking_run(tmp_path_factory.mktemp("cross") / "run", tiny_encoder("bert"))


def test_vectors_in_every_format(dense: Run, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("sentence_transformers")
    rows = Rows(dense)
    assert (rows.headline, rows.mode) == ("ndcg@10", "max")
    with Exporter(dense, rows, max_metric_drop=0.3) as exporter:
        for name in ("transformers", "sentence-transformers", "onnx", "onnx-int8"):
            parity = exporter.export(name, tmp_path / name)
            found = {item.name: item.value for item in parity.checks}
            assert found["prefixes of queries and documents"] == "'ask: ', ''"
            assert found["token ids of the tokenizer, rows"] == "16 of 16"
            worst = max(value for key, value in found.items() if key.startswith("vectors"))
            assert (1e-5 < worst < 0.2) if name == "onnx-int8" else worst < 1e-5
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert [(node.name, node.shape) for node in session.get_outputs()] == [("embedding", ["batch", 12])]
    card = (tmp_path / "onnx" / "README.md").read_text(encoding="utf-8")
    assert "| `embedding` (out) | float32 | (batch, 12) |" in card
    assert "Texts need their prefix: `ask: ` before queries." in card
    assert "encode_query(['Where is my order?'])" in (tmp_path / "sentence-transformers" / "README.md").read_text()


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@pytest.mark.parametrize("family", FAMILIES)
def test_pooling_is_inside(tmp_path: Path, tiny_encoder: Callable[..., Path], family: str, pooling: str) -> None:
    run = retrieval_run(tmp_path / "run", tiny_encoder(family), pooling=pooling)
    rows = Rows(run)
    model = TorchModel(Padded(run.folder / "model", "feature-extraction"))
    for packs, expected in zip(rows.packs.values(), rows.expected.values(), strict=True):
        for packed, answer in zip(packs, expected, strict=True):
            torch.testing.assert_close(model(packed), answer, atol=1e-5, rtol=0)
            assert answer.norm(dim=1).tolist() == pytest.approx([1.0] * len(answer), abs=1e-5)


def test_a_wrong_prefix_is_refused(dense: Run, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    settings = dense.folder / "model" / "config_sentence_transformers.json"
    good = settings.read_text(encoding="utf-8")
    settings.write_text(good.replace('"ask: "', '"aks: "'), encoding="utf-8")
    try:
        with pytest.raises(ParityError, match=r"FAILED  prefixes of queries and documents +'aks: ', ''"):
            Exporter(dense, Rows(dense)).export("sentence-transformers", tmp_path / "out")
    finally:
        settings.write_text(good, encoding="utf-8")


def test_a_cross_encoder_in_every_format(cross: Run, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    sentence_transformers = pytest.importorskip("sentence_transformers")
    rows = Rows(cross)
    assert (len(rows), rows.headline) == (40, "map")
    assert len(rows.ragged[0]) == 32
    with Exporter(cross, rows, max_metric_drop=0.3) as exporter:
        for name in ("transformers", "sentence-transformers", "onnx", "onnx-int8", "head"):
            parity = exporter.export(name, tmp_path / name)
            found = {item.name: item.value for item in parity.checks}
            assert found["labels and their order"] == "relevance"
            assert found["token ids of the tokenizer, rows"] == "16 of 16"
            worst = max(value for key, value in found.items() if key.startswith("logits"))
            assert worst < (1.0 if name == "onnx-int8" else 1e-4)
    model = open_export(cross, "onnx", tmp_path / "onnx")
    pairs = [("where is my order", "the order has not come yet"), ("where is my map", "the money")]
    theirs = sentence_transformers.CrossEncoder(str(tmp_path / "sentence-transformers")).predict(pairs)
    table = RerankingSchema.read(str(cross.folder / "predictions.csv"), {}, Report(), {}).select([0, 1])
    table.columns["query"], table.columns["document"] = (list(column) for column in zip(*pairs, strict=True))
    batch = cross.schema.examples(table, load_tokenizer(tmp_path / "onnx"), "predict").collate([0, 1])
    assert torch.sigmoid(model(batch.packed)).flatten().tolist() == pytest.approx(theirs.tolist(), abs=1e-5)
    assert 'AutoTokenizer.from_pretrained(".")' in (tmp_path / "onnx" / "README.md").read_text(encoding="utf-8")


def test_whole_queries_are_taken(cross: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.export.rows.MAX_ROWS", 20)
    rows = Rows(cross)
    asked = rows.table.columns["query"]
    assert [asked.count(query) for query in dict.fromkeys(asked)] == [10, 10]


def test_what_is_not_exported_says_so(
    dense: Run, cross: Run, tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    with pytest.raises(ConfigError, match="format=head is for logits"):
        require_fit(dense, "head")
    colbert = retrieval_run(tmp_path / "colbert", tiny_encoder("bert"), kind="multi_vector")
    with pytest.raises(ConfigError, match=r"format=onnx: a run of task\.kind=multi_vector is not exported yet"):
        require_fit(colbert, "onnx")
    poly = reranking_run(tmp_path / "poly", tiny_encoder("bert"), kind="poly")
    with pytest.raises(ConfigError, match=r"task\.kind=poly is not exported yet"):
        require_fit(poly, "transformers")
    for name in ("transformers", "sentence-transformers", "onnx", "torch", "openvino"):
        require_fit(dense, name)
        require_fit(cross, name)


def test_rows_that_are_gone_are_asked_for(dense: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(dense.info["data"]["test"], "source", "gone.jsonl")
    with pytest.raises(ConfigError, match=r"gone\.jsonl is not there\. Give some with data\.test="):
        Rows(dense)


def test_the_best_window_of_a_document_counts(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    run = reranking_run(tmp_path / "run", tiny_encoder("roberta"), long="window", overlap=4)
    object.__setattr__(run.schema, "max_length", 16)  # of 40 documents the longer ones then take several windows
    rows = Rows(run)
    assert max(batch.packed.batch_size for batch in rows.single) > 1
    parity = Exporter(run, rows).export("transformers", tmp_path / "out")
    assert parity.metric["run"] == parity.metric["export"] > 0
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "read in windows, each behind the whole query. The caller merges these by the highest of each logit." in card
    assert 'truncation="only_second", stride=4' in card
