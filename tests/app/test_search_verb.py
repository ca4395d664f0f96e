"""`modernbert search` as a person runs it: a sentence, every mode, a file of queries, a reranker, mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from search_runs import DOCUMENTS, read_csv, write_csv

from app.cli import main
from tasks.data.ranking.runs import read_run

pytest_plugins = "search_runs"

EXACT = "the parcel and the money come back"  # document d0


def said(capsys: pytest.CaptureFixture) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


@pytest.fixture(scope="module")
def index(corpus_folder: Path, zero_shot: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("indexes") / "docs"
    assert main(["index", zero_shot, f"corpus={corpus_folder / 'docs.csv'}", f"output={folder}"]) == 0
    return folder


@pytest.mark.parametrize("mode", ["dense", "text", "hybrid"])
def test_a_sentence_finds_its_document(index: Path, mode: str, capsys: pytest.CaptureFixture) -> None:
    assert main(["search", f"index={index}", f"mode={mode}", "k=2", EXACT]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["score", "id", "text"]
    assert lines[1].split()[0] == "1"
    assert lines[1].split()[2:] == ["d0", *EXACT.split()]
    assert len(lines) == 3


@pytest.mark.parametrize(
    "words",
    [
        ["the parcel, and the money (come back)?"],
        ["query=the parcel, and the money: come back"],
        ["query='the parcel and the money'"],
        ["the", "parcel", "and", "the", "money"],
        ["the 'parcel' and ${the} \"money\" \\"],
    ],
)
def test_any_sentence_is_a_query(index: Path, words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["search", f"index={index}", "mode=text", "k=1", *words]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[2] == "d0"


def test_nothing_is_found_in_words(index: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["search", f"index={index}", "mode=text", "unheard of"]) == 0
    assert "nothing found for 'unheard of'" in said(capsys)


def test_a_file_of_queries(corpus_folder: Path, index: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    asked, hits = corpus_folder / "questions.csv", tmp_path / "hits.csv"
    assert main(["search", f"index={index}", f"input={asked}", f"output={hits}", "k=3", "mode=text"]) == 0
    assert f"{3 * len(DOCUMENTS)} hits of {len(DOCUMENTS)} queries" in said(capsys)
    rows = read_csv(hits)
    assert list(rows[0]) == ["query_id", "query", "rank", "score", "id", "text"]
    assert [row["rank"] for row in rows[:4]] == ["1", "2", "3", "1"]
    best = {row["query_id"]: row["id"] for row in rows if row["rank"] == "1"}
    assert best == {f"q{key}": key for key in DOCUMENTS}  # BM25 sees both words of each question
    assert all(row["text"] == DOCUMENTS[row["id"]] for row in rows)
    run = tmp_path / "hits.trec"
    assert main(["search", f"index={index}", f"input={asked}", f"output={run}", "k=3", "mode=text"]) == 0
    found = read_run(run)
    assert found["qd0"][0][0] == "d0"
    assert len(found) == len(DOCUMENTS)


def test_queries_without_ids_are_called_by_row(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    asked = write_csv(tmp_path / "asked.csv", ("question",), ("parcel",), ("map",))
    hits = tmp_path / "hits.jsonl"
    assert main(["search", f"index={index}", f"input={asked}", f"output={hits}", "k=1", "mode=text"]) == 0
    assert "query: column 'question' (guessed" in said(capsys)
    assert '"query_id": "2"' in hits.read_text()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "give one query"),
        (["query", "input=x.csv", "output=y.csv"], "give one query"),
        (["input=x.csv"], "go together"),
        (["  "], "the query is empty"),
        (["parcel", "mode=fuzzy"], "dense, text, hybrid"),
        (["parcel", "k=0"], "k=0"),
        (["parcel", "rerank_depth=0"], "rerank_depth=0"),
        (["parcel", "kk=3"], "'kk' is not a key"),
    ],
)
def test_mistakes(given: list[str], message: str, index: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["search", f"index={index}", *given]) == 2
    assert message in said(capsys)


def test_which_index(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["search", "parcel"]) == 2
    assert "which index?" in said(capsys)
    assert main(["search", f"index={tmp_path}", "parcel"]) == 2
    assert "so it is no index" in said(capsys)
    assert main(["search", f"run={tmp_path}", "parcel"]) == 2
    assert "so it is not a saved run" in said(capsys)
    (tmp_path / "task.json").write_text("{}", encoding="utf-8")
    assert main(["search", f"run={tmp_path}", "parcel"]) == 2
    assert "has no index yet" in said(capsys)


def test_rows_without_a_query_are_named(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    asked = write_csv(tmp_path / "asked.csv", ("query", "x"), ("parcel", "1"), (" ", "2"))
    assert main(["search", f"index={index}", f"input={asked}", f"output={tmp_path / 'h.csv'}", "mode=text"]) == 1
    assert "rows 3 have no query" in said(capsys)


def test_a_corpus_in_lancedb(
    corpus_folder: Path, zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("lancedb")
    folder = tmp_path / "large"
    assert main(["index", zero_shot, f"corpus={corpus_folder / 'docs.csv'}", f"output={folder}", "engine=lance"]) == 0
    for mode in ("dense", "text", "hybrid"):
        capsys.readouterr()
        assert main(["search", f"index={folder}", f"mode={mode}", "k=1", EXACT]) == 0
        assert capsys.readouterr().out.splitlines()[1].split()[2] == "d0"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dense", "multi_vector"])
def test_a_run_is_asked_by_its_folder(
    train_run: Callable[..., Path], corpus_folder: Path, kind: str, capsys: pytest.CaptureFixture
) -> None:
    run = train_run(kind, f"task.kind={kind}")
    output = f"output={run / 'indexes' / 'asked'}"
    assert main(["index", f"run={run}", f"corpus={corpus_folder / 'docs.csv'}", output]) == 0
    capsys.readouterr()
    index = f"index={run / 'indexes' / 'asked'}"
    assert main(["search", f"run={run}", index, "k=3", EXACT]) == 0
    ids = [line.split()[2] for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(ids) == 3
    assert set(ids) <= set(DOCUMENTS)


@pytest.mark.slow
def test_a_reranking_run_orders_the_hits(
    index: Path, corpus_folder: Path, zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    rows = [(f"where is my {text.split()[1]}", text, str(int(i % 3 == 0))) for i, text in enumerate(DOCUMENTS.values())]
    pairs = write_csv(tmp_path / "pairs.csv", ("query", "document", "label"), *rows)
    run = tmp_path / "reranker"
    words = [f"data.train={pairs}", f"run_dir={run}", "trainer=cpu", "trainer.max_epochs=1", "optim.batch_size=8"]
    assert main(["train", "task=reranking", zero_shot, *words]) == 0
    capsys.readouterr()
    assert main(["search", f"index={index}", f"rerank={run}", "rerank_depth=5", "k=3", EXACT]) == 0
    scores = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    from tasks.run import Run
    from tasks.search.rerank import pair_scores

    texts = list(DOCUMENTS.values())[:4]
    given = pair_scores(Run.load(run, "cpu"), [EXACT] * 4, texts)
    back = pair_scores(Run.load(run, "cpu"), [EXACT] * 4, texts[::-1])
    assert given == pytest.approx(back[::-1], abs=1e-6)
