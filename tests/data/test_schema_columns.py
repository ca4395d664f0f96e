"""Which column is which: given, guessed by name, guessed by content, or refused in words that help."""

from __future__ import annotations

from typing import Any

import pytest

from modernbert.errors import ConfigError
from tasks.data.readers import Table
from tasks.data.schema import Role, map_columns

TEXT = Role("text", ("sentence", "review", "body", "title", "sentence1", "premise"), True, True, "what to classify")
PAIR = Role("text_pair", ("sentence2", "hypothesis", "text2"), False, True, "a second text")
LABEL = Role("label", ("labels", "class", "intent", "stars", "coarse"), True, False, "the right answer")
ROLES = (TEXT, PAIR, LABEL)


def table(*names: str, rows: dict[str, list[Any]] | None = None) -> Table:
    columns = rows or {name: ["x"] for name in names}
    return Table("train.csv", columns, list(range(2, 2 + len(next(iter(columns.values()))))))


def guess(*names: str, **given: Any) -> dict[str, Any]:
    return map_columns(table(*names), ROLES, given)[0]


def refusal(data: Table, given: dict[str, Any], roles: tuple[Role, ...] = ROLES) -> str:
    with pytest.raises(ConfigError) as raised:
        map_columns(data, roles, given)
    return str(raised.value)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["text", "label"], {"text": "text", "label": "label"}),
        (["id", " Review ", "STARS"], {"text": " Review ", "label": "STARS"}),
        (["title", "body", "class"], {"text": "body", "label": "class"}),
        (["text", "label", "coarse"], {"text": "text", "label": "label"}),
        (
            ["premise", "hypothesis", "label"],
            {"text": "premise", "text_pair": "hypothesis", "label": "label"},
        ),
        (
            ["sentence1", "sentence2", "label"],
            {"text": "sentence1", "text_pair": "sentence2", "label": "label"},
        ),
        (["text", "Text-Pair", "label"], {"text": "text", "text_pair": "Text-Pair", "label": "label"}),
        # A second sentence beside a text that is not the first one is not taken for a pair.
        (["body", "sentence2", "label"], {"text": "body", "label": "label"}),
    ],
)
def test_guessed_by_name(names: list[str], expected: dict[str, str]) -> None:
    assert guess(*names) == expected


def test_what_was_guessed_is_said() -> None:
    mapping, notes = map_columns(table("title", "body", "kind"), ROLES, {"label": "kind"})
    assert mapping == {"text": "body", "label": "kind"}
    assert notes == ["text: column 'body' (guessed by its name; 'title' would fit too; another: data.columns.text=…)"]


def test_given_wins_and_may_be_a_list() -> None:
    assert guess("text", "label", "a", "b", label=["a", "B"]) == {"text": "text", "label": ["a", "b"]}
    assert guess("text", "review", "label", text="review") == {"text": "review", "label": "label"}
    assert guess("text", "label", text=None) == {"text": "text", "label": "label"}
    # A column that is given to one role is not guessed for another.
    assert guess("sentence", "review", "label", text_pair="sentence")["text"] == "review"


def test_prediction_needs_no_answer() -> None:
    assert map_columns(table("body"), ROLES, {"label": "stars"}, predict=True)[0] == {"text": "body"}


def test_guessed_by_content() -> None:
    texts = [f"a message of some length, number {i}" for i in range(20)]
    rows = {"b": ["yes", "no"] * 10, "a": texts}
    mapping, notes = map_columns(table(rows=rows), ROLES, {})
    assert mapping == {"text": "a", "label": "b"}
    assert notes == [
        "text: column 'a' (guessed by its content; another: data.columns.text=…)",
        "label: column 'b' (guessed by its content; another: data.columns.label=…)",
    ]
    assert map_columns(table(rows={"label": ["yes", "no"] * 10, "a": texts}), ROLES, {})[0]["text"] == "a"
    assert map_columns(table(rows={"a": texts}), ROLES, {}, predict=True)[0] == {"text": "a"}
    assert "no column is clearly the text" in refusal(table(rows={"a": texts, "b": texts}), {})


@pytest.mark.parametrize(
    ("names", "given", "message"),
    [
        (
            ["id", "body", "label"],
            {"text": "boddy"},
            "data.columns.text=boddy: train.csv has no such column (did you mean 'body'?); "
            "its columns: 'id', 'body', 'label'",
        ),
        (
            ["text", "label"],
            {"txet": "a"},
            "data.columns.txet: no such role (did you mean 'text'?); allowed: text, text_pair, label",
        ),
        (
            ["text", "label"],
            {"label": 3},
            "data.columns.label=3: give the name of a column or a list of names",
        ),
        (
            ["text", "stars", "intent"],
            {},
            "train.csv: 2 columns could be the label: 'intent', 'stars' (all: 'text', 'stars', 'intent'). "
            "Set data.columns.label=intent or data.columns.label=stars",
        ),
        (
            ["text", "Text ", "label"],
            {},
            "train.csv: 2 columns could be the text: 'text', 'Text ' (all: 'text', 'Text ', 'label'). "
            "Set data.columns.text=text or data.columns.text=Text ",
        ),
        (
            ["a", "b", "label"],
            {},
            "train.csv: no column is clearly the text (what to classify); its columns: 'a', 'b', 'label'. "
            "Set data.columns.text=<column>",
        ),
        (
            ["I loved this film and would see it again at once", "x"],
            {},
            "train.csv: no column is clearly the text (what to classify); "
            "its columns: 'I loved this film and would see it agai…', 'x'. Set data.columns.text=<column>. "
            "The first line looks like a row: the file needs a header line with the names of the columns",
        ),
    ],
)
def test_refusals(names: list[str], given: dict[str, Any], message: str) -> None:
    assert refusal(table(*names), given) == message
