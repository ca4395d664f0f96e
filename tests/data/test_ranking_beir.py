"""BEIR folders and TREC runs: what is read, which split, and round trips."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modernbert.errors import DataError
from tasks.data.ranking import Document, is_beir, load_corpus, read_beir, read_corpus, read_run, write_run
from tasks.data.ranking.beir import read_qrels
from tasks.data.ranking.checks import check_beir
from tasks.data.schema import Report

DOCUMENTS = [
    {"_id": "d1", "title": "Parcels", "text": "where is my parcel"},
    {"_id": "d2", "title": "", "text": "refund the money"},
    {"_id": "d3", "title": "Maps", "text": ""},
]
QUERIES = [{"_id": "q1", "text": "parcel please"}, {"_id": "q2", "text": "money back"}]


def write_lines(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def make(folder: Path, **qrels: str) -> Path:
    """A BEIR folder with these qrels files."""
    (folder / "qrels").mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", DOCUMENTS)
    write_lines(folder / "queries.jsonl", QUERIES)
    for split, text in qrels.items():
        (folder / "qrels" / f"{split}.tsv").write_text(text, encoding="utf-8")
    return folder


TRAIN = "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td2\t1\n"
TEST = "query-id\tcorpus-id\tscore\nq2\td3\t1\n"


def test_a_split_is_read_whole(tmp_path: Path) -> None:
    beir = read_beir(str(make(tmp_path / "set", train=TRAIN, test=TEST)), "train")
    assert beir.queries == {"q1": "parcel please", "q2": "money back"}
    assert beir.corpus["d1"] == Document("d1", "Parcels", "where is my parcel")
    assert [document.full for document in beir.corpus.values()] == [
        "Parcels where is my parcel", "refund the money", "Maps",
    ]  # fmt: skip
    assert beir.qrels == [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d2", 1)]
    assert beir.rows == [2, 3, 4]
    assert beir.split == "train"
    assert beir.qrels_source == str(tmp_path / "set" / "qrels" / "train.tsv")


@pytest.mark.parametrize(
    ("wanted", "files", "taken"),
    [
        ("train", ["train", "test"], "train"),
        ("validation", ["dev", "test"], "dev"),
        ("validation", ["validation", "test"], "validation"),
        ("test", ["train", "test"], "test"),
    ],
)
def test_split_follows_what_the_rows_are_for(tmp_path: Path, wanted: str, files: list[str], taken: str) -> None:
    folder = make(tmp_path / "set", **dict.fromkeys(files, TEST))
    assert read_beir(str(folder), wanted).split == taken


def test_split_can_be_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", train=TRAIN, test=TEST)
    assert read_beir(f"{folder}:test", "train").qrels == [("q2", "d3", 1)]
    assert read_beir(str(folder / "qrels" / "train.tsv"), "test").split == "train"


def test_what_is_a_beir_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", train=TRAIN)
    assert all(map(is_beir, (str(folder), f"{folder}:train", f"{folder}:no", str(folder / "qrels" / "train.tsv"))))
    assert not any(map(is_beir, (str(tmp_path), str(folder / "corpus.jsonl"), "hf:beir", str(folder / "qrels"))))


def test_qrels_of_trec_without_header(tmp_path: Path) -> None:
    file = tmp_path / "judged.txt"
    file.write_text("101 0 doc-7 1\n101 0 doc-9 -2\n\n102 Q0 doc-7 3\n", encoding="utf-8")
    assert read_qrels(file) == ([("101", "doc-7", 1), ("101", "doc-9", 0), ("102", "doc-7", 3)], [1, 2, 4])


def test_qrels_of_mteb_as_jsonl(tmp_path: Path) -> None:
    file = tmp_path / "test.jsonl"
    write_lines(file, [{"query-id": 1, "corpus-id": "a", "score": 1.0}, {"query-id": 2, "corpus-id": "b", "score": 0}])
    assert read_qrels(file) == ([("1", "a", 1), ("2", "b", 0)], [1, 2])


def test_ids_that_start_like_numbers_stay_text(tmp_path: Path) -> None:
    file = tmp_path / "train.tsv"
    file.write_text("query-id\tcorpus-id\tscore\n007\t1.0\t1\n", encoding="utf-8")
    assert read_qrels(file)[0] == [("007", "1.0", 1)]


def test_a_pair_judged_twice_counts_once_with_the_higher_grade(tmp_path: Path) -> None:
    folder = make(tmp_path / "set", train=TRAIN + "q2\td2\t3\nq1\td1\t2\n")
    beir, report = read_beir(str(folder), "train"), Report()
    assert list(beir.judged()) == [(2, "q1", "d1", 2), (3, "q1", "d2", 0), (4, "q2", "d2", 3)]
    check_beir(report, beir)
    assert [(p.level, p.code, p.row, p.what) for p in report.problems] == [
        ("warning", "qrels-twice", 5,
         "query 'q2' and document 'd2' are judged in row 4 too, as 1, not 3; the higher counts"),
        ("warning", "qrels-twice", 6, "query 'q1' and document 'd1' are judged in row 2 too"),
    ]  # fmt: skip


def test_unknown_ids_are_named_with_their_line(tmp_path: Path) -> None:
    beir, report = read_beir(str(make(tmp_path / "set", train=TRAIN + "q9\td8\t1\n")), "train"), Report()
    check_beir(report, beir)
    assert [(p.level, p.code, p.row, p.what) for p in report.problems] == [
        ("error", "qrels-unknown-query", 5, "there is no query 'q9' in the queries"),
        ("error", "qrels-unknown-document", 5, "there is no document 'd8' in the corpus"),
    ]
    assert len(list(beir.judged())) == 3


def test_corpus_comes_in_chunks_with_its_own_columns(tmp_path: Path) -> None:
    file = tmp_path / "docs.csv"
    file.write_text("doc_id,Title,body,team\n1,A,first,x\n2,,second,y\n3,C,third,x\n", encoding="utf-8")
    tables = list(read_corpus(str(file), chunk=2))
    assert [table.columns["id"] for table in tables] == [["1", "2"], ["3"]]
    assert tables[0].columns["title"] == ["A", ""]
    assert tables[0].columns["text"] == ["first", "second"]
    assert tables[1].columns["team"] == ["x"]
    assert tables[0].notes == [
        "id: column 'doc_id' (guessed by its name; another: data.columns.id=…)",
        "title: column 'Title' (guessed by its name; another: data.columns.title=…)",
        "text: column 'body' (guessed by its name; another: data.columns.text=…)",
    ]


def test_corpus_without_ids_counts_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "docs.csv"
    file.write_text("text\nfirst\nsecond\n", encoding="utf-8")
    assert load_corpus(str(file)) == {"2": Document("2", "", "first"), "3": Document("3", "", "second")}


def test_corpus_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "docs.csv"
    file.write_text("id,text\na,first\n", encoding="utf-8")
    assert list(load_corpus(str(file))) == ["a"]
    file.write_text("id,text\na,first\nb,second\n", encoding="utf-8")
    assert list(load_corpus(str(file))) == ["a", "b"]


def test_run_is_read_by_score_not_by_rank(tmp_path: Path) -> None:
    file = tmp_path / "bm25.run"
    file.write_text("q1 Q0 d1 1 0.5 x\nq1 Q0 d3 2 7 x\nq1 Q0 d2 3 0.5 x\nq2 Q0 d1 1 -1e-3 x\n", encoding="utf-8")
    # trec_eval: of equal scores the greater id first.
    assert read_run(file) == {"q1": [("d3", 7.0), ("d2", 0.5), ("d1", 0.5)], "q2": [("d1", -0.001)]}


CHARACTERS = st.characters(exclude_categories=("Cs", "Zs", "Zl", "Zp", "Cc"), exclude_characters="\ufeff")
WORD = st.text(CHARACTERS, min_size=1).filter(lambda text: text.split() == [text])
RANKING = st.dictionaries(WORD, st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5)


@given(st.dictionaries(WORD, RANKING, min_size=1, max_size=4))
def test_runs_survive_the_file(tmp_path_factory: pytest.TempPathFactory, found: dict[str, dict[str, float]]) -> None:
    path = tmp_path_factory.mktemp("run") / "a.run"
    run = {q: sorted(sorted(hits.items(), reverse=True), key=lambda hit: -hit[1]) for q, hits in found.items()}
    write_run(path, run.items(), "ours")
    assert read_run(path) == run


def test_run_refuses_ids_that_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^a TREC run cannot hold the document id 'two words': it must be one word$"):
        write_run(tmp_path / "a.run", [("q", [("two words", 1.0)])], "ours")


def test_scifact_is_read(shared: Path) -> None:
    beir, report = read_beir(str(shared / "data" / "retrieval" / "scifact"), "test"), Report()
    assert (len(beir.queries), len(beir.corpus), len(beir.qrels)) == (1109, 5183, 339)
    check_beir(report, beir)
    assert report.problems == []
