"""`modernbert distil` as a person runs it: a new student from its teacher, an old one that goes on, two parts."""

from __future__ import annotations

import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.cli import main
from modernbert.packing import pack
from modernbert.pooling import mean
from modernbert.weights import load_encoder, read_tensors
from tasks.data.tokenise import load_tokenizer

WORDS = "the parcel has not come yet please refund money my password does not work where is order".split()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path, documents = tmp_path / "text.txt", []
    for i in range(40):
        line = " ".join(WORDS[(i * j) % len(WORDS)] for j in range(9)).capitalize()
        documents.append(f"Title {WORDS[i % len(WORDS)]}\n\n" + f"{line}. Where is {line.lower()}. " * 3)
    path.write_text("\n\f\n".join(documents))
    return path


def distil(text: Path, run: Path, teacher: Path, *words: str) -> int:
    usual = ["data.max_length=32", "optim.batch_tokens=600", "device=cpu", "precision=32", "threads=1", "optim.lr=3e-3"]
    return main(["distil", f"data.text={text}", f"run_dir={run}", f"teacher={teacher}", *usual, *words])


def log_rows(run: Path) -> list[dict[str, float]]:
    header, *rows = (line.split(",") for line in (run / "log.csv").read_text().splitlines())
    return [dict(zip(header, map(float, row), strict=True)) for row in rows]


def test_a_student_comes_nearer_to_its_teacher(text: Path, tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import SentenceTransformer

    run = tmp_path / "run"
    words = ["student=tiny", "start=nothing", "tokenizer=new", "budget.tokens=9000"]
    assert distil(text, run, tiny_encoder("bert"), *words) == 0
    before, after = log_rows(run)[0], json.loads((run / "metrics.json").read_text())["held_out"]
    assert after["cosine"] > before["cosine"] + 0.1
    # In its own size: the projection to the teacher's stays behind.
    assert load_encoder(run / "model").config.hidden_size == 64
    assert {value.dtype for value in read_tensors(run / "model").values()} == {torch.float16}
    theirs = SentenceTransformer(str(run / "model"), device="cpu")
    encoder, tokenizer = load_encoder(run / "model"), load_tokenizer(run / "model")
    packed = pack([tokenizer(WORDS[1])["input_ids"]])
    with torch.no_grad():
        ours = mean(encoder(packed), packed)[0]
    found = torch.from_numpy(theirs.float().encode(WORDS[1]))
    torch.testing.assert_close(found, ours, atol=1e-4, rtol=1e-4)


def test_a_student_goes_on_and_ends_with_contrast(
    text: Path, tmp_path: Path, tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    student, run = tiny_encoder("modernbert"), tmp_path / "run"
    words = [f"student={student}", "budget.tokens=4000", "contrastive.share=0.5", "half=false"]
    assert distil(text, run, tiny_encoder("bert"), *words) == 0
    rows = log_rows(run)
    assert [row["tokens"] for row in rows[:2]] == [0, 0]  # each part begins anew
    assert rows[-1]["cosine"] > rows[0]["cosine"]
    assert list((run / "checkpoints").glob("*.safetensors"))
    assert list((run / "checkpoints-contrastive").glob("*.safetensors"))
    assert load_tokenizer(run / "model")("parcel") == load_tokenizer(student)("parcel")
    # All is done: resuming finds the same weights.
    before = read_tensors(run / "model")
    assert main(["distil", f"resume={run}"]) == 0
    assert all(torch.equal(value, before[name]) for name, value in read_tensors(run / "model").items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["student=tiny"], "WordPiece"),
        (["student=tiny", "tokenizer=other"], "tokenizer=other"),
        (["student=tiny", "tokenizer=new"], "equal hidden sizes"),
        (["student=tiny", "tokenizer=new", "start=all"], "start=all"),
        (["student=tiny", "tokenizer=new", "start=nothing", "data.max_length=100"], "8 to 64"),
        (["student=tiny", "contrastive.share=1.0"], "contrastive.share=1.0"),
    ],
)
def test_what_cannot_be_is_said(
    text: Path,
    tmp_path: Path,
    tiny_encoder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    assert distil(text, tmp_path / "run", tiny_encoder("bert"), *words) == 2
    assert said in " ".join(capsys.readouterr().err.split())


#: Bytes of text that the layers are fitted on.
SOME = 1_500_000


@pytest.mark.slow
def test_minilm_becomes_pocket_in_seconds(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers carried over in closed form: near the teacher before anything is learned."""
    monkeypatch.setattr("tasks.pretraining.begin.CALIBRATION", 500)  # of 1,500 sentences, for the time of the test
    text, run = tmp_path / "some.txt", tmp_path / "run"
    with lzma.open(shared / "data" / "pretraining" / "wikipedia-0.txt.xz") as file:
        text.write_bytes(file.read(SOME))
    words = ["distil", "student=pocket", f"data.text={text}", "budget.tokens=1", f"run_dir={run}", "device=cpu"]
    words += ["data.max_length=96"]  # of what is measured
    assert main(words) == 0
    first = log_rows(run)[0]
    assert first["cosine"] > 0.84
    assert first["similarities"] > 0.86
    size = sum(path.stat().st_size for path in (run / "model").rglob("*") if path.is_file())
    assert size < 40e6
