"""What each format gives: values, line numbers, missing values, and notes of what was detected."""

from __future__ import annotations

import datetime
import gzip
import json
import tracemalloc
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data.readers import Table, count, join, read, stream

# name, content, columns, rows, notes
DELIMITED = [
    ("plain.csv", b"text,label\na,b\nc,d\n", {"text": ["a", "c"], "label": ["b", "d"]}, [2, 3], []),
    ("last_line.csv", b"text,label\na,b", {"text": ["a"], "label": ["b"]}, [2], []),
    (
        "windows.csv",
        b'text,label\r\n"a\r\nb",c\r\nd,e\r\n',
        {"text": ["a\r\nb", "d"], "label": ["c", "e"]},
        [2, 4],
        [],
    ),
    ("mac.csv", b"text,label\ra,b\rc,d\r", {"text": ["a", "c"], "label": ["b", "d"]}, [2, 3], []),
    (
        "blank_lines.csv",
        b"\ntext,label\n\na,b\n  \nc,d\n\n",
        {"text": ["a", "c"], "label": ["b", "d"]},
        [4, 6],
        [],
    ),
    (
        "missing.csv",
        b'text,label\n,b\n"",\nnull,NA\n',
        {"text": [None, None, "null"], "label": ["b", None, "NA"]},
        [2, 3, 4],
        [],
    ),
    ("words.csv", b"text,label\nNone,nan\n", {"text": ["None"], "label": ["nan"]}, [2], []),
    ("mark.csv", "\ufefftext,label\nä,b\n".encode(), {"text": ["ä"], "label": ["b"]}, [2], []),
    ("header_space.csv", b" text ,label\na,b\n", {" text ": ["a"], "label": ["b"]}, [2], []),
    (
        "spaced.csv",
        b'text, label\n"a, b", c\nd, "e"\n',
        {"text": ["a, b", "d"], "label": ["c", "e"]},
        [2, 3],
        [],
    ),
    (
        "semicolon.csv",
        b"text;label\nHello, you, there;a\nso, so;b\n",
        {"text": ["Hello, you, there", "so, so"], "label": ["a", "b"]},
        [2, 3],
        ["separator ';'"],
    ),
    (
        "in_text.csv",
        b"text,label\na; b; c,x\nd; e; f,y\n",
        {"text": ["a; b; c", "d; e; f"], "label": ["x", "y"]},
        [2, 3],
        [],
    ),
    ("pipe.csv", b"text|label\na, b|c\n", {"text": ["a, b"], "label": ["c"]}, [2], ["separator '|'"]),
    ("tab.csv", b"text\tlabel\na, b\tc\n", {"text": ["a, b"], "label": ["c"]}, [2], ["separator tab"]),
    ("comma.tsv", b"text,label\na,b\n", {"text": ["a"], "label": ["b"]}, [2], ["separator ','"]),
    (
        "one.csv",
        b"text\nHello, world\nfine; thanks | yes\n",
        {"text": ["Hello, world", "fine; thanks | yes"]},
        [2, 3],
        [],
    ),
    ("one_quoted.csv", b'text\n"Hello, ""world"""\n', {"text": ['Hello, "world"']}, [2], []),
    (
        "glue.tsv",
        b'sentence\tlabel\n"never closed\t1\nfine\t0\nit "is" fine\t0\n',
        {"sentence": ['"never closed', "fine", 'it "is" fine'], "label": ["1", "0", "0"]},
        [2, 3, 4],
        ["quotes are plain characters"],
    ),
    (
        "quoted.tsv",
        b'text\tlabel\n"a\tb"\t1\n"c\nd"\t0\n',
        {"text": ["a\tb", "c\nd"], "label": ["1", "0"]},
        [2, 3],
        [],
    ),
    (
        "index.csv",
        b",text,label\n0,a,b\n",
        {"column 1": ["0"], "text": ["a"], "label": ["b"]},
        [2],
        ["column 1 has no name in the header: called 'column 1'"],
    ),
    ("empty_cells.csv", b"text,label\na,b,,\nc,d\n", {"text": ["a", "c"], "label": ["b", "d"]}, [2, 3], []),
    (
        "inner_quote.csv",
        b'text,label\n"he said "hi" and left",a\n"x" y,b\n',
        {"text": ['he said hi" and left"', "x y"], "label": ["a", "b"]},
        [2, 3],
        ["line 2: a quote inside quotes is not written twice; read as 'he said hi\" and left\"'"],
    ),
    (
        "western.csv",
        "text,label\nplain,c\nschöne Grüße,a\nnaïve – “so”,b\n".encode("cp1252"),
        {"text": ["plain", "schöne Grüße", "naïve – “so”"], "label": ["c", "a", "b"]},
        [2, 3, 4],
        ["encoding cp1252 (guessed: line 3 is not UTF-8)"],
    ),
    (
        "wide.csv",
        "text;label\nschön;a\n".encode("utf-16"),
        {"text": ["schön"], "label": ["a"]},
        [2],
        ["encoding utf-16", "separator ';'"],
    ),
    (
        "wide_le.csv",
        "text,label\nhello,a\n".encode("utf-16-le"),
        {"text": ["hello"], "label": ["a"]},
        [2],
        ["encoding utf-16-le"],
    ),
    (
        "wider.csv",
        "text,label\nhello,a\n".encode("utf-32"),
        {"text": ["hello"], "label": ["a"]},
        [2],
        ["encoding utf-32"],
    ),
    ("packed.csv.gz", gzip.compress(b"text,label\na,b\n"), {"text": ["a"], "label": ["b"]}, [2], []),
]


@pytest.mark.parametrize(("name", "content", "columns", "rows", "notes"), DELIMITED, ids=[d[0] for d in DELIMITED])
def test_delimited(tmp_path: Path, name: str, content: bytes, columns: dict, rows: list, notes: list) -> None:
    (tmp_path / name).write_bytes(content)
    table = read(str(tmp_path / name))
    assert (table.columns, table.rows, table.notes) == (columns, rows, notes)
    chunks = list(stream(str(tmp_path / name), 1))
    assert [len(chunk) for chunk in chunks] == [1] * len(rows)
    assert join(chunks).columns == columns


def test_long_cell(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f'text,label\n"{"word, " * 100_000}",a\n')
    assert len(read(str(path)).columns["text"][0] or "") == 600_000


def test_encoding_beyond_the_first_block(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"text,label\n" + b"plain text,a\n" * 90_000 + "größer als üblich,b\n".encode("cp1252"))
    table = read(str(path))
    assert table.columns["text"][-1] == "größer als üblich"
    assert table.notes == ["encoding cp1252 (guessed: line 90002 is not UTF-8)"]


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Zboží přišlo rozbité, reklamace byla vyřízena rychle, děkuji za pomoc", "cp1250"),
        ("Товар пришёл сломанным, деньги вернули быстро", "cp1251"),
        ("Το προϊόν έφτασε σπασμένο", "cp1253"),
        ("商品が壊れていました。返金してください。", "cp932"),
        ("商品坏了，请退款。物流很慢", "gb18030"),
        ("상품이 파손되어 도착했습니다", "euc_kr"),
    ],
)
def test_guessed_encodings(tmp_path: Path, text: str, encoding: str) -> None:
    (tmp_path / "x.csv").write_bytes(f'text,label\n"{text}",a\n'.encode(encoding))
    table = read(str(tmp_path / "x.csv"))
    assert table.columns["text"] == [text]
    assert table.notes == [f"encoding {encoding} (guessed: line 2 is not UTF-8)"]


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a", "label": ["x", "y"]}\n\n{"text": null, "n": 2}\n{"text": "NA", "label": NaN}\n')
    columns = {"text": ["a", None, "NA"], "label": [["x", "y"], None, None], "n": [None, 2, None]}
    table = read(str(path))
    assert (table.columns, table.rows) == (columns, [1, 3, 4])
    assert [chunk.columns["n"] for chunk in stream(str(path), 2)] == [[None, 2], [None]]
    assert count(str(path)) == 3


@pytest.mark.parametrize(
    ("content", "rows"), [('[{"a": 1},\n\n {"a": 2}]', [1, 2]), ('{"a": 1}\n\n{"a": 2}\n', [1, 3])]
)
def test_json(tmp_path: Path, content: str, rows: list[int]) -> None:
    (tmp_path / "x.json").write_text(content)
    table = read(str(tmp_path / "x.json"))
    assert (table.columns, table.rows) == ({"a": [1, 2]}, rows)


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    columns = {"text": ["a", None, "null"], "n": [1, 2, 3], "labels": [["x"], [], None]}
    pq.write_table(pa.table({**columns, "score": [0.5, float("nan"), None]}), path)
    table = read(str(path))
    assert (table.columns, table.rows) == ({**columns, "score": [0.5, None, None]}, [1, 2, 3])
    assert [chunk.rows for chunk in stream(str(path), 2)] == [[1, 2], [3]]
    assert count(str(path)) == 3


def test_xlsx(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    for row in (
        [],
        ["text", "n", "when"],
        ["a", 1, datetime.datetime(2026, 1, 2)],
        [],
        [None, 2.5],
        ["null", True, ""],
    ):
        book.active.append(row)
    book.create_sheet("more")
    book.save(tmp_path / "x.xlsx")
    table = read(str(tmp_path / "x.xlsx"))
    assert table.columns == {
        "text": ["a", None, "null"],
        "n": [1, 2.5, True],
        "when": ["2026-01-02T00:00:00", None, None],
    }
    assert table.rows == [3, 5, 6]
    assert table.notes == ["sheet 'Sheet', the first of 2"]
    assert count(str(tmp_path / "x.xlsx")) == 5  # what the sheet states, empty rows included


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"text,label\na,b\n", 1),
        (b"text,label\na,b", 1),
        (b'text,label\r\n"a\r\n\r\nb",c\r\n\r\nd,e\r\n', 2),
        (b'text\n"say ""hi""\n"\n\nx\n', 2),
        (b"text,label\ra,b\r", None),
        ("text,label\na,b\n".encode("utf-16"), None),
    ],
)
def test_count_of_csv(tmp_path: Path, content: bytes, expected: int | None) -> None:
    (tmp_path / "x.csv").write_bytes(content)
    assert count(str(tmp_path / "x.csv")) == expected


def test_stream_takes_constant_memory(tmp_path: Path) -> None:
    peaks = []
    for rows in (15_000, 30_000):
        path = tmp_path / f"{rows}.csv"
        path.write_text("text,label\n" + ("some text of a row that is " + 20 * "very " + "long,label\n") * rows)
        tracemalloc.start()
        assert sum(len(chunk) for chunk in stream(str(path), 500)) == rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_chunk_must_be_positive() -> None:
    with pytest.raises(ValueError, match="chunk is 0"):
        next(stream("x.csv", 0))


def test_select_keeps_rows_with_their_columns() -> None:
    table = Table("x.csv", {"a": ["p", "q", "r"]}, [2, 4, 5], ["note"])
    assert table.select([2, 0]) == Table("x.csv", {"a": ["r", "p"]}, [5, 2], ["note"])


def test_real_files(shared: Path) -> None:
    for name, rows, columns in (
        ("classification/trec6/train.csv", 5452, ["text", "label"]),
        ("classification/germeval2018/test.csv", 3532, ["text", "coarse", "fine"]),
        ("classification/hyperpartisan/articles.csv", 645, ["id", "text", "hyperpartisan"]),
        ("reranking/wikiqa/train.csv", 8672, ["query_id", "query", "document", "label"]),
        ("retrieval/scifact/corpus.jsonl", 5183, ["_id", "title", "text"]),
        ("retrieval/scifact/qrels/train.tsv", 919, ["query-id", "corpus-id", "score"]),
    ):
        source = str(shared / "data" / name)
        table = read(source)
        assert (len(table), list(table.columns), table.notes) == (rows, columns, [])
        assert count(source) == rows
    with (shared / "data/retrieval/scifact/corpus.jsonl").open() as lines:
        third = [json.loads(next(lines)) for _ in range(3)][2]
    corpus = read(str(shared / "data/retrieval/scifact/corpus.jsonl"))
    assert {name: values[2] for name, values in corpus.columns.items()} == third
