"""`modernbert mine` as a person runs it: words, preview, a file that trains."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from search_runs import DOCUMENTS

from app.cli import main

pytest_plugins = "search_runs"


def said(capsys: pytest.CaptureFixture) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def files(folder: Path) -> list[str]:
    return [f"data.train={folder / 'questions.csv'}", f"data.corpus={folder / 'docs.csv'}"]


def rows_of(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("engine", ["model", "bm25", "both"])
def test_mines_what_is_no_known_answer(
    engine: str, corpus_folder: Path, zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "mined.jsonl"
    words = [f"engine={engine}", "margin=null", "negatives=4", "preview=3", f"output={output}"]
    assert main(["mine", *files(corpus_folder), zero_shot, *words]) == 0
    told = said(capsys)
    assert "A hard negative stands at rank 1 to 100 of" in told
    assert "rank 1 to 10" in told
    assert f"{len(DOCUMENTS)} rows, {len(DOCUMENTS)} with negatives" in told
    assert told.index("rank 1 to 10") < told.index("written:")
    rows = rows_of(output)
    assert [row["query_id"] for row in rows] == [f"q{key}" for key in DOCUMENTS]
    for row, (key, text) in zip(rows, DOCUMENTS.items(), strict=True):
        assert (row["positive"], row["positive_id"]) == (text, key)
        assert len(row["negatives"]) == 4
        assert text not in row["negatives"]
        assert len(row["scores"]) == 5
        assert row["scores"][1:] == sorted(row["scores"][1:], reverse=True)


def test_nothing_is_written_after_a_preview_alone(
    corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "mined.jsonl"
    words = ["engine=bm25", "write=false", "ranks=[2,3]", f"output={output}"]
    assert main(["mine", *files(corpus_folder), *words]) == 0
    told = said(capsys)
    assert "of BM25's ranking" in told
    assert "rank 2 to 3" in told
    assert "nothing is written" in told
    assert not output.exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["engine=model"], "which model?"),
        (["engine=bm25", "ranks=5"], "the first and the last rank"),
        (["engine=bm25", "margin=2.0"], "margin=2.0"),
        (["engine=google"], "model, bm25, both"),
    ],
)
def test_mistakes(
    given: list[str], message: str, corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["mine", *files(corpus_folder), f"output={tmp_path / 'm.jsonl'}", *given]) == 2
    assert message in said(capsys)


def test_the_input_is_not_overwritten(corpus_folder: Path, capsys: pytest.CaptureFixture) -> None:
    train = f"data.train={corpus_folder / 'questions.csv'}"
    assert main(["mine", train, f"output={corpus_folder / 'questions.csv'}", "engine=bm25"]) == 2
    assert "is data.train" in said(capsys)


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["infonce", "margin_mse"])
def test_mined_rows_train(
    loss: str, train_run: Callable[..., Path], corpus_folder: Path, zero_shot: str, tmp_path: Path
) -> None:
    output = tmp_path / "mined.jsonl"
    run = train_run("dense")
    assert main(["mine", *files(corpus_folder), f"run={run}", "margin=null", "negatives=2", f"output={output}"]) == 0
    words = [f"data.train={output}", f"run_dir={tmp_path / 'again'}", "trainer=cpu", "trainer.max_epochs=1"]
    words += [f"task.loss={loss}", "task.negatives=2", "optim.batch_size=8"]
    assert main(["train", "task=retrieval", zero_shot, *words]) == 0
    assert (tmp_path / "again" / "metrics.json").is_file()
