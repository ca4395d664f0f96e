"""Candidates from pairs, lists, triplets and BEIR folders come out as one table of pairs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modernbert.errors import ConfigError, DataError
from tasks.data.ranking.groups import number_queries, rows_of_queries, scattered, whole_queries
from tasks.data.ranking.lists import as_pairs, read_pairs, stream_pairs, to_label
from tasks.data.readers import Table
from tasks.data.schema import Report

Made = Callable[[str, str], str]


@pytest.fixture
def made(tmp_path: Path) -> Made:
    def write(name: str, content: str) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        return str(path)

    return write


def pairs(source: str, **given: Any) -> tuple[Table, Report]:
    report = Report()
    return read_pairs(source, given, report), report


def test_pairs_by_other_names(made: Made) -> None:
    table, report = pairs(made("a.csv", "question,answer,relevance,note\nwho?,me,1,x\nwho?,you,0,y\n"))
    assert list(table.columns) == ["query", "document", "label", "note"]
    assert table.columns["document"] == ["me", "you"]
    assert table.rows == [2, 3]
    assert any("'answer' (guessed by its name" in note for note in table.notes)
    assert report.problems == []


def test_names_of_roles_are_no_guess(made: Made) -> None:
    table, _ = pairs(made("a.csv", "query_id,query,document,label\n1,who?,me,1\n"))
    assert table.notes == []


def test_named_columns_win_and_others_step_aside(made: Made) -> None:
    source = made("a.csv", "query,title,document,y\nwho?,me,file7,1\n")
    table, _ = pairs(source, document="title", label="y")
    assert table.columns["document"] == ["me"]
    assert table.columns["document_other"] == ["file7"]
    assert table.columns["label"] == ["1"]


def test_ambiguous_labels_are_named(made: Made) -> None:
    with pytest.raises(ConfigError, match=r"2 columns could be the label: 'relevance', 'score'"):
        pairs(made("a.csv", "query,document,relevance,score\nq,d,1,2\n"))


def test_lists_become_pairs(made: Made) -> None:
    rows = [
        {"query": "who?", "documents": ["me", "you"], "labels": [1, 0], "topic": "a"},
        {"query": "why?", "documents": [{"title": "T", "text": "so"}], "labels": [True], "topic": "b"},
        {"query": "broken", "documents": ["x", "y"], "labels": [1], "topic": "c"},
    ]
    table, report = pairs(made("a.jsonl", "\n".join(map(json.dumps, rows))))
    assert table.columns["query"] == ["who?", "who?", "why?"]
    assert table.columns["document"] == ["me", "you", "T so"]
    assert [to_label(cell) for cell in table.columns["label"]] == [1, 0, 1]
    assert table.columns["topic"] == ["a", "a", "b"]
    assert table.rows == [1, 1, 2]
    assert [(p.code, p.row) for p in report.problems] == [("list-unreadable", 3)]
    assert "2 documents, but 1 in 'label'" in report.problems[0].what


def test_lists_in_csv_cells(made: Made) -> None:
    table, report = pairs(made("a.csv", 'query,document,label\nwho?,"[""me"", ""you""]","[0, 2]"\n'))
    assert table.columns["document"] == ["me", "you"]
    assert table.columns["label"] == [0, 2]
    assert report.problems == []


def test_a_text_that_begins_with_a_bracket_is_a_text(made: Made) -> None:
    table, _ = pairs(made("a.csv", 'query,document,label\nwho?,"[1] Smith et al.",1\n'))
    assert table.columns["document"] == ["[1] Smith et al."]


def test_triplets_with_numbered_negatives(made: Made) -> None:
    table, report = pairs(made("a.csv", "anchor,positive,negative_1,negative_2\nwho?,me,you,they\nwhy?,so,,no\n"))
    assert table.columns["query"] == ["who?"] * 3 + ["why?"] * 2
    assert table.columns["document"] == ["me", "you", "they", "so", "no"]
    assert table.columns["label"] == [1, 0, 0, 1, 0]
    assert report.problems == []


def test_mined_triplets_bring_a_teachers_scores(made: Made) -> None:
    row = {"query": "who?", "positive": "me", "negative": ["you", "they"], "scores": [9.5, 1.0, -2.0], "query_id": "7"}
    table, _ = pairs(made("a.jsonl", json.dumps(row)))
    assert table.columns["teacher"] == [9.5, 1.0, -2.0]
    assert table.columns["query_id"] == ["7"] * 3
    short = {**row, "scores": [9.5, 1.0]}
    table, report = pairs(made("b.jsonl", json.dumps(row) + "\n" + json.dumps(short)))
    assert len(table) == 3
    assert "3 documents but 2 scores" in report.problems[0].what


def test_positives_alone_give_no_order(made: Made) -> None:
    with pytest.raises(ConfigError, match=r"positives but no negatives.*modernbert mine"):
        pairs(made("a.csv", "query,positive\nwho?,me\n"))


@pytest.fixture
def beir(made: Made, tmp_path: Path) -> Path:
    corpus = [{"_id": f"d{i}", "title": "t" if i == 1 else "", "text": f"text {i}"} for i in range(4)]
    made("set/corpus.jsonl", "\n".join(map(json.dumps, corpus)))
    made("set/queries.jsonl", "\n".join(json.dumps({"_id": f"q{i}", "text": f"question {i}"}) for i in range(3)))
    made("set/qrels/train.tsv", "query-id\tcorpus-id\tscore\nq0\td1\t1\nq1\td2\t2\n")
    made("set/qrels/test.tsv", "query-id\tcorpus-id\tscore\nq2\td1\t1\nq2\td0\t0\n")
    made("run.trec", "q0 Q0 d3 1 9 bm25\nq0 Q0 d0 2 8 bm25\nq2 Q0 d1 1 7 bm25\nq2 Q0 d3 2 9 bm25\nq9 Q0 d3 1 1 bm25\n")
    return tmp_path / "set"


def test_beir_with_a_run(beir: Path, tmp_path: Path) -> None:
    table, report = pairs(f"{beir}:test@{tmp_path}/run.trec")
    assert table.columns["query_id"] == ["q2", "q2"]
    assert table.columns["document_id"] == ["d3", "d1"]  # by score, best first
    assert table.columns["document"] == ["text 3", "t text 1"]
    assert table.columns["label"] == [0, 1]
    assert report.problems == []


def test_relevant_documents_that_were_not_found_are_added_to_train_alone(beir: Path, tmp_path: Path) -> None:
    table, _ = pairs(f"{beir}:train@{tmp_path}/run.trec")
    assert list(zip(table.columns["document_id"], table.columns["label"], strict=True)) == [
        ("d3", 0), ("d0", 0), ("d1", 1),
    ]  # fmt: skip
    assert table.notes[0].endswith("for 1 of 2 judged queries")
    assert table.notes[1].startswith("1 relevant documents")


def test_beir_without_candidates_needs_judged_ones_of_both_kinds(beir: Path) -> None:
    table, _ = pairs(f"{beir}:test")
    assert table.columns["label"] == [1, 0]
    with pytest.raises(DataError, match=r"judges only relevant documents.*@<run file"):
        pairs(f"{beir}:train")


def test_a_run_of_another_set_is_refused(beir: Path, made: Made) -> None:
    with pytest.raises(DataError, match="ranks no query of"):
        pairs(f"{beir}:test@" + made("other.trec", "x Q0 d1 1 9 s\n"))


def test_documents_that_are_not_in_the_corpus_are_told(beir: Path, made: Made) -> None:
    table, report = pairs(f"{beir}:test@" + made("old.trec", "q2 Q0 d1 1 9 s\nq2 Q0 gone 2 8 s\n"))
    assert table.columns["document_id"] == ["d1"]
    assert [(p.level, p.code) for p in report.problems] == [("warning", "id-unknown")]


def table_of(queries: list[str], ids: list[Any] | None = None) -> Table:
    columns: dict[str, list[Any]] = {"query": queries, "document": [f"d{i}" for i in range(len(queries))]}
    if ids is not None:
        columns["query_id"] = ids
    return Table("t", columns, list(range(len(queries))))


def test_rows_are_grouped_by_id_or_text() -> None:
    assert number_queries(table_of(["a", "b", "a"])).tolist() == [0, 1, 0]
    assert number_queries(table_of(["a", "a", "a", "b"], ["1", "2", None, ""])).tolist() == [0, 1, 2, 3]
    assert [rows.tolist() for rows in rows_of_queries(np.array([0, 1, 0]))] == [[0, 2], [1]]
    assert rows_of_queries(np.zeros(0, np.int64)) == []


def test_chunks_have_whole_queries() -> None:
    table = table_of(list("aabbbbccd"))
    chunks = list(whole_queries([table.select(range(3)), table.select(range(3, 9))], 3))
    assert ["".join(chunk.columns["query"]) for chunk in chunks] == ["aa", "bbbb", "ccd"]
    assert not scattered([table])
    assert scattered([table_of(list("aab")), table_of(["a"])])


def test_stream_reads_a_file_with_scattered_queries_whole(made: Made) -> None:
    together = made("a.csv", "question,answer\n" + "".join(f"q{i // 2},d{i}\n" for i in range(10)))
    sizes = [len(table) for table in stream_pairs(together, {}, 4)]
    assert sum(sizes) == 10
    assert all(size % 2 == 0 and size <= 4 for size in sizes)
    apart = made("b.csv", "question,answer\n" + "".join(f"q{i % 2},d{i}\n" for i in range(10)))
    assert [len(table) for table in stream_pairs(apart, {}, 4)] == [10]


@pytest.mark.parametrize(("cell", "value"), [("1", 1), (True, 1), ("no", 0), (0, 0), ("2,5", 2.5), (" TRUE ", 1)])
def test_labels(cell: Any, value: float) -> None:
    assert to_label(cell) == value


def test_what_is_no_label_is_no_number() -> None:
    assert np.isnan(to_label("maybe"))
    assert np.isnan(to_label(None))


def test_as_pairs_keeps_every_other_column() -> None:
    table = Table("t", {"q": ["a"], "question": ["b"], "doc": ["c"], "x": [3]}, [1])
    assert as_pairs(table, {}, Report()).columns == {"q": ["a"], "query": ["b"], "document": ["c"], "x": [3]}
