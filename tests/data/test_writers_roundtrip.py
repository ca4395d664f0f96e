"""What is written is read back equal, whatever the cells hold; a crash leaves no half file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modernbert.errors import DataError
from tasks.data.readers import read
from tasks.data.writers import Writer, open_writer

# Any text but NUL and halves of characters, which no reader of text files takes.
CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
QUOTING = st.text(st.sampled_from("a \"',;\t|\r\n="), max_size=8)
ROWS = st.lists(st.tuples(CELLS | QUOTING, QUOTING | CELLS), min_size=1, max_size=8)


def written(path: Path, *chunks: dict[str, Any]) -> Path:
    with open_writer(path) as writer:
        for chunk in chunks:
            writer.write(chunk)
    return path


@settings(max_examples=150, deadline=None)
@given(rows=ROWS, suffix=st.sampled_from([".csv", ".tsv"]))
def test_delimited_gives_equal_cells(rows: list[tuple[str, str]], suffix: str) -> None:
    columns = {
        "id": [str(i) for i in range(len(rows))],
        "text": [a for a, _ in rows],
        "label": [b for _, b in rows],
    }
    with tempfile.TemporaryDirectory() as folder:
        table = read(str(written(Path(folder) / f"x{suffix}", columns)))
    assert table.columns == {name: [value or None for value in values] for name, values in columns.items()}
    assert table.notes == []


@settings(max_examples=50, deadline=None)
@given(cells=st.lists((CELLS | QUOTING).filter(str.strip), min_size=1, max_size=8))
def test_one_column_gives_equal_cells(cells: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        table = read(str(written(Path(folder) / "x.csv", {"text": cells})))
    assert table.columns == {"text": cells}


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(st.text("ab ,;|\té–“", min_size=1), st.sampled_from("xyz")), min_size=2, max_size=8),
    separator=st.sampled_from([",", ";", "\t", "|"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_separator_and_encoding_are_detected(
    rows: list[tuple[str, str]], separator: str, encoding: str, end: str
) -> None:
    lines = [("text", "label"), *((f'"{text}"', label) for text, label in rows)]
    content = "".join(separator.join(cells) + end for cells in lines)
    if encoding.startswith("utf-16-"):
        # Without a mark UTF-16 is known by the NULs of Latin text alone.
        content = content.replace("–", "-").replace("“", "'")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.csv"
        path.write_bytes(content.encode(encoding))
        table = read(str(path))
    texts = [text.replace("–", "-").replace("“", "'") if "16-" in encoding else text for text, _ in rows]
    assert table.columns == {"text": texts, "label": [label for _, label in rows]}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet", "xlsx", "csv.gz", "jsonl.gz", "tsv.gz"])
def test_every_format(tmp_path: Path, suffix: str) -> None:
    path = written(
        tmp_path / f"x.{suffix}",
        {"text": ["a,\nb", '"q"', None, "=1+1"], "n": np.arange(4), "label": [["a"], [], None, ["b;"]]},
        {"label": [None, None], "text": ["é", "#N/A"], "n": [1.5, None]},
    )
    table = read(str(path))
    assert table.columns["text"] == ["a,\nb", '"q"', None, "=1+1", "é", "#N/A"]
    if suffix.startswith(("jsonl", "parquet")):
        assert table.columns["n"] == [0, 1, 2, 3, 1.5, None]
        assert table.columns["label"] == [["a"], [], None, ["b;"], None, None]
    else:
        assert [v if v is None else float(v) for v in table.columns["n"]] == [0, 1, 2, 3, 1.5, None]
        assert table.columns["label"] == ['["a"]', "[]", None, '["b;"]', None, None]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_parquet_widens_a_column_that_began_empty(tmp_path: Path) -> None:
    path = written(tmp_path / "x.parquet", {"a": [None], "b": [1]}, {"a": ["x"], "b": [None]}, {"a": ["y"], "b": [0.5]})
    assert read(str(path)).columns == {"a": [None, "x", "y"], "b": [1, None, 0.5]}
    with pytest.raises(DataError, match="Parquet needs one type in a column"):
        written(path, {"a": ["x"]}, {"a": [1]})
    assert read(str(path)).columns["a"] == [None, "x", "y"]


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "parquet", "xlsx"])
def test_a_crash_leaves_the_old_file(tmp_path: Path, suffix: str) -> None:
    path = written(tmp_path / f"x.{suffix}", {"text": ["old"]})
    before = path.read_bytes()
    chunks = iter([{"text": ["new"]}])
    with pytest.raises(StopIteration), open_writer(path) as writer:
        write_two(writer, chunks)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def write_two(writer: Writer, chunks: Iterator[dict[str, list]]) -> None:
    for _ in range(2):
        writer.write(next(chunks))


def test_nothing_has_the_name_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    with open_writer(path) as writer:
        writer.write({"text": ["a"]})
        assert not path.exists()
    assert path.read_text() == "text\na\n"


def test_an_os_error_of_the_caller_is_its_own(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), open_writer(tmp_path / "x.csv"):
        (tmp_path / "not there").read_text()


@pytest.mark.parametrize(
    ("name", "chunks", "message"),
    [
        ("x.doc", [], "cannot write files ending in '.doc'; allowed are .csv, .tsv, .jsonl "),
        ("none/x.csv", [], "cannot be written: the folder .* does not exist"),
        ("x.csv", [{"a": [1]}, {"b": [1]}], "a later chunk of rows has other columns: 'a', 'b'"),
        ("x.csv", [{"a": [1], "b": [1, 2]}], "columns of different lengths: 'a' 1, 'b' 2"),
        ("x.jsonl", [{"a": ["\ud83d"]}], r"a value holds '\\ud83d', half of a character"),
        ("x.xlsx", [{"a": ["\x01"]}], "row 2 has a control character, which xlsx cannot hold: write .csv"),
        (
            "x.xlsx",
            [{"a": ["a" * 40_000]}],
            "row 2 has a text of 40,000 characters; xlsx holds 32,767: write",
        ),
    ],
)
def test_refusals(tmp_path: Path, name: str, chunks: list[dict], message: str) -> None:
    with pytest.raises(DataError, match=message):
        written(tmp_path / name, *chunks)
    assert list(tmp_path.iterdir()) == []
