"""Every format of retrieval data, and the one table that it becomes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.data.ranking import Document, RankingTable, read_tuples
from tasks.data.ranking.cells import as_id, as_texts
from tasks.data.schema import Report

OURS = ("query", "positive", "negatives", "scores", "score", "grade", "query_id", "positive_id", "positive_key")


def read(path: Path, split: str = "train", columns: Mapping[str, Any] | None = None, **more: Any) -> RankingTable:
    """The table of a file without a finding."""
    report = Report()
    table = read_tuples(str(path), columns or {}, report, split, **more)
    assert report.problems == []
    return table


def put(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def put_lines(path: Path, *rows: dict[str, Any]) -> Path:
    return put(path, "".join(json.dumps(row) + "\n" for row in rows))


def taken(table: RankingTable, *names: str) -> list[tuple[Any, ...]]:
    return list(zip(*(table.columns[name] for name in names), strict=True))


def test_pairs_without_anything_else(tmp_path: Path) -> None:
    table = read(put(tmp_path / "a.csv", "anchor,answer,team\nwhy,because,x\nwhen,now,y\n"))
    assert table.kind == "tuples"
    assert table.rows == [2, 3]
    assert {name: table.columns[name] for name in OURS} == {
        "query": ["why", "when"],
        "positive": ["because", "now"],
        "negatives": [[], []],
        "scores": [None, None],
        "score": [None, None],
        "grade": [1, 1],
        "query_id": ["why", "when"],
        "positive_id": ["because", "now"],
        "positive_key": ["because", "now"],
    }
    assert table.columns["team"] == ["x", "y"]
    assert table.notes == [
        "query: column 'anchor' (guessed by its name; another: data.columns.query=…)",
        "positive: column 'answer' (guessed by its name; another: data.columns.positive=…)",
        "a validation that is split off searches the documents judged for its queries and at most 1,000 others of 2, "
        "drawn at random",
    ]


@pytest.mark.parametrize(
    ("header", "query", "positive"),
    [
        ("query,positive,title", "query", "positive"),
        ("positive,other,query", "query", "positive"),
        ("title,body,score_of_nobody", "title", "body"),
        ("Title,Body,url", "Title", "Body"),
        ("sentence1,sentence2,genre", "sentence1", "sentence2"),
        ("question,passage,url", "question", "passage"),
        ("premise,hypothesis,genre", "premise", "hypothesis"),
        ("question1,question2,id", "question1", "question2"),
        ("query,title,text", "query", "text"),
    ],
)
def test_columns_by_name(tmp_path: Path, header: str, query: str, positive: str) -> None:
    table = read(put(tmp_path / "a.csv", f"{header}\na b,c d,e f\n"))
    cells = dict(zip(header.split(","), ("a b", "c d", "e f"), strict=True))
    assert taken(table, "query", "positive") == [(cells[query], cells[positive])]


def test_negatives_in_columns_and_an_empty_one(tmp_path: Path) -> None:
    text = "query,positive,negative_2,hard_negative,negative_1\nq,p,n2,h,n1\nr,s,,,n3\n"
    table = read(put(tmp_path / "a.csv", text))
    assert table.columns["negatives"] == [["n2", "h", "n1"], ["n3"]]
    assert table.notes[0] == (
        "negative: columns 'negative_2', 'hard_negative', 'negative_1' (guessed by name; another: "
        "data.columns.negative=…; none: data.columns.negative=false)"
    )
    assert list(table.corpus) == ["p", "s", "n2", "h", "n1", "n3"]


def test_negatives_that_are_named(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", "query,positive,negative,worse\nq,p,n,w\n")
    assert read(path, columns={"negative": "worse"}).columns["negatives"] == [["w"]]
    assert read(path, columns={"negative": ["worse", "negative"]}).columns["negatives"] == [["w", "n"]]
    assert read(path, columns={"negative": False}).columns["negatives"] == [[]]


def test_mined_lists_with_the_scores_of_a_teacher(tmp_path: Path) -> None:
    rows = (
        {"query": "q", "positive": "p", "negatives": ["a", "b"], "scores": [9.5, 3, 1.25]},
        {"query": "r", "positive": "s", "negatives": ["c"], "scores": [8, 2]},
    )
    table = read(put_lines(tmp_path / "mined.jsonl", *rows))
    assert table.columns["negatives"] == [["a", "b"], ["c"]]
    assert table.columns["scores"] == [[9.5, 3.0, 1.25], [8.0, 2.0]]
    parquet = tmp_path / "mined.parquet"
    pq.write_table(pa.Table.from_pylist(list(rows)), parquet)
    assert [read(parquet).columns[name] for name in OURS] == [table.columns[name] for name in OURS]


def test_lists_in_csv_cells_as_json(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", 'query,positive,negatives,scores\nq,p,"[""a"", ""b""]","[3, 2, 1]"\n')
    table = read(path)
    assert taken(table, "negatives", "scores") == [(["a", "b"], [3.0, 2.0, 1.0])]


def test_a_text_that_begins_like_a_list_is_a_text(tmp_path: Path) -> None:
    table = read(put(tmp_path / "a.csv", "query,positive,negative\nq,[1] Smith et al.,[sic]\n"))
    assert taken(table, "positive", "negatives") == [("[1] Smith et al.", ["[sic]"])]


def test_scores_in_columns(tmp_path: Path) -> None:
    text = "query,positive,negative_1,negative_2,positive_score,negative_1_score,negative_2_score\nq,p,a,b,3,2,1.5\n"
    assert read(put(tmp_path / "a.csv", text + "r,s,c,,3,1,\n")).columns["scores"] == [[3.0, 2.0, 1.5], [3.0, 1.0]]


def test_several_positives_of_a_row_are_rows(tmp_path: Path) -> None:
    row = {"query": "q", "pos": ["p", "o"], "neg": ["n"], "pos_scores": [3, 2], "neg_scores": [1], "id": 7}
    table = read(put_lines(tmp_path / "bge.jsonl", row, row | {"query": "r"}))
    assert table.rows == [1, 1, 2, 2]
    assert taken(table, "query", "positive", "negatives", "scores", "id") == [
        ("q", "p", ["n"], [3.0, 1.0], 7),
        ("q", "o", ["n"], [2.0, 1.0], 7),
        ("r", "p", ["n"], [3.0, 1.0], 7),
        ("r", "o", ["n"], [2.0, 1.0], 7),
    ]


def test_tevatron_passages_bring_titles_and_ids(tmp_path: Path) -> None:
    row = {
        "query_id": 12,
        "query": "q",
        "positive_passages": [{"docid": "7", "title": "T", "text": "p"}],
        "negative_passages": [{"docid": "8", "title": "", "text": "n"}, {"docid": "9", "text": "m"}],
    }
    table = read(put_lines(tmp_path / "a.jsonl", row))
    wanted = ("query_id", "positive", "positive_id", "positive_key", "negatives", "negative_keys")
    assert taken(table, *wanted) == [("12", "T p", "7", "7", ["n", "m"], ["8", "9"])]
    assert list(table.corpus) == ["7", "8", "9"]


def test_graded_pairs(tmp_path: Path) -> None:
    table = read(put(tmp_path / "a.csv", "sentence1,sentence2,score\na,b,5.0\nc,d,0\n"))
    assert table.kind == "scored"
    assert table.columns["score"] == [5.0, 0.0]
    path = put(tmp_path / "b.csv", "query,document,upvotes,label\na,b,3,x\n")
    assert read(path, columns={"score": "upvotes"}).columns["score"] == [3.0]
    assert read(path, columns={"score": False}).kind == "tuples"


def test_ids_join_texts_to_documents(tmp_path: Path) -> None:
    text = "query,positive,qid,doc_id\nq,p,1,a\nr,p,2,a\nr,second half,2,a\n"
    table = read(put(tmp_path / "a.csv", text))
    assert taken(table, "query_id", "positive_id", "positive_key") == [
        ("1", "a", "a"), ("2", "a", "a"), ("2", "a", "a#2"),
    ]  # fmt: skip
    assert table.corpus == {"a": Document("a", "", "p"), "a#2": Document("a#2", "", "second half")}
    assert "document ids with several texts, read as passages of one document: 1" in table.notes


def test_negative_takes_over_the_key_of_a_positive_with_its_text(tmp_path: Path) -> None:
    text = "query,positive,negative,doc_id\nq,p,s,a\nr,s,n,b\n"
    table = read(put(tmp_path / "a.csv", text))
    assert table.columns["negative_keys"] == [["b"], ["n"]]
    assert list(table.corpus) == ["a", "b", "n"]


CORPUS = "id,title,text\na,Parcel,is here\nb,,is lost\nc,Refund,no\n"


def test_corpus_by_id_or_by_text(tmp_path: Path) -> None:
    corpus = str(put(tmp_path / "docs.csv", CORPUS))
    by_id = read(put(tmp_path / "a.csv", "query,doc_id\nq,a\nr,b\n"), corpus=corpus)
    by_text = read(put(tmp_path / "b.csv", "query,positive\nq,is here\nr,is lost\n"), corpus=corpus)
    full = read(put(tmp_path / "c.csv", "query,positive\nq,Parcel is here\nr,is lost\n"), corpus=corpus)
    for table in (by_id, by_text, full):
        wanted = [("Parcel is here", "a", "a"), ("is lost", "b", "b")]
        assert taken(table, "positive", "positive_id", "positive_key") == wanted
        assert list(table.corpus) == ["a", "b", "c"]


def test_positive_that_the_corpus_lacks_is_searched_too(tmp_path: Path) -> None:
    corpus = str(put(tmp_path / "docs.csv", CORPUS))
    report = Report()
    path = put(tmp_path / "a.csv", "query,positive\nq,elsewhere\nr,is lost\n")
    table = read_tuples(str(path), {}, report, "test", corpus)
    assert list(table.corpus) == ["a", "b", "c", "elsewhere"]
    assert [(p.level, p.code, p.row) for p in report.problems] == [("warning", "positive-not-in-corpus", 2)]
    # The corpus itself, which is kept for the next split, has not grown.
    assert list(read(put(tmp_path / "b.csv", "query,positive\nr,is lost\n"), corpus=corpus).corpus) == ["a", "b", "c"]


def test_beir_rows_have_grades_and_judged_negatives(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    put_lines(folder / "corpus.jsonl", *({"_id": k, "title": "T", "text": k} for k in "abcd"))
    put_lines(folder / "queries.jsonl", *({"_id": f"q{i}", "text": f"query {i}"} for i in (1, 2, 3)))
    qrels = put(folder / "qrels" / "train.tsv", "query-id\tcorpus-id\tscore\nq1\ta\t2\nq1\tb\t0\nq2\tc\t1\nq3\td\t0\n")
    table = read(folder)
    wanted = ("query", "query_id", "positive", "positive_key", "grade", "negatives", "negative_keys")
    assert taken(table, *wanted) == [
        ("query 1", "q1", "T a", "a", 2, ["T b"], ["b"]),
        ("query 2", "q2", "T c", "c", 1, [], []),
    ]
    assert (table.source, table.rows) == (str(qrels), [2, 4])
    assert table.notes == [
        "split 'train': 2 queries, 2 relevant documents",
        "queries without a relevant document, left out: 1",
        "a validation that is split off searches the documents judged for its queries and at most 1,000 others of 4, "
        "drawn at random",
    ]


def test_relevant_document_without_a_text_is_left_out_of_training_alone(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    put_lines(folder / "corpus.jsonl", {"_id": "a", "title": "", "text": ""}, {"_id": "b", "text": "b"})
    put_lines(folder / "queries.jsonl", {"_id": "q", "text": "query"})
    put(folder / "qrels" / "train.tsv", "q\ta\t1\nq\tb\t1\n")
    report = Report()
    train = read_tuples(str(folder), {}, report, "train")
    assert train.columns["positive"] == ["b"]
    assert "relevant documents without a text, left out of training: 1" in train.notes
    assert read_tuples(f"{folder}:train", {}, report, "test").columns["positive"] == ["", "b"]
    assert {p.code for p in report.problems} == {"document-empty"}


def test_selected_rows_keep_the_whole_corpus(tmp_path: Path) -> None:
    table = read(put(tmp_path / "a.csv", "query,positive\nq,p\nr,s\n")).select([1])
    assert (table.rows, table.columns["query"], list(table.corpus), table.split) == ([3], ["r"], ["p", "s"], "train")


TEXTS = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).filter(lambda text: bool(text.strip()))


@given(st.lists(TEXTS, max_size=4))
def test_lists_of_texts_survive_json(texts: list[str]) -> None:
    assert [text.text for text in as_texts(texts)] == texts
    assert [text.text for text in as_texts(json.dumps(texts))] == texts


@given(st.integers(-(10**15), 10**15))
def test_ids_survive_spreadsheets(number: int) -> None:
    assert as_id(number) == as_id(str(number)) == as_id(float(number)) == str(number)
