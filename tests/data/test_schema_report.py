"""The report: what is kept and counted, its three forms."""

from __future__ import annotations

import json

import pytest

from modernbert.errors import DataError
from tasks.data.schema import Problem, Report


def filled(number: int) -> Report:
    report = Report()
    for row in range(2, 2 + number):
        report.add(Problem("warning", "row-duplicate", "a.csv", row, "text", f"repeats row {row - 1}", "Delete it"))
    report.add(Problem("error", "text-missing", "a.csv", 9, "text", "'text' is empty", "Write it"))
    report.add(Problem("error", "text-missing", "b.csv", None, None, "'text' is empty", "Write it"))
    return report


def test_keeps_twenty_of_a_kind_and_counts_the_rest() -> None:
    report = filled(10_000)
    assert [len(report.errors), len(report.warnings)] == [2, 21]
    assert report.problems[0].level == "error"
    assert report.warnings[19].row == 21
    assert (report.warnings[20].row, report.warnings[20].what) == (None, "and 9,980 more such rows")
    assert (report.count("error"), report.count("warning")) == (2, 10_000)


def test_plain_text() -> None:
    assert filled(5).lines() == [
        "error: text-missing in a.csv",
        "    row 9: 'text' is empty",
        "    mend: Write it",
        "error: text-missing in b.csv",
        "    'text' is empty",
        "    mend: Write it",
        "warning: row-duplicate, 5 times in a.csv",
        "    row 2: repeats row 1",
        "    row 3: repeats row 2",
        "    row 4: repeats row 3",
        "    and 2 more",
        "    mend: Delete it",
    ]
    assert Report().lines() == []


def test_mends_that_differ_stand_with_their_rows() -> None:
    report = Report()
    for row, mend in ((2, "Write 'a'"), (3, "Write 'b'")):
        report.add(Problem("warning", "label-spelling", "a.csv", row, "label", "odd", mend))
    assert report.lines() == [
        "warning: label-spelling, 2 times in a.csv",
        "    row 2: odd. Write 'a'",
        "    row 3: odd. Write 'b'",
    ]


def test_json() -> None:
    plain = json.loads(json.dumps(filled(30).to_json()))
    assert (plain["errors"], plain["warnings"], len(plain["problems"])) == (2, 30, 22)
    assert plain["groups"][0] == {"level": "warning", "code": "row-duplicate", "source": "a.csv", "count": 30}
    assert plain["problems"][20] == {
        "level": "error",
        "code": "text-missing",
        "source": "a.csv",
        "row": 9,
        "column": "text",
        "what": "'text' is empty",
        "mend": "Write it",
    }


def test_raise_if_errors() -> None:
    report = Report()
    report.add(Problem("warning", "row-duplicate", "a.csv", 2, "text", "repeats", "Delete it"))
    report.raise_if_errors()
    with pytest.raises(DataError) as raised:
        filled(1).raise_if_errors()
    assert str(raised.value) == (
        "2 problems in the data:\n  a.csv:9: 'text' is empty. Write it\n  b.csv: 'text' is empty. Write it"
    )
    for row in range(100):
        report.add(Problem("error", "text-missing", "a.csv", row, "text", "empty", "Write it"))
    with pytest.raises(DataError) as raised:
        report.raise_if_errors()
    lines = str(raised.value).split("\n")
    assert (lines[0], len(lines)) == ("100 problems in the data:", 12)
    assert lines[-1] == "  and 90 more; `modernbert check` lists them"
