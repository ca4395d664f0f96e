"""Malformed retrieval data, each with the exact words it must give."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from modernbert.errors import ModernBertError
from tasks.data.ranking import read_corpus, read_run, read_tuples
from tasks.data.ranking.checks import check_leaks, check_rows
from tasks.data.schema import Report

TEXTS = "Write a text, or a list of texts"
COUNT = "Write a list of numbers, that of the positive first, then one for each negative"
NUMBER = "Write a number such as 0.8; if the column is no score, set data.columns.score=false"
FILES = {
    "docs.csv": "id,text\na,first\nb,second\n",
    "set/corpus.jsonl": '{"_id": "a", "text": "first"}\n{"_id": "b", "text": "second"}\n',
    "set/queries.jsonl": '{"_id": "q", "text": "query"}\n',
    "set/qrels/train.tsv": "query-id\tcorpus-id\tscore\nq\ta\t1\n",
    "bare/corpus.jsonl": '{"_id": "a", "text": "first"}\n',
}

# file, content, columns, message: of the error that stops reading, or of each finding
ROWS: list[tuple[str, str, dict[str, Any], str]] = [
    (
        "no_query.csv", "positive,score\na,1\n", {},
        "no_query.csv: no column is clearly the query (what is asked); its columns: 'positive', 'score'. "
        "Set data.columns.query=<column>",
    ),
    (
        "two_queries.csv", "question,title,answer\na,b,c\n", {},
        "two_queries.csv: 2 columns could be the query: 'question', 'title' (all: 'question', 'title', 'answer'). "
        "Set data.columns.query=question or data.columns.query=title",
    ),
    (
        "two_positives.csv", "query,body,answer\na,b,c\n", {},
        "two_positives.csv: 2 columns could be the positive: 'answer', 'body' (all: 'query', 'body', 'answer'). "
        "Set data.columns.positive=answer or data.columns.positive=body",
    ),
    (
        "no_positive.csv", "query,other\na,b\n", {},
        "no_positive.csv: no column is clearly the positive (the text that it should find); its columns: 'query', "
        "'other'. Set data.columns.positive=<column>",
    ),
    (
        "role.csv", "query,positive\na,b\n", {"text": "query"},
        "data.columns.text: no such role; allowed: query, positive, negative, score, scores, query_id, positive_id",
    ),
    (
        "without.csv", "query,positive\na,b\n", {"positive": False},
        "data.columns.positive=false: this role is needed; give the name of a column",
    ),
    (
        "joined.csv", "query,title,body\na,b,c\n", {"positive": ["title", "body"]},
        "data.columns.positive=['title', 'body']: give the name of one column",
    ),
    (
        "graded.csv", "query,positive,negative,score\na,b,c,1\n", {"score": "score"},
        "data.columns.score=score: it belongs to graded pairs, which have no negatives; set data.columns.scores, "
        "or data.columns.negative=false",
    ),
    (
        "teacher.csv", "query,positive,marks\na,b,1\n", {"scores": "marks"},
        "data.columns.scores=marks: it belongs to rows with negatives; set data.columns.score, or name the negatives",
    ),
    (
        "no_number.csv", "sentence1,sentence2,score\na,b,high\nc,d,2\ne,f,nan\n", {},
        f"error no_number.csv:2: 'score': 'high', not a number. {NUMBER}\n"
        f"error no_number.csv:4: 'score': 'nan', not a number. {NUMBER}",
    ),
    (
        "one_score.csv", "query,positive,score\na,b,1\nc,d,1\n", {},
        "error one_score.csv: every pair has the score 1: there is nothing to learn. Add pairs of other scores, or "
        "set data.columns.score=false to learn from the pairs as they are",
    ),
    (
        "too_few.jsonl", '{"query": "q", "positive": "p", "negatives": ["n", "m"], "scores": [1, 2]}\n', {},
        "error too_few.jsonl:1: 'scores': 2 scores for 3 texts (the positive and 2 negatives). " + COUNT,
    ),
    (
        "no_list.jsonl", '{"query": "q", "positive": "p", "negatives": ["n"], "scores": 4}\n', {},
        "error no_list.jsonl:1: 'scores': 4, not a list of numbers such as [9.1, 3.4]. " + COUNT,
    ),
    (
        "item.jsonl", '{"query": "q", "positive": "p", "negatives": ["n", 3]}\n', {},
        "error item.jsonl:1: 'negatives': item 2 of the list is 3, not a text. Write a text, a list of texts, or leave "
        "the cell empty",
    ),
    (
        "empty_item.jsonl", '{"query": "q", "positive": ["p", " "]}\n', {},
        f"error empty_item.jsonl:1: 'positive': item 2 of the list is empty. {TEXTS}",
    ),
    (
        "no_passage.jsonl", '{"query": "q", "positive_passages": [{"docid": "7"}]}\n', {},
        "error no_passage.jsonl:1: 'positive_passages': it is {\"docid\": \"7\"}, without a text. " + TEXTS,
    ),
    (
        "half_id.jsonl", '{"query": "q", "positive": "p", "query_id": 1.5}\n', {},
        "error half_id.jsonl:1: the id is 1.5, not a text or a whole number. Write a text or a whole number",
    ),
    (
        "one_id.jsonl", '{"query": "q", "positive": ["p", "o"], "doc_id": "a"}\n', {},
        "error one_id.jsonl:1: 'positive': 2 texts with the one id 'a'; give each a row of its own. " + TEXTS,
    ),
    (
        "missing.csv", "query,positive\n,p\nq,\nr,s\n", {},
        "error missing.csv:2: 'query' is empty. Write the text, or delete the row\n"
        "error missing.csv:3: 'positive' is empty. Write the text, or delete the row",
    ),
    (
        "itself.csv", "query,positive,negative\nq,Q ,n\nr,s,S\nr,t,s\n", {},
        "warning itself.csv:2: the positive is the query itself. Delete the row: it teaches nothing\n"
        "error itself.csv:3: a negative is the positive itself: 'S'. Delete the negative\n"
        "warning itself.csv:4: a negative is a positive of the same query in another row: 's'. Delete the negative",
    ),
    (
        "simcse.csv", "query,positive\nq,Q \nr,r\n", {},
        "warning simcse.csv: every positive is its query: what is learned is that two dropouts of a text are alike "
        "(SimCSE). Leave it so where that is meant; else name the other column: data.columns.positive=…",
    ),
    (
        "some.csv", "query,positive,negative\nq,p,n\nr,s,\n", {},
        "warning some.csv: 1 of 2 rows have no negative: they learn from the rest of a batch alone. Add negatives, as "
        "`modernbert mine` does, or leave it so",
    ),
    (
        "twice.csv", "query,positive,qid\nq,p,1\nr,s,1\n", {},
        "error twice.csv:3: the query id '1' has another text in row 2. Give each text an id of its own, or set "
        "data.columns.query_id=false",
    ),
    (
        "same.csv", "query,positive\nq,p\nq,p\n", {},
        "warning same.csv:3: the same 'query' and 'positive' as row 2. Delete one of them, unless it counts twice on "
        "purpose",
    ),
]  # fmt: skip

# file, content of it, data.train, data.corpus, message
SOURCES: list[tuple[str, str, str, str | None, str]] = [
    (
        "a.csv", "query,doc_id\nq,z\nr,\n", "a.csv", "docs.csv",
        "error a.csv:2: the corpus has no document 'z'. Write the id of a document of the corpus, or delete the row\n"
        "error a.csv:3: the row has no positive. Write the id of a document of the corpus, or delete the row",
    ),
    (
        "a.csv", "query,positive,doc_id\nq,another,a\n", "a.csv", "docs.csv",
        "warning a.csv:2: the positive differs from document 'a' of the corpus, which is taken. Leave the text out, or "
        "correct the id",
    ),
    (
        "a.csv", "query,other\nq,another\n", "a.csv", "docs.csv",
        "a.csv: no column is clearly the positive (the text that it should find); its columns: 'query', 'other'. Set "
        "data.columns.positive=<column>",
    ),
    (
        "a.csv", "", "set", "docs.csv",
        "data.corpus=docs.csv: set is a BEIR folder and has its own corpus; leave it out",
    ),
    (
        "a.csv", "", "bare", None,
        "bare is no BEIR folder: it must have corpus.jsonl, queries.jsonl and qrels/<split>.tsv",
    ),
    (
        "a.csv", "", "set:dev", None,
        "set:dev has no split 'dev': there are train; name one, as set:train",
    ),
    (
        "set/qrels/train.tsv", "query-id\tcorpus-id\tscore\nq\ta\nq\ta\thigh\nq\t\t1\nq\ta\t0.5\n", "set", None,
        "set/qrels/train.tsv: 4 rows cannot be read\n"
        "  line 2: 2 cells, expected 3: 'q\\ta'\n"
        "  line 3: 'high', not a number\n"
        "  line 4: an id is missing\n"
        "  line 5: the grade is 0.5, not a whole number\n"
        "Each line is a query id, a document id and a whole number (0 = not relevant), with tabs between.",
    ),
    (
        "set/qrels/train.tsv", "query-id\tcorpus-id\tscore\n", "set", None,
        "set/qrels/train.tsv has no judged pairs. Each line is a query id, a document id and a whole number (0 = not "
        "relevant), with tabs between",
    ),
    (
        "set/qrels/train.tsv", "q\ta\t0\n", "set", None,
        "error set/qrels/train.tsv: each of the 1 grades is 0: there is nothing to find. Write 1 for what is relevant",
    ),
    (
        "set/corpus.jsonl",
        '{"_id": "a", "text": "x"}\n{"_id": "a", "text": "y"}\n{"text": "z"}\n{"_id": [], "text": 1}\n',
        "set", None,
        "set/corpus.jsonl: 4 rows cannot be read\n"
        "  row 2: the id 'a' is taken by a row above\n"
        "  row 3: it has no id\n"
        "  row 4: the id is [], not a text or a whole number\n"
        "  row 4: its text is 1, not a text\n"
        "Give each document an id of its own, or leave the column of ids out: then the row is its number.",
    ),
    (
        "set/corpus.csv", "id,text\na,x\n", "set", None,
        "set has corpus.csv and corpus.jsonl: keep one of them",
    ),
    (
        "set/queries.jsonl", '{"_id": "q", "name": "x", "size": "y", "year": "z"}\n', "set", None,
        "set/queries.jsonl: no column is clearly the text (what is asked); its columns: '_id', 'name', 'size', 'year'. "
        "Set data.columns.text=<column>",
    ),
]  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with FILES in it."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(source: str, columns: dict[str, Any], corpus: str | None = None) -> str:
    """The message of the error that stops reading, else each finding in order."""
    report = Report()
    try:
        table = read_tuples(source, columns, report, "train", corpus)
        check_rows(report, table)
    except ModernBertError as error:
        if not report.problems:  # else it only repeats them: no row was left
            return str(error)
    found = sorted(report.problems, key=lambda problem: problem.row or 0)
    return "\n".join(f"{problem.level} {problem.place}: {problem.what}. {problem.mend}" for problem in found)


@pytest.mark.parametrize(("name", "content", "columns", "message"), ROWS, ids=[row[0] for row in ROWS])
def test_rows(folder: Path, name: str, content: str, columns: dict[str, Any], message: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    assert said(name, columns) == message


@pytest.mark.parametrize(("name", "content", "source", "corpus", "message"), SOURCES)
def test_sources(folder: Path, name: str, content: str, source: str, corpus: str | None, message: str) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    assert said(source, {}, corpus) == message


RUNS = [
    ("q1 Q0 d1 1 2.5\n", "line 1: 5 cells, expected 6: 'q1 Q0 d1 1 2.5'"),
    ("q1 Q0 d1 1 best x\n", "line 1: the score is 'best', not a number"),
    ("q1 Q0 d1 1 2 x\nq1 Q0 d1 2 1 x\n", "line 2: document d1 is there twice for query q1"),
]


@pytest.mark.parametrize(("content", "line"), RUNS)
def test_runs(folder: Path, content: str, line: str) -> None:
    (folder / "a.run").write_text(content, encoding="utf-8")
    mend = "Each line is: query id, Q0, document id, rank, score, name of the system."
    message = f"a.run: 1 row cannot be read\n  {line}\n{mend}"
    with pytest.raises(ModernBertError, match=f"^{re.escape(message)}$"):
        read_run("a.run")


def test_corpus_that_is_not_there() -> None:
    with pytest.raises(ModernBertError, match=r"^there is no file docs.cs. Did you mean docs.csv\?$"):
        list(read_corpus("docs.cs"))


def test_queries_of_the_test_in_training(folder: Path) -> None:
    report = Report()
    (folder / "a.csv").write_text("query,positive\nWhy not?,p\nq,r\n", encoding="utf-8")
    (folder / "b.csv").write_text("query,positive\nother,p\nwhy  NOT?,s\n", encoding="utf-8")
    check_leaks(report, read_tuples("a.csv", {}, report), read_tuples("b.csv", {}, report))
    assert [(p.code, p.place, p.what) for p in report.problems] == [("row-leak", "b.csv:3", "the same text as a.csv:2")]
