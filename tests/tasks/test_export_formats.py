"""A torch program, its compiled package, OpenVINO's format, and runs that read long texts in windows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modernbert import load_encoder
from modernbert.errors import ConfigError
from tasks.classification import Classification
from tasks.data.readers import Table
from tasks.export import Exporter, ParityError, Rows, load_head, open_export
from tasks.export import program as programs
from tasks.export.formats import open_program, require_fit
from tasks.run import Run, save_run
from tasks.text_schema import ClassificationSchema

MAX_LENGTH = 24


def make_run(folder: Path, encoder: Path, **settings: object) -> Run:
    """A saved run with random weights that answers its rows rightly; many are longer than it reads."""
    texts = [f"{'where is my good parcel again'[: 4 + i % 20]} {'map app ' * (i % 9) * (i % 3)}{i}" for i in range(48)]
    table = Table("rows", {"text": texts, "label": ["ab"[i % 2] for i in range(48)]}, list(range(48)), [])
    schema = ClassificationSchema.fit(table, {"text": "text", "label": "label"}, settings, MAX_LENGTH)
    torch.manual_seed(1)
    task = Classification(load_encoder(encoder), schema, **settings)
    with torch.no_grad():
        for name, value in task.named_parameters():
            if value.dim() == 2 and "embeddings" not in name:
                value.normal_(std=0.3)
    save_run(folder, task, encoder, settings, {"encoder": {"source": "tiny", "revision": None}})
    run = Run.load(folder, "cpu")
    answers = [answer.labels[0] for answer in run.answer(texts)]
    lines = ["text,label", *(f"{text},{label}" for text, label in zip(texts, answers, strict=True))]
    (folder / "predictions.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[..., Path]) -> Run:
    return make_run(tmp_path_factory.mktemp("formats") / "run", tiny_encoder("modernbert"))


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[..., Path]) -> Run:
    folder = tmp_path_factory.mktemp("windows") / "run"
    return make_run(folder, tiny_encoder("roberta"), long="window", overlap=6, merging="max")


def test_a_program_without_a_compiler(run: Run, tmp_path: Path) -> None:
    rows = Rows(run)
    # Its own patch: pytest's takes the setting away for good instead of putting it back.
    with torch._inductor.config.patch({"cpp.cxx": ("no-such-compiler",)}):
        why = programs.no_compiler()
        parity = Exporter(run, rows).export("torch", tmp_path / "torch")
    assert why is not None
    assert why.startswith("There is no C++ compiler here, so model.aoti.pt2 was not made")
    assert parity.notes == (why,)
    assert not (tmp_path / "torch" / "model.aoti.pt2").exists()
    card = (tmp_path / "torch" / "README.md").read_text(encoding="utf-8")
    assert why in card
    assert 'torch.export.load("./model.pt2").module()' in card
    model = open_export(run, "torch", tmp_path / "torch")
    assert model.names == ("a", "b")
    for packs, expected in zip(rows.packs.values(), rows.expected.values(), strict=True):
        for packed, answer in zip(packs, expected, strict=True):
            torch.testing.assert_close(model(packed), answer, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_a_compiled_package(run: Run, tmp_path: Path) -> None:
    if why := programs.no_compiler():
        pytest.skip(why)
    rows = Rows(run)
    parity = Exporter(run, rows).export("torch", tmp_path / "torch")
    compiled = {item.name: item.value for item in parity.checks if item.name.startswith("compiled: ")}
    assert compiled["compiled: labels and their order"] == "a, b"
    assert compiled["compiled: logits, ragged batches of 32"] < 1e-5
    assert "model.aoti.pt2 is for linux x86_64" in parity.notes[0] or "x86_64" not in parity.notes[0]
    model = open_program(run, tmp_path / "torch" / "model.aoti.pt2")
    torch.testing.assert_close(model(rows.single[3].packed), rows.answer(rows.single[3].packed), atol=1e-5, rtol=0)


def test_openvino(run: Run, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    rows = Rows(run)
    with Exporter(run, rows) as exporter:
        parity = exporter.export("openvino", tmp_path / "ov")
    assert max(c.value for c in parity.checks if c.name.startswith("logits")) < 1e-4
    model = openvino.Core().read_model(tmp_path / "ov" / "model.xml")
    assert [node.get_any_name() for node in model.inputs] == ["input_ids", "attention_mask"]
    card = (tmp_path / "ov" / "README.md").read_text(encoding="utf-8")
    assert '"CPU", {"INFERENCE_PRECISION_HINT": "f32"})' in card


def test_windows_are_merged_by_the_caller(windowed: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnxruntime, transformers = pytest.importorskip("onnxruntime"), pytest.importorskip("transformers")
    rows = Rows(windowed)
    assert max(batch.packed.batch_size for batch in rows.single) > 1
    with Exporter(windowed, rows) as exporter:
        for name in ("transformers", "onnx", "head"):
            exporter.export(name, tmp_path / name)
    card = (tmp_path / "onnx" / "README.md").read_text(encoding="utf-8")
    wanted = "read in windows that share at least 6 tokens. The caller merges these by the highest of each logit"
    assert wanted in card
    assert "(task.merging=max)" in card
    # As the card says it, of a text so long that both ways to cut it give the same two windows.
    text = "where is my good parcel again please refund " * 4 + "the money map app order shoes"
    lines = card.split("```python\n")[1].split("```")[0].replace("Where is my order?", text)
    scope = {"AutoTokenizer": transformers.AutoTokenizer, "InferenceSession": onnxruntime.InferenceSession}
    monkeypatch.chdir(tmp_path / "onnx")
    exec(lines, scope)
    expected = windowed.answer([text])[0]
    assert torch.softmax(torch.from_numpy(scope["logits"]), -1).tolist() == pytest.approx(
        list(expected.scores.values()), abs=1e-5
    )


def test_attention_over_windows_has_no_place_but_the_head(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    run = make_run(tmp_path / "run", tiny_encoder("bert"), long="window", overlap=6, merging="attention")
    for name in ("transformers", "onnx", "onnx-int8", "onnx-fp16", "torch", "openvino"):
        with pytest.raises(ConfigError, match=rf"format={name} has no place for .*task\.merging=attention"):
            require_fit(run, name)
    rows = Rows(run)
    assert rows.expected["batches of 1"][0].shape[1] == 3  # two logits and the score of the window
    Exporter(run, rows).export("head", tmp_path / "head")
    task = load_head(tmp_path / "head", load_encoder(run.folder / "model"))
    packed = rows.single[0].packed
    assert torch.equal(task(packed), run.task(packed))


def test_another_tokenizer_is_refused(run: Run, tmp_path: Path) -> None:
    path = run.folder / "model" / "tokenizer.json"
    good = path.read_text(encoding="utf-8")
    plain = json.loads(good)
    plain["normalizer"] = {"type": "Replace", "pattern": {"String": "where"}, "content": "map"}
    rows = Rows(run)
    path.write_text(json.dumps(plain), encoding="utf-8")
    try:
        with pytest.raises(ParityError, match=r"FAILED  token ids of the tokenizer, rows +\d+ of 16"):
            Exporter(run, rows).export("transformers", tmp_path / "out")
    finally:
        path.write_text(good, encoding="utf-8")
