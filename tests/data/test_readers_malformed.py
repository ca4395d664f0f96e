"""Every malformed file gives one DataError that says what, where and how to mend it, in these exact words."""

from __future__ import annotations

import gzip
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modernbert.errors import DataError
from tasks.data.readers import count, read, stream

QUOTE = (
    "Put a text that holds the separator or a line break in double quotes, and write a double quote inside it twice."
)
OBJECT = 'Each line must be one JSON object of column names and values, such as {"text": "…", "label": "…"}.'
ALLOWED = ".csv, .tsv, .jsonl, .json (each also with .gz), .parquet, .xlsx"

# name, content, message
MALFORMED = [
    ("empty.csv", b"", "empty.csv is empty"),
    ("mark.csv", b"\xef\xbb\xbf", "mark.csv has only blank lines"),
    ("blank.csv", b"\n \n\n", "blank.csv has only blank lines"),
    ("header.csv", b"text,label\n", "header.csv has a header (text, label) but no rows"),
    (
        "many.csv",
        b"text,label\nhello, you,a\nfine,b\nx,y,z,w\n",
        "many.csv: 2 rows cannot be read\n"
        "  line 2: 3 cells, expected 2 (separator ','; a text that holds it is not quoted: 'hello, you,a')\n"
        "  line 4: 4 cells, expected 2 (separator ','; a text that holds it is not quoted: 'x,y,z,w')\n" + QUOTE,
    ),
    (
        "few.csv",
        b"text;label\nhello\n\nfine;b\n",
        "few.csv: 1 row cannot be read\n"
        "  line 2: 1 cell, expected 2 (separator ';'; a cell or a separator is missing: 'hello')\n" + QUOTE,
    ),
    (
        "after_newlines.csv",
        b'text,label\n"two\nlines",a\nb,c,d\ne,f\n',
        "after_newlines.csv: 1 row cannot be read\n"
        "  line 4: 3 cells, expected 2 (separator ','; a text that holds it is not quoted: 'b,c,d')\n" + QUOTE,
    ),
    (
        "lacks_a_name.csv",
        b"text,label\n1,a,b\n2,c,d\n",
        "lacks_a_name.csv: 2 rows cannot be read\n"
        "  line 2: 3 cells, expected 2 (separator ','; a text that holds it is not quoted: '1,a,b')\n"
        "  line 3: 3 cells, expected 2 (separator ','; a text that holds it is not quoted: '2,c,d')\n"
        "No row fits the header (text, label): does it lack a name? Else: " + QUOTE,
    ),
    (
        "inner_quote.csv",
        b'text,label\n"he said "hi", then left",a\nfine,b\n',
        "inner_quote.csv: 1 row cannot be read\n"
        "  line 2: 3 cells, expected 2 "
        "(separator ','; a quote inside a text ended its cell: 'he said hi\", then left\",a')\n" + QUOTE,
    ),
    (
        "unclosed.csv",
        b'id,text,label\n1,fine,a\n2,"two\nlines",b\n3,"never,b\nthird,c\n',
        "unclosed.csv: 1 row cannot be read\n"
        "  line 5: the quote opened here is not closed where the text ends: 'never,b\\nthird,c\\n'\n" + QUOTE,
    ),
    (
        "unclosed_header.csv",
        b'text,"label\nfine,a\n',
        "unclosed_header.csv: 1 row cannot be read\n"
        "  line 1: the quote opened here is not closed where the text ends: 'label\\nfine,a\\n'\n" + QUOTE,
    ),
    (
        "swallowed.csv",
        b'text,label\nfirst,x\n"one,a\ntwo,b\n"three",c\nfour,d\n',
        "swallowed.csv: 1 row cannot be read\n"
        "  line 3: the quote opened here is not closed where the text ends: "
        "'one,a\\ntwo,b\\nthree\"', up to line 5\n" + QUOTE,
    ),
    (
        "swallowed_whole.csv",
        b'text,label\nfirst,x\n"one,a\ntwo,b"\nfour,d\n',
        "swallowed_whole.csv: 1 row cannot be read\n"
        "  line 3: 1 cell, expected 2 (a quote was opened at 'one,a\\ntwo,b' and closed lines later)\n" + QUOTE,
    ),
    (
        "twice.csv",
        b"text,label,text\na,b,c\n",
        "twice.csv: columns 1, 3 are all called 'text': rename all but one",
    ),
    (
        "nul.csv",
        b"text,label\na,b\nc\0d,e\n",
        "nul.csv: line 3 has a NUL byte: the file is damaged or not text",
    ),
    (
        "mixed.csv",
        "text,label\nschön,a\ngrün,b\n".encode() + b"gr\xfcn,c\n",
        "mixed.csv: line 4 is not valid UTF-8, though 2 other lines with non-ASCII characters are: "
        "two encodings are mixed, or the file is damaged. Mend it, or save all as UTF-8",
    ),
    (
        "cut16.csv",
        "text,label\na,b\n".encode("utf-16")[:-1],
        "cut16.csv: not valid utf-16-le (truncated data): save the file as UTF-8",
    ),
    (
        "excel.csv",
        b"PK\x03\x04 and so on",
        "excel.csv is not text but an Excel or zip file: name it .xlsx, or save it as CSV",
    ),
    (
        "old.csv",
        b"\xd0\xcf\x11\xe0 and so on",
        "old.csv is not text but an old or protected Excel file: save it as .xlsx or CSV, without a password",
    ),
    ("arrow.jsonl", b"PAR1 and so on", "arrow.jsonl is not text but a Parquet file: name it .parquet"),
    ("packed.csv", gzip.compress(b"a,b\n1,2\n"), "packed.csv is gzip-compressed: add .gz to its name"),
    ("plain.csv.gz", b"a,b\n1,2\n", "plain.csv.gz is not gzip-compressed: take .gz off its name"),
    (
        "cut.csv.gz",
        gzip.compress(bytes(range(48, 123)) * 100)[:-20],
        "cut.csv.gz: the compressed file is damaged or incomplete "
        "(Compressed file ended before the end-of-stream marker was reached)",
    ),
    ("notes.txt", b"a", f"notes.txt: cannot read files ending in '.txt'; allowed are {ALLOWED}"),
    ("notes.parquet.gz", b"a", f"notes.parquet.gz: cannot read files ending in '.gz'; allowed are {ALLOWED}"),
    ("notes", b"a", f"notes: cannot read files without a suffix; allowed are {ALLOWED}"),
    (
        "bad.jsonl",
        b'{"text": "a"}\n{"text": a}\n[1]\n\n"x"\nnull\n{"text": "b"}',
        "bad.jsonl: 4 rows cannot be read\n"
        "  line 2: not valid JSON: Expecting value at character 10\n"
        "  line 3: a list, not an object\n"
        "  line 5: a string, not an object\n"
        "  line 6: null, not an object\n" + OBJECT,
    ),
    ("blank.jsonl", b"\n\n", "blank.jsonl has no rows"),
    ("five.json", b'[{"text": "a"},\n 5]', "five.json: item 2 of the array is a number, not an object"),
    (
        "open.json",
        b'[{"text": "a"},\n {]',
        "open.json: line 2: not valid JSON: Expecting property name enclosed in double quotes",
    ),
    (
        "nested.json",
        b'{"data": [{"text": "a"}]}',
        "nested.json is one JSON object with 'data': it must be an array of objects, one a row, or one object a line",
    ),
    ("none.json", b"[]", "none.json has no rows"),
    (
        "fake.xlsx",
        b"hello",
        "fake.xlsx is not an xlsx file, is damaged or has a password: save it as .xlsx or CSV",
    ),
]


@pytest.fixture(autouse=True)
def _in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED, ids=[case[0] for case in MALFORMED])
def test_message(name: str, content: bytes, message: str) -> None:
    Path(name).write_bytes(content)
    with pytest.raises(DataError) as raised:
        read(name)
    assert str(raised.value) == message
    with pytest.raises(DataError) as raised:
        next(stream(name, 1))  # not one row is handed out of a file that holds a bad one
    assert str(raised.value) == message


def test_lists_ten_bad_rows_and_counts_the_rest() -> None:
    Path("x.csv").write_text("text,label\ngood,a\n" + "a,b,c\n" * 30)
    with pytest.raises(DataError) as raised:
        read("x.csv")
    lines = str(raised.value).split("\n")
    assert lines[0] == "x.csv: 30 rows cannot be read"
    assert [line.split(":")[0] for line in lines[1:11]] == [f"  line {n}" for n in range(3, 13)]
    assert lines[11:] == ["  and 20 more", QUOTE]


def test_missing_file_names_the_closest() -> None:
    Path("reviews.csv").write_text("a,b\n1,2\n")
    Path("other.tsv").write_text("a\tb\n1\t2\n")
    for source, message in {
        "reviews.cvs": "there is no file reviews.cvs. Did you mean reviews.csv?",
        "data.csv": f"there is no file data.csv. {Path.cwd()} has other.tsv, reviews.csv",
        "nowhere/x.csv": "there is no file nowhere/x.csv: the folder nowhere does not exist",
        ".": ". is a folder: name one file in it, for example other.tsv, reviews.csv",
        " ": "the name of the data file is empty",
        "hf:": "'hf:' is not hf:name, hf:name:split or hf:name:config:split",
        "hf:a:b:c:d": "'hf:a:b:c:d' is not hf:name, hf:name:split or hf:name:config:split",
    }.items():
        for reader in (read, count):
            with pytest.raises(DataError) as raised:
                reader(source)
            assert str(raised.value) == message


def test_damaged_parquet() -> None:
    Path("x.parquet").write_bytes(b"PAR1 this is not one PAR1")
    with pytest.raises(DataError, match=r"^x\.parquet is not a Parquet file, or is damaged: "):
        read("x.parquet")
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), "none.parquet")
    with pytest.raises(DataError, match=r"^none\.parquet has no rows$"):
        read("none.parquet")


def test_xlsx_cells_beyond_the_header() -> None:
    book = openpyxl.Workbook()
    for row in (["text", "label"], ["fine", 1], [None, None], ["a", 1, None, "extra"]):
        book.active.append(row)
    book.save("x.xlsx")
    with pytest.raises(DataError) as raised:
        read("x.xlsx")
    assert str(raised.value) == (
        "x.xlsx: 1 row cannot be read\n  row 4: 4 cells, expected 2\n"
        "Give the column a name in the header row, or clear the cells."
    )
    openpyxl.Workbook().save("none.xlsx")
    with pytest.raises(DataError, match=r"^none\.xlsx: its first sheet, 'Sheet', is empty$"):
        read("none.xlsx")
