"""Exports answer as the run does, for each family of encoders; and the gate sees what is planted."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modernbert import load_encoder
from modernbert.errors import ConfigError, DataError
from modernbert.packing import pack
from tasks.classification import Classification
from tasks.data.readers import Table
from tasks.export import Exporter, ParityError, Rows, choose_formats, load_head, open_export
from tasks.export.formats import NEEDS
from tasks.export.gate import check
from tasks.export.padded import Padded, TorchModel, pad, unpad
from tasks.export.quantise import write_int8
from tasks.export.rows import MIXED
from tasks.run import Run, save_run
from tasks.text_schema import ClassificationSchema

TEXTS = ("where is my parcel", "please refund the money again", "my password does not work how do i open the app",
         "good", "bad shoes", "courier left the order with a neighbour")  # fmt: skip
LABELS = ("zebra", "apple", "mango")
#: Longer than the tiny ModernBERT's window of 16, as far as the tiny BERT reaches.
MAX_LENGTH = 60


def make_run(folder: Path, encoder: Path, rows: int = 48) -> Run:
    """A saved run with random weights, large enough that rows get different answers, and rows it answers rightly."""
    texts = [f"{TEXTS[i % 6]} {' again order' * (i % 5)}" for i in range(rows)]
    table = Table("rows", {"text": texts, "label": [LABELS[i % 3] for i in range(rows)]}, list(range(rows)), [])
    schema = ClassificationSchema.fit(table, {"text": "text", "label": "label"}, {}, MAX_LENGTH)
    torch.manual_seed(1)
    task = Classification(load_encoder(encoder), schema)
    with torch.no_grad():
        for name, value in task.named_parameters():
            if value.dim() == 2 and "embeddings" not in name:
                value.normal_(std=0.3)
    save_run(folder, task, encoder, {}, {"encoder": {"source": "tiny", "revision": None}})
    run = Run.load(folder, "cpu")
    labels = [answer.labels[0] for answer in run.answer(texts)]
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    return run


@pytest.fixture(scope="module", params=["bert", "roberta", "modernbert"])
def rows(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable) -> Rows:
    return Rows(make_run(tmp_path_factory.mktemp("runs") / request.param, tiny_encoder(request.param)))


@pytest.fixture(scope="module")
def exporter(rows: Rows) -> Iterator[Exporter]:
    with Exporter(rows.run, rows, max_metric_drop=1.0) as made:
        yield made


@pytest.fixture
def modernbert(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> Rows:
    return Rows(make_run(tmp_path / "run", tiny_encoder("modernbert")))


def tampered(run: Run, folder: Path, **changes: object) -> TorchModel:
    """The saved model with other values in its config.json."""
    shutil.copytree(run.folder / "model", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    return TorchModel(Padded(folder, run.task.pipeline))


def test_rows_differ_so_that_agreement_means_something(rows: Rows) -> None:
    assert len(set(rows.predictions(rows.expected[MIXED]))) > 1
    assert len({batch.packed.max_seqlen for batch in rows.single}) > 3
    assert [packs[-1].max_seqlen for packs in rows.packs.values()][-1] == MAX_LENGTH


@pytest.mark.parametrize("name", ["transformers", "head", "onnx", "onnx-int8", "onnx-fp16"])
def test_an_export_is_whole_and_answers_as_the_run_does(exporter: Exporter, tmp_path: Path, name: str) -> None:
    parity = exporter.export(name, tmp_path / name)
    written = {path.name for path in (tmp_path / name).iterdir()}
    assert {"README.md", "task.json", "parity.json", "tokenizer.json", "tokenizer_config.json"} <= written
    report = json.loads((tmp_path / name / "parity.json").read_text())
    assert report["passed"]
    assert report["rows"] == 48
    # By what the gate did not run: a batch of one row and one of a token more than the window, in another order.
    model = open_export(exporter.run, name, tmp_path / name)
    packed = pack([exporter.rows.packs[MIXED][0].input_ids[:n] for n in (5, 17, 1)])
    expected = exporter.rows.answer(packed)
    tolerance = {"onnx-int8": 1.0, "onnx-fp16": 2e-2}.get(name, 1e-4)
    assert torch.allclose(model(packed), expected, atol=tolerance)
    logits = [check.value for check in parity.checks if check.name.startswith("logits")]
    assert len(logits) == 3
    assert max(logits) < tolerance
    if name.startswith("onnx-"):
        assert max(logits) > 0, "other arithmetic cannot agree to the last bit: was it quantised at all?"


def test_onnx_names_its_tensors_and_labels(exporter: Exporter, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    exporter.export("onnx", tmp_path / "onnx")
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    bert = exporter.run.task.encoder.config.family == "bert"
    names = ["input_ids", "attention_mask"] + ["token_type_ids"] * bert
    assert [(node.name, node.shape) for node in session.get_inputs()] == [(n, ["batch", "sequence"]) for n in names]
    assert [(node.name, node.shape) for node in session.get_outputs()] == [("logits", ["batch", 3])]
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["labels"]) == ["apple", "mango", "zebra"]
    assert json.loads(facts["max_length"]) == MAX_LENGTH


def test_weights_too_large_for_one_file_lie_beside_the_graph(
    tmp_path: Path, tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.export.onnx.LARGEST_GRAPH", 1000)
    rows = Rows(make_run(tmp_path / "run", tiny_encoder("bert")))
    with Exporter(rows.run, rows) as exporter:
        assert exporter.export("onnx", tmp_path / "onnx").passed
        assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size > 10_000
        with pytest.raises(ConfigError, match="cannot hold: use format=onnx"):
            exporter.export("onnx-int8", tmp_path / "int8")


def test_the_lines_of_the_card_load_it(exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime, transformers = pytest.importorskip("onnxruntime"), pytest.importorskip("transformers")
    exporter.export("onnx", tmp_path / "onnx")
    lines = (tmp_path / "onnx" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    scope = {"AutoTokenizer": transformers.AutoTokenizer, "InferenceSession": onnxruntime.InferenceSession}
    monkeypatch.chdir(tmp_path / "onnx")
    exec(lines, scope)
    answer = exporter.run.answer(["Where is my order?"])[0]
    found = torch.softmax(torch.from_numpy(scope["logits"]), -1)[0].tolist()
    assert found == pytest.approx(list(answer.scores.values()), abs=1e-5)


def test_a_wrong_window_is_refused(modernbert: Rows, tmp_path: Path) -> None:
    good = check(modernbert, tampered(modernbert.run, tmp_path / "good"), "transformers", True, 1.0)
    assert good.passed
    wrong = tampered(modernbert.run, tmp_path / "wrong", local_attention=8)
    parity = check(modernbert, wrong, "transformers", True, 1.0)
    failed = {item.name for item in parity.checks if not item.passed}
    assert "logits, 60 tokens" in failed
    assert "FAILED" in parity.table()


def test_a_wrong_order_of_labels_is_refused(modernbert: Rows, tmp_path: Path) -> None:
    names = {"0": "zebra", "1": "mango", "2": "apple"}
    wrong = tampered(modernbert.run, tmp_path / "wrong", id2label=names, label2id={n: int(i) for i, n in names.items()})
    parity = check(modernbert, wrong, "transformers", True, 1.0)
    assert [item.name for item in parity.checks if not item.passed] == ["labels and their order"]


def test_a_refused_export_leaves_nothing(modernbert: Rows, tmp_path: Path) -> None:
    weights = modernbert.run.folder / "model" / "model.safetensors"
    tensors = load_file(weights)
    tensors["classifier.weight"] = tensors["classifier.weight"].flip(0)
    save_file(tensors, weights, metadata={"format": "pt"})
    exporter = Exporter(modernbert.run, modernbert)
    with pytest.raises(ParityError, match=r"does not answer as the run does(.|\n)*FAILED  logits, batches of 1"):
        exporter.export("transformers", tmp_path / "out" / "transformers")
    assert not list((tmp_path / "out").iterdir())


def test_int8_that_loses_too_much_names_the_layers(exporter: Exporter, tmp_path: Path) -> None:
    with pytest.raises(
        ParityError,
        match=r"Layers responsible .*: (embeddings|[a-z -]+ of layer \d) \d+%",
    ) as caught:
        write_int8(exporter.graph, tmp_path / "model.onnx", exporter.rows, max_metric_drop=-1.0)  # none wins so much
    assert "FAILED  f1_macro lost" in str(caught.value)


def test_layers_that_hurt_stay_in_float(exporter: Exporter, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    # One huge value in a row that no text uses: the table has one int8 scale, at which every other row becomes zero.
    model = onnx.load(exporter.graph)
    names = ("word_embeddings.weight", "tok_embeddings.weight")
    table = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(names))
    values = onnx.numpy_helper.to_array(table).copy()
    values[1] = 1000.0
    table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    onnx.save(model, tmp_path / "float.onnx")
    parity = write_int8(tmp_path / "float.onnx", tmp_path / "int8.onnx", exporter.rows, max_metric_drop=0.4)
    assert parity.passed
    assert parity.kept_in_float[0] == "embeddings"
    assert parity.drift["embeddings"] > 0.5
    assert (tmp_path / "int8.onnx").stat().st_size < (tmp_path / "float.onnx").stat().st_size


def test_a_head_fits_one_encoder_alone(exporter: Exporter, tmp_path: Path) -> None:
    exporter.export("head", tmp_path / "head")
    encoder = load_encoder(exporter.run.folder / "model")
    task = load_head(tmp_path / "head", encoder)
    packed = exporter.rows.packs[MIXED][0]
    assert torch.equal(task(packed), exporter.run.task(packed))
    with torch.no_grad():
        next(encoder.parameters())[0, 0] += 1e-6
    with pytest.raises(ConfigError, match="trained on an encoder with SHA-256"):
        load_head(tmp_path / "head", encoder)


def test_padding_and_back() -> None:
    packed = pack([[5, 6, 7], [8]], token_type_ids=[[0, 1, 1], [0]])
    inputs = pad(packed, ("input_ids", "attention_mask", "token_type_ids"), pad_token_id=9)
    assert inputs["input_ids"].tolist() == [[5, 6, 7], [8, 9, 9]]
    assert inputs["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert inputs["token_type_ids"].tolist() == [[0, 1, 1], [0, 0, 0]]
    logits = torch.from_numpy(np.arange(12.0).reshape(2, 3, 2))
    assert unpad(logits, packed, per_token=True).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert unpad(logits[:, 0], packed, per_token=False).tolist() == [[0, 1], [6, 7]]


@pytest.mark.parametrize("asked", ["tflite", ["onnx", "coreml"], []])
def test_other_formats_are_named(asked: str | list[str]) -> None:
    names = "transformers, sentence-transformers, onnx, onnx-int8, onnx-fp16, torch, openvino, head"
    with pytest.raises(ConfigError, match=names):
        choose_formats(asked)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NEEDS, "onnx", (("nobody_has_this",), "onnx"))
    assert choose_formats("head") == ["head"]
    with pytest.raises(ConfigError, match=r"format=onnx needs nobody_has_this: pip install 'modernbert\[onnx\]'"):
        choose_formats("onnx")


def test_rows_that_cannot_be_read_say_what_to_give(modernbert: Rows, tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_text("text,label\nhello,unheard of\n", encoding="utf-8")
    with pytest.raises(DataError, match="unheard of"):
        Rows(modernbert.run, str(tmp_path / "other.csv"))
    (modernbert.run.folder / "predictions.csv").unlink()
    with pytest.raises((ConfigError, DataError), match=r"data\.test=<file>"):
        Rows(modernbert.run)
