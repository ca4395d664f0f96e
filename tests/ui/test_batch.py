"""A file through the page: same rows, same columns, the run's own answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tasks.data import readers
from tasks.data.readers import Table
from tasks.run import Run
from ui import batch

OpenPage = Callable[[Run], AbstractContextManager[Client]]
ROWS = [
    {"id": "7", "body": "Where is my parcel?", "prediction": "old"},
    {"id": "8", "body": "", "prediction": "old"},
    {"id": "9", "body": 'He said "no", twice;\nand left', "prediction": "old"},
    {"id": "10", "body": "I was charged twice " * 20, "prediction": "old"},
]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def score(client: Client, path: Path, *columns: str | None) -> tuple[str, Table]:
    said, result, *_ = client.predict(handle_file(str(path)), *columns, api_name="/score")
    return said, readers.read(value_of(result))


def value_of(update: Any) -> Any:
    """A component's value, which Gradio sends bare or inside an update."""
    return update["value"] if isinstance(update, dict) else update


def test_scored_file_has_all_columns_and_the_answers_in_order(
    client: Client, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "CHUNK", 2)
    path = write_csv(tmp_path / "new rows.csv", ROWS)
    said, scored = score(client, path, "body")
    given = readers.read(str(path))
    for name, values in given.columns.items():
        assert scored.columns[name] == values
    outputs = run.outputs(Table("x", {"message": given.columns["body"]}, given.rows))
    expected = run.task.to_columns(outputs)
    assert list(scored.columns) == [*given.columns, "prediction_predicted", *list(expected)[1:]]
    assert scored.columns["prediction_predicted"] == expected["prediction"]
    for name in run.schema.labels.names:
        found = [None if cell is None else float(cell) for cell in scored.columns[f"p_{name}"]]
        for cell, right in zip(found, expected[f"p_{name}"], strict=True):
            assert cell == pytest.approx(right, abs=1e-6) if right is not None else cell is None
    assert outputs[1] is None
    assert "4 rows scored" in said
    assert "1 row with a text longer than 24 tokens" in said
    assert "1 row without text, so without prediction: 3." in said


def test_columns_are_guessed_by_training_then_by_name(client: Client, tmp_path: Path) -> None:
    for header, guess in (("message", "message"), ("body", "body")):
        path = write_csv(tmp_path / f"{header}.csv", [{"id": "1", header: "Where is it?"}])
        said, preview, *_, column, second = client.predict(handle_file(str(path)), api_name="/columns")
        assert second["visible"] is False
        assert column["value"] == guess
        assert [value for _, value in column["choices"]] == ["id", header]
        assert said.startswith("1 row")
        assert f">{header}</th>" in value_of(preview)
        assert ">Where is it?</td>" in value_of(preview)


def test_an_unclear_column_is_left_to_the_person(client: Client, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "odd.csv", [{"q1": "a", "q2": "b", "q3": "c"}])
    assert client.predict(handle_file(str(path)), api_name="/columns")[-2]["value"] is None
    with pytest.raises(AppError, match="Choose the column of the text"):
        score(client, path, None)


@pytest.mark.parametrize(("suffix", "written"), [(".jsonl", ".jsonl"), (".tsv", ".tsv"), (".json", ".jsonl")])
def test_other_formats(client: Client, run: Run, tmp_path: Path, suffix: str, written: str) -> None:
    path = tmp_path / f"rows{suffix}"
    texts = ["Where is it?", "I was charged twice"]
    rows = [{"message": text} for text in texts]
    path.write_text(
        {
            ".jsonl": "".join(json.dumps(row) + "\n" for row in rows),
            ".json": json.dumps(rows),
            ".tsv": "message\n" + "".join(f"{text}\n" for text in texts),
        }[suffix],
        encoding="utf-8",
    )
    result = value_of(client.predict(handle_file(str(path)), "message", api_name="/score")[1])
    assert Path(result).name == f"rows_scored{written}"
    assert readers.read(result).columns["prediction"] == [answer.labels[0] for answer in run.answer(texts)]


def test_two_columns(make_run: Callable[..., Run], open_page: OpenPage, tmp_path: Path) -> None:
    run = make_run(["yes", "no"], pair=True)
    path = write_csv(tmp_path / "pairs.csv", [{"a": "Where is it?", "b": "delivery"}, {"a": "Refund", "b": "money"}])
    with open_page(run) as client:
        _, scored = score(client, path, "a", "b")
    right = run.answer(["Where is it?", "Refund"], ["delivery", "money"])
    assert [float(cell) for cell in scored.columns["p_yes"]] == pytest.approx(
        [r.scores["yes"] for r in right], abs=1e-6
    )


WRONG = {
    "sheet.csv": (b"PK\x03\x04rest", "sheet.csv is not text but an Excel or zip file"),
    "empty.csv": (b"", "empty.csv is empty"),
    "header.csv": (b"message\n", "header.csv has a header (message) but no rows"),
    "image.png": (b"\x89PNG\r\n\x1a\n", "Invalid file type"),
    "nul.csv": (b"message\na\0b\n", "nul.csv: line 2 has a NUL byte"),
}


@pytest.mark.parametrize("name", list(WRONG))
@pytest.mark.parametrize("endpoint", ["/columns", "/score"])
def test_a_wrong_file_is_a_message_without_its_place(client: Client, tmp_path: Path, name: str, endpoint: str) -> None:
    content, message = WRONG[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(AppError) as caught:
        client.predict(handle_file(str(path)), *(["message"] if endpoint == "/score" else []), api_name=endpoint)
    assert message in str(caught.value)
    assert "/gradio" not in str(caught.value)


def test_no_file_is_a_message(client: Client) -> None:
    with pytest.raises(AppError, match="There is no table yet"):
        client.predict(None, None, api_name="/score")


def test_a_column_that_is_not_there_is_a_message(client: Client, tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", ROWS)
    with pytest.raises(AppError, match="no column 'nothing'"):
        score(client, path, "nothing")


@pytest.mark.parametrize(
    ("name", "result"),
    [
        ("a.csv", "a_scored.csv"),
        ("a.CSV.gz", "a_scored.csv.gz"),
        ("b.ndjson", "b_scored.jsonl"),
        ("c.x.xlsm", "c.x_scored.xlsx"),
    ],
)
def test_result_name(name: str, result: str) -> None:
    assert batch.result_name(Path(name)) == result


def test_uploads_and_results_are_gone_when_the_page_closes(run: Run, open_page: OpenPage, tmp_path: Path) -> None:
    path = write_csv(tmp_path / f"private-{tmp_path.name}.csv", ROWS)
    with open_page(run) as client:
        client.download_files = False  # the client's own copy would stand in the same folder
        result = Path(value_of(client.predict(handle_file(str(path)), "body", api_name="/score")[1])["path"])
        assert result.is_file()
        cache = result.parents[1]
        assert {found.name for found in cache.glob(f"*/private-{tmp_path.name}*")} == {path.name, result.name}
    assert list(cache.glob(f"*/private-{tmp_path.name}*")) == []
