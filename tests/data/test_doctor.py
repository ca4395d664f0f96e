"""Each check of the data doctor: what it finds, where, in which words, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tasks.data import doctor
from tasks.data.readers import Table
from tasks.data.schema import Report


def table(source: str = "a.csv", **columns: list[Any]) -> Table:
    return Table(source, columns, list(range(2, 2 + len(next(iter(columns.values()))))))


def found(report: Report) -> list[tuple[str, str, int | None, str]]:
    return [(problem.level, problem.code, problem.row, problem.what) for problem in report.problems]


def checked(name: str, *arguments: Any) -> list[tuple[str, str, int | None, str]]:
    report = Report()
    getattr(doctor, name)(report, *arguments)
    for problem in report.problems:
        assert problem.mend
        assert not problem.mend.endswith(".")
    return found(report)


@pytest.mark.parametrize(
    ("text", "level", "code", "what"),
    [
        (None, "error", "text-missing", "'text' is empty"),
        ("", "error", "text-empty", "'text' is empty"),
        (" \n\u00a0", "error", "text-empty", "'text' has only white space"),
        (["a"], "error", "text-type", "'text' is ['a'], not a text"),
        ({"a": 1}, "error", "text-type", "'text' is {'a': 1}, not a text"),
        (2012, "error", "text-type", "'text' is 2012, not a text"),
        ("half \ud83d", "error", "text-half-character", "'text' holds '\\ud83d', half of a character"),
        ("null", "warning", "text-null-word", "'text' is the word 'null': kept as text"),
        (" N/A ", "warning", "text-null-word", "'text' is the word ' N/A ': kept as text"),
        (
            "a\u200bb",
            "warning",
            "text-invisible",
            "'text' has the invisible character '\\u200b' in 'a\\u200bb'",
        ),
        ("a\x07b", "warning", "text-invisible", "'text' has the invisible character '\\x07' in 'a\\x07b'"),
        (
            "caf\ufffd",
            "warning",
            "text-lost-characters",
            "'text' has the mark '\ufffd' of characters that were lost",
        ),
        ("fÃ¼r", "warning", "text-mojibake", "'text' looks like UTF-8 read in another encoding: 'fÃ¼r'"),
        ("itâ€™s", "warning", "text-mojibake", "'text' looks like UTF-8 read in another encoding: 'itâ€™s'"),
    ],
)
def test_text(text: Any, level: str, code: str, what: str) -> None:
    assert checked("check_text", table(text=["fine", text]), "text") == [(level, code, 3, what)]


@pytest.mark.parametrize(
    "text",
    [
        "fine",
        "two\nlines\tand a tab\r\n",
        "nullify it",
        "👩‍👩‍👧 family",
        "می‌خواهم",
        "SÃO PAULO",
        "“quoted” – für",
        "N",
    ],
)
def test_text_left_alone(text: str) -> None:
    assert checked("check_text", table(text=[text]), "text") == []


def test_header() -> None:
    long = "I loved this film " * 10
    assert checked("check_header", table(**{" text": ["a"], "label": ["b"], long: ["c"]})) == [
        ("warning", "header-space", None, "the column name ' text' has white space around it"),
        ("warning", "header-space", None, f"the column name {long!r} has white space around it"),
        (
            "warning",
            "header-looks-like-row",
            None,
            f"a column is called {long[:59] + '…'!r}: is the first line a row?",
        ),
    ]


def test_duplicates() -> None:
    data = table(text=["a", "b", "a", None, None, "A", ["x"], ["x"]], label=["x", "y", "z", "x", "x", "x", "x", "x"])
    assert checked("check_duplicates", data, ["text"]) == [
        ("warning", "row-duplicate", 4, "the same 'text' as row 2"),
        ("warning", "row-duplicate", 9, "the same 'text' as row 8"),
    ]
    assert checked("check_duplicates", data, ["text", "label"]) == [
        ("warning", "row-duplicate", 6, "the same 'text' and 'label' as row 5"),
        ("warning", "row-duplicate", 9, "the same 'text' and 'label' as row 8"),
    ]


def test_conflicts() -> None:
    data = table(text=["Good one", "bad", "good  ONE ", "good one", "bad", None, None])
    labels = ["pos", "neg", "neg", "pos", None, "x", "y"]
    what = "labelled 'neg', but 'pos' in row 2, which has the same text"
    assert checked("check_conflicts", data, ["text"], labels) == [("warning", "label-conflict", 4, what)]
    pairs = table(text=["a", "a", "a"], text_pair=["b", "c", "b"])
    assert [row for *_, row, _ in checked("check_conflicts", pairs, ["text", "text_pair"], [0, 1, 2])] == [4]
    same = checked("check_conflicts", table(text=["a", "a"]), ["text"], [("x", "y"), ["y", "x"]])
    assert same == []
    (_, _, _, what), *_ = checked("check_conflicts", table(text=["a", "a"]), ["text"], [("x", "y"), ()])
    assert what == "labelled nothing, but 'x', 'y' in row 2, which has the same text"


def test_leakage() -> None:
    train = table("train.csv", text=["One", "two", "two", "Straße ﬁn", None])
    test = table("test.csv", text=["three", " TWO\n", "strasse fin", None], body=["one", "x", "y", "z"])
    assert checked("check_leakage", train, test, ["text"]) == [
        ("warning", "row-leak", 3, "the same text as train.csv:3"),
        ("warning", "row-leak", 4, "the same text as train.csv:5"),
    ]
    what = [("warning", "row-leak", 2, "the same text as train.csv:2")]
    assert checked("check_leakage", train, test, ["text"], ["body"]) == what


def test_missing_labels() -> None:
    data = table(label=["a", None, " ", 0, []])
    assert checked("check_missing_labels", data, "label", data.columns["label"]) == [
        ("error", "label-missing", 3, "'label' is empty"),
        ("error", "label-missing", 4, "'label' is empty"),
    ]


def test_numbers() -> None:
    cells = ["1.5", None, "good", "inf", 2]
    values = [1.5, None, float("nan"), float("inf"), 2.0]
    assert checked("check_numbers", table(score=cells), "score", cells, values) == [
        ("error", "label-missing", 3, "'score' is empty"),
        ("error", "label-not-number", 4, "'score' is 'good', not a number"),
        ("error", "label-not-number", 5, "'score' is 'inf', not a number"),
    ]


def test_label_spelling() -> None:
    labels = ["good", "Good", "good", "bad", " good", "BAD", "bad", 1, None]
    report = Report()
    doctor.check_label_spelling(report, table(label=labels), "label", labels)
    assert found(report) == [
        (
            "warning",
            "label-spelling",
            3,
            "'Good' (1 row, from here) is 'good' (2 rows) but for case or spaces",
        ),
        (
            "warning",
            "label-spelling",
            6,
            "' good' (1 row, from here) is 'good' (2 rows) but for case or spaces",
        ),
        ("warning", "label-spelling", 7, "'BAD' (1 row, from here) is 'bad' (2 rows) but for case or spaces"),
    ]
    assert report.problems[0].mend == "Write 'good', if they are one label"
    lists = [["a", "B"], ["A"], ["a", "b", "b"]]
    assert [row for *_, row, _ in checked("check_label_spelling", table(label=lists), "label", lists)] == [
        3,
        2,
    ]


def test_class_counts() -> None:
    labels = ["a", "a", "b", "a", None]
    what = "'b' has this one example: it cannot be in both training and validation"
    data = table(label=labels)
    assert checked("check_class_counts", data, "label", labels) == [("warning", "label-single", 4, what)]
    what = "every row has the label 'a': there is nothing to learn"
    assert checked("check_class_counts", table(label=["a"] * 3), "label", ["a"] * 3) == [
        ("error", "label-one-class", None, what)
    ]
    labels = ["a"] * 400 + ["b"] * 4 + ["c"] * 5
    assert checked("check_class_counts", table(label=labels), "label", labels) == [
        ("warning", "label-imbalance", None, "'a' has 400 rows, 'b' only 4")
    ]
    assert checked("check_class_counts", table(label=labels[2:]), "label", labels[2:]) == []


def test_unseen() -> None:
    labels = ["a", "positve", "z", "positve", None, ("a", "z")]
    report = Report()
    doctor.check_unseen(report, table("test.csv", label=labels), "label", labels, ["a", "positive"])
    assert found(report) == [
        ("error", "label-unseen", 3, "the label 'positve' (2 rows, from here) is not in the training rows"),
        ("error", "label-unseen", 4, "the label 'z' (2 rows, from here) is not in the training rows"),
    ]
    mends = [problem.mend for problem in report.problems]
    add = "Add training rows of it, or delete these"
    assert mends == [f"{add}; or is it 'positive'?", add]


def test_lengths() -> None:
    data = table(text=["x"] * 4)
    assert checked("check_lengths", data, np.array([5, 8, 10, 16]), 8) == [
        (
            "warning",
            "text-cut",
            None,
            "2 of 4 rows (50.0%) exceed 8 tokens and are cut; 25.6% of all tokens are not read (longest: 16 tokens)",
        )
    ]
    assert checked("check_lengths", data, [8, 8, 1, 1], 8) == []


def test_a_hundred_thousand_rows_in_a_second_or_so() -> None:
    """Counts are right at size; the time is printed by --durations (1.4 s of CPU where this was written)."""
    texts = [f"message number {i % 90_000} of a long series" for i in range(100_000)]
    labels = ["even" if i % 2 else "odd" for i in range(100_000)]
    data, report = table(text=texts), Report()
    doctor.check_text(report, data, "text")
    doctor.check_duplicates(report, data, ["text"])
    doctor.check_conflicts(report, data, ["text"], labels)
    doctor.check_leakage(report, data, data.select(range(500)), ["text"])
    doctor.check_label_spelling(report, data, "label", labels)
    doctor.check_class_counts(report, data, "label", labels)
    groups = {group["code"]: group["count"] for group in report.to_json()["groups"]}
    assert groups == {"row-duplicate": 10_000, "row-leak": 500}
    assert len(report.problems) == 42
