"""Averages and differences of weights by hand, and every incompatibility named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from modernbert.errors import ConfigError
from modernbert.weights import encoder_to_hf, load_encoder, read_tensors, save_checkpoint
from tasks.merging import add_vectors, average, read_model, require_mergeable, require_on_base
from tasks.run import sha256


def test_an_average_is_taken_in_double_and_kept_in_the_dtype_of_the_first() -> None:
    ids = torch.arange(3)
    models = [{"w": torch.tensor([1.0, 2.0]), "ids": ids}, {"w": torch.tensor([2.0, 6.0]), "ids": ids}]
    models.append({"w": torch.tensor([6.0, 1.0]), "ids": ids})
    found = average(models)
    assert found["w"].tolist() == [3.0, 3.0]
    assert found["w"].dtype == torch.float32
    assert torch.equal(found["ids"], ids)
    halves = [{"w": torch.tensor([60_000.0]).half()}, {"w": torch.tensor([64_000.0]).half()}]
    assert average(halves)["w"].item() == 62_016  # their sum is beyond float16


def test_vectors_add_what_trainings_changed() -> None:
    base = {"w": torch.tensor([1.0, 1.0])}
    first, second = {"w": torch.tensor([2.0, 1.0])}, {"w": torch.tensor([1.0, 5.0])}
    assert add_vectors(base, [first, second], [0.5, 0.25])["w"].tolist() == [1.5, 2.0]
    assert add_vectors(base, [first], [-1.0])["w"].tolist() == [0.0, 1.0]
    assert torch.equal(add_vectors(base, [first], [1.0])["w"], first["w"])


@pytest.fixture
def make_run(tiny_encoder: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """A folder that reads as a run fine-tuned from the tiny BERT; `info` and `config` change what it says."""

    def make(name: str, shift: float = 0.0, info: dict | None = None, config: dict | None = None) -> Path:
        source, folder = tiny_encoder("bert"), tmp_path / name
        shutil.copytree(source, folder / "model")
        raw = json.loads((source / "config.json").read_text()) | {"id2label": {"0": "good", "1": "bad"}}
        tensors = {key: value + shift for key, value in encoder_to_hf(load_encoder(source)).items()}
        tensors |= {"classifier.weight": torch.full((2, 32), shift)}
        save_checkpoint(folder / "model", tensors, raw | (config or {}))
        base = {"model.safetensors": sha256(source / "model.safetensors")}
        facts = {"format": 1, "target": "tasks.classification.Classification", "settings": {"kind": "binary"}}
        facts |= {"encoder": {"sha256": base}, "fitted": {}}
        (folder / "task.json").write_text(json.dumps(facts | (info or {})))
        return folder

    return make


def test_runs_of_one_base_are_averaged(make_run: Callable[..., Path]) -> None:
    models = [read_model(make_run("a", 1.0)), read_model(make_run("b", 3.0))]
    require_mergeable(models)
    found = average([model.tensors for model in models])
    assert found["classifier.weight"].unique().tolist() == [2.0]
    plain = read_tensors(make_run("c") / "model")
    for name in ("bert.embeddings.word_embeddings.weight", "bert.encoder.layer.1.output.dense.bias"):
        torch.testing.assert_close(found[name], plain[name] + 2.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"info": {"encoder": {"sha256": {"model.safetensors": "00"}}}}, "different base weights"),
        (
            {"info": {"settings": {"kind": "multilabel"}}},
            "settings is {'kind': 'binary'} against {'kind': 'multilabel'}",
        ),
        ({"info": {"target": "tasks.ner.Ner"}}, "tasks.ner.Ner"),
        ({"config": {"id2label": {"0": "good", "1": "awful"}}}, r"\['good', 'bad'\] against \['good', 'awful'\]"),
        ({"config": {"layer_norm_eps": 1e-6}}, "norm_eps is 1e-12 against 1e-06"),
    ],
)
def test_a_difference_is_refused_by_its_name(make_run: Callable[..., Path], change: dict, said: str) -> None:
    models = [read_model(make_run("a")), read_model(make_run("b", **change))]
    with pytest.raises(ConfigError, match=said):
        require_mergeable(models)


def test_tensors_and_tokenizers_must_be_the_same(make_run: Callable[..., Path]) -> None:
    first, second = make_run("a"), make_run("b")
    tensors = read_tensors(second / "model")
    config = json.loads((second / "model" / "config.json").read_text())
    save_checkpoint(second / "model", tensors | {"classifier.weight": torch.zeros(3, 32)}, config)
    with pytest.raises(ConfigError, match=r"classifier\.weight is \(2, 32\) against \(3, 32\)"):
        require_mergeable([read_model(first), read_model(second)])
    save_checkpoint(second / "model", tensors | {"extra": torch.zeros(1)}, config)
    tokenizer = json.loads((second / "model" / "tokenizer.json").read_text())
    tokenizer["truncation"] = None
    (second / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match="only one has extra") as error:
        require_mergeable([read_model(first), read_model(second)])
    assert "tokenizer.json" not in str(error.value)
    tokenizer["model"]["vocab"]["new"] = 999
    (second / "model" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ConfigError, match="tokenizers"):
        require_mergeable([read_model(first), read_model(second)])


def test_what_is_no_run_is_refused(
    make_run: Callable[..., Path], tiny_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    run = read_model(make_run("a"))
    with pytest.raises(ConfigError, match="at least two"):
        require_mergeable([run])
    with pytest.raises(ConfigError, match="an encoder, not a saved run"):
        require_mergeable([run, read_model(tiny_encoder("bert"))])
    with pytest.raises(ConfigError, match="neither a saved run"):
        read_model(tmp_path)


def test_a_vector_needs_the_base_it_was_trained_from(
    make_run: Callable[..., Path], tiny_encoder: Callable[..., Path]
) -> None:
    base = read_model(tiny_encoder("bert"))
    require_on_base(base, read_model(make_run("a")))
    other = read_model(make_run("b", info={"encoder": {"sha256": {"model.safetensors": "00"}}}))
    with pytest.raises(ConfigError, match="from other weights"):
        require_on_base(base, other)
    with pytest.raises(ConfigError, match="family is 'modernbert' against 'bert'"):
        require_on_base(read_model(tiny_encoder("modernbert")), read_model(make_run("c")))
