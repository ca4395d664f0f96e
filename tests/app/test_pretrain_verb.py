"""`modernbert pretrain` as a person runs it: from scratch, from an encoder, stopped and resumed; and what loads it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from app.cli import main
from modernbert.packing import pack
from modernbert.weights import load_encoder, read_tensors
from tasks.data.tokenise import load_tokenizer
from tasks.pretraining.masked import MaskedHead, word_vectors

WORDS = "the parcel has not come yet please refund money my password does not work where is order".split()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """40 documents in which each word tells the next one."""
    path, documents = tmp_path / "text.txt", []
    for i in range(40):
        documents.append(f"Title {i}\n\n" + " ".join(WORDS[(i + j) % len(WORDS)] for j in range(30)))
    path.write_text("\n\f\n".join(documents))
    return path


def log(run: Path) -> list[dict[str, str]]:
    with (run / "log.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def pretrain(text: Path, run: Path, *words: str) -> int:
    usual = ["data.max_length=48", "optim.batch_tokens=400", "device=cpu", "precision=32", "threads=1"]
    return main(["pretrain", f"data.text={text}", f"run_dir={run}", *usual, *words])


def assert_transformers_agrees(folder: Path) -> None:
    theirs = AutoModelForMaskedLM.from_pretrained(folder).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = load_encoder(folder)
    head = MaskedHead(encoder)
    assert head.load(read_tensors(folder), word_vectors(encoder))
    inputs = tokenizer("the parcel has not come", return_tensors="pt")
    with torch.no_grad():
        ours = head(encoder(pack(list(inputs["input_ids"])))) @ word_vectors(encoder).t() + head.bias
        torch.testing.assert_close(ours, theirs(**inputs).logits[0], atol=2e-5, rtol=1e-5)


def test_from_scratch_with_a_tokenizer_of_its_own(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert pretrain(text, run, "shape=tiny", "budget.tokens=8000", "optim.lr=1e-2") == 0
    assert_transformers_agrees(run / "model")
    config = json.loads((run / "model" / "config.json").read_text())
    assert config["architectures"] == ["ModernBertForMaskedLM"]
    assert load_tokenizer(run / "model").backend_tokenizer.get_vocab_size() == config["vocab_size"]
    before, after = log(run)[0], json.loads((run / "metrics.json").read_text())["held_out"]
    assert after["masked_loss"] < float(before["masked_loss"]) - 0.5
    assert [file.name for file in (run / "checkpoints").glob("*.safetensors")]


def test_an_encoder_without_a_head_goes_on_with_a_new_one(
    text: Path, tmp_path: Path, tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    AutoTokenizer.from_pretrained(tiny_encoder("bert"), mask_token="[UNK]").save_pretrained(source)
    for name in ("config.json", "model.safetensors"):
        (source / name).write_bytes((tiny_encoder("bert") / name).read_bytes())
    run = tmp_path / "run"
    assert pretrain(text, run, f"encoder.source={source}", "budget.tokens=800", "half=true") == 0
    assert "has no masked-language head" in " ".join(capsys.readouterr().err.split())
    assert_transformers_agrees(run / "model")
    assert {value.dtype for value in read_tensors(run / "model").values()} == {torch.float16}
    before, after = load_encoder(source).state_dict(), load_encoder(run / "model").state_dict()
    assert not torch.equal(before["layers.0.qkv.weight"], after["layers.0.qkv.weight"])
    # What came out is an encoder like any other, and now it has a head.
    again = tmp_path / "again"
    assert pretrain(text, again, f"encoder.source={run / 'model'}", "budget.tokens=400") == 0
    assert "masked-language head" not in capsys.readouterr().err


def test_a_stopped_run_resumes_to_the_same_weights(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["shape=tiny", "budget.tokens=2800", "optim.lr=1e-3"]
    assert pretrain(text, tmp_path / "whole", *words) == 0

    from app import longrun

    report = longrun.Report.__call__

    def stop_at_four(self: longrun.Report, state: object) -> bool:
        report(self, state)  # type: ignore[arg-type]
        if state.step == 4:  # type: ignore[attr-defined]
            self.signals.received = 15
        return self.signals.received is not None

    monkeypatch.setattr(longrun.Report, "__call__", stop_at_four)
    assert pretrain(text, tmp_path / "cut", *words) == 75
    monkeypatch.undo()
    assert not (tmp_path / "cut" / "metrics.json").exists()
    assert main(["pretrain", f"resume={tmp_path / 'cut'}"]) == 0
    whole, cut = (read_tensors(tmp_path / name / "model") for name in ("whole", "cut"))
    assert all(torch.equal(value, cut[name]) for name, value in whole.items())
    assert whole.keys() == cut.keys()


def test_context_is_reconstructed_by_a_decoder_that_stays_behind(text: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert pretrain(text, run, "shape=tiny", "budget.tokens=4000", "optim.lr=1e-2", "context=0.45") == 0
    before, after = log(run)[0], json.loads((run / "metrics.json").read_text())["held_out"]
    assert after["context_loss"] < float(before["context_loss"]) - 0.5
    assert_transformers_agrees(run / "model")
    before_again = read_tensors(run / "model")
    assert not any(name.startswith(("decoder.layer", "decoder.head")) for name in before_again)
    assert main(["pretrain", f"resume={run}"]) == 0  # its last checkpoint has the decoder
    assert all(torch.equal(value, before_again[name]) for name, value in read_tensors(run / "model").items())


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("context=1.5", "context=1.5"),
        ("data.text=nowhere.txt", "no such file"),
        ("mask=1.5", "mask=1.5"),
        ("data.max_length=9000", "8 to 8192"),
        ("budget.minutes=null", "budget.tokens or budget.minutes"),
        ("shape=poket", "shape=poket"),
        ("optim.batch_tokens=0", "optim.batch_tokens=0"),
    ],
)
def test_what_cannot_be_is_said(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], word: str, said: str
) -> None:
    words = {"shape": "tiny", "data.text": str(text), "run_dir": str(tmp_path / "run"), "budget.tokens": "null"}
    words[word.split("=")[0]] = word.split("=")[1]
    assert main(["pretrain", *(f"{key}={value}" for key, value in words.items())]) in (1, 2)
    assert said in " ".join(capsys.readouterr().err.split())


def test_resuming_what_is_no_pretraining_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("task: {name: ner}\ndata: {}\n")
    assert main(["pretrain", f"resume={tmp_path}"]) == 2
    assert "not the configuration of modernbert pretrain" in " ".join(capsys.readouterr().err.split())
