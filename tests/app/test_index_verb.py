"""`modernbert index` as a person runs it: build, go on, add, delete, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from search_runs import DOCUMENTS, write_csv

from app.cli import main
from tasks.search.index import Index

pytest_plugins = "search_runs"


def words(capsys: pytest.CaptureFixture) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def test_build_add_and_delete(
    corpus_folder: Path, zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = f"output={tmp_path / 'i'}"
    assert main(["index", zero_shot, f"corpus={corpus_folder / 'docs.csv'}", output]) == 0
    said = words(capsys)
    assert f"{len(DOCUMENTS)} documents encoded; the index has {len(DOCUMENTS)}" in said
    assert "text: column 'text' (guessed" in said
    assert main(["index", zero_shot, f"corpus={corpus_folder / 'docs.csv'}", output]) == 2
    assert "add=true adds the corpus" in words(capsys)
    more = write_csv(tmp_path / "more.csv", ("id", "text"), ("d0", "the app is open"), ("new", "good shoes"))
    # The model that made the index is remembered.
    assert main(["index", f"corpus={more}", output, "add=true"]) == 0
    assert f"2 documents encoded, 1 replaced; the index has {len(DOCUMENTS) + 1}" in words(capsys)
    assert main(["index", output, "delete=[new,d1,nowhere]"]) == 0
    said = words(capsys)
    assert "1 of 3 ids are not in the index: nowhere" in said
    assert f"2 documents taken out; the index has {len(DOCUMENTS) - 1}" in said
    index = Index.open(tmp_path / "i")
    assert set(index.engine.ids()) == set(DOCUMENTS) - {"d1"}
    assert index.engine.texts({"d0"}) == {"d0": "the app is open"}


def test_a_killed_build_goes_on(
    corpus_folder: Path,
    zero_shot: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tasks.search.index.PIECE", 10)
    command = ["index", zero_shot, f"corpus={corpus_folder / 'docs.csv'}", f"output={tmp_path / 'i'}", "engine=exact"]
    with monkeypatch.context() as patched:
        written = []

        def stop(engine: object, *arguments: object) -> None:
            if len(written) == 2:
                raise KeyboardInterrupt
            written.append(put(engine, *arguments))  # type: ignore[arg-type,func-returns-value]

        from tasks.search.exact import ExactEngine

        put = ExactEngine.put
        patched.setattr(ExactEngine, "put", stop)
        assert main(command) == 130
    assert main(["search", f"index={tmp_path / 'i'}", "app"]) == 2
    assert "is not finished (20 documents so far)" in words(capsys)
    assert main(command) == 0
    assert f"{len(DOCUMENTS) - 20} documents encoded, 20 were there" in words(capsys)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["output=o"], "give either corpus="),
        (["corpus={docs}", "delete=[a]", "output=o"], "give either corpus="),
        (["corpus={docs}"], "output=<folder> is missing"),
        (["delete=[a]"], "output=<folder> is missing"),
        (["corpus={docs}", "output={new}"], "which model?"),
        (["corpus={docs}", "output={new}", "add=true", "{model}"], "there is no index"),
        (["corpus={docs}", "output={new}", "{model}", "run=x"], "a run brings its encoder"),
        (["corpus={docs}", "output={new}", "{model}", "engine=faiss"], "auto, exact, lance"),
        (["corpus={docs}", "output={full}", "{model}"], "is no index"),
    ],
)
def test_mistakes(
    given: list[str], message: str, corpus_folder: Path, zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    folders = {"new": tmp_path / "new", "full": tmp_path / "full"}
    places = folders | {"docs": corpus_folder / "docs.csv", "model": zero_shot}
    assert main(["index", *(word.format(**places) for word in given)]) == 2
    assert message in words(capsys)
    assert not (tmp_path / "new").exists()


def test_row_numbers_are_no_ids_to_add_by(zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plain = write_csv(tmp_path / "plain.csv", ("text",), ("one",), ("two",))
    output = f"output={tmp_path / 'i'}"
    assert main(["index", zero_shot, f"corpus={plain}", output]) == 0
    assert main(["index", f"corpus={plain}", output, "add=true"]) == 2
    assert "no column of ids" in words(capsys)


@pytest.mark.slow
def test_the_index_of_a_run_moves_with_it(
    train_run: Callable[..., Path], corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    # A copy: the run is shared with tests that give it more indexes.
    run = shutil.copytree(train_run("dense"), tmp_path / "run", ignore=shutil.ignore_patterns("indexes"))
    assert main(["index", f"run={run}", f"corpus={corpus_folder / 'docs.csv'}"]) == 0
    folder = run / "indexes" / "docs"
    assert json.loads((folder / "meta.json").read_text())["model"] == {"run": "../..", "precision": "auto"}
    moved = run.rename(tmp_path / "moved")
    folder = moved / "indexes" / "docs"
    assert main(["search", f"run={moved}", "where is my parcel", "k=2"]) == 0
    assert main(["search", f"index={folder}", "where is my parcel", "k=2"]) == 0
    capsys.readouterr()
    other = train_run("other", "seed=1")
    assert main(["search", f"index={folder}", f"run={other}", "parcel"]) == 2
    assert "was made by another model" in words(capsys)
    assert main(["index", f"run={other}", f"corpus={corpus_folder / 'docs.csv'}", f"output={folder}", "add=true"]) == 2
    assert "was made by another model" in words(capsys)
