"""Files that were damaged or made to do harm: each gives its rows or one DataError, soon and in bounded memory."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modernbert.errors import DataError
from tasks.data.readers import count, read, stream
from tasks.data.readers.header import MOST_COLUMNS

CSV = 'text,label\nhello,a\n"quoted, ""x""",b\nümläut 😀 \u200d שלום e\u0301,c\n'
JSONL = '{"text": "a\\ud83d\\ude00", "n": 1.5}\n{"text": "b", "l": ["x"], "n": null}\n'


def xlsx(sheet: bytes | None = None) -> bytes:
    """A small sheet, or one with this XML in its place."""
    book, packed = openpyxl.Workbook(), io.BytesIO()
    for row in (["text", "label"], ["fine", 1], ["a\nb", True]):
        book.active.append(row)
    book.save(packed)
    if sheet is None:
        return packed.getvalue()
    changed = io.BytesIO()
    with zipfile.ZipFile(packed) as old, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for name in old.namelist():
            new.writestr(name, sheet if name.endswith("sheet1.xml") else old.read(name))
    return changed.getvalue()


def parquet(table: pa.Table, **settings: Any) -> bytes:
    written = io.BytesIO()
    pq.write_table(table, written, **settings)
    return written.getvalue()


GOOD = {
    "x.csv": CSV.encode(),
    "wide.csv": CSV.encode("utf-16"),
    "x.tsv": CSV.replace(",", "\t").encode(),
    "x.jsonl": JSONL.encode(),
    "x.json": b'[{"text": "a"},\n {"text": {"b": [1]}}]',
    "x.csv.gz": gzip.compress(CSV.encode()),
    "x.xlsx": xlsx(),
    "x.parquet": parquet(pa.table({"text": ["a", "b"], "n": [1.5, float("nan")], "l": [["x"], None]})),
}
SPLINTERS = [b'"', b'""', b"\n", b"\r", b",", b"\0", b"\xef\xbb\xbf", b"\xff\xfe", b"\xff", b"\xed\xa0\x80",
             b"\\ud800", b"[", b"{", b"NaN", b"1e999", b"9" * 40, b"PK\x03\x04"]  # fmt: skip
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 30), st.one_of(st.sampled_from(SPLINTERS), st.binary(max_size=6))),
    min_size=1,
    max_size=5,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hostile")


def outcome(path: Path) -> None:
    """Every way to read a file gives its rows or a DataError that fits a screen; the ways agree."""
    readers: list[Callable[[str], int | None]] = [
        lambda source: len(read(source)),
        lambda source: sum(map(len, stream(source, 1))),
        count,
    ]
    found: list[int | str | None] = []
    for reader in readers:
        try:
            found.append(reader(str(path)))
        except DataError as error:
            found.append(str(error))
    assert found[0] == found[1]
    refused = [said for said in found if isinstance(said, str)]
    assert all(0 < len(said) < 5000 for said in refused)
    assert isinstance(found[0], str) or not refused, "counting refuses what reading takes"


@pytest.mark.parametrize("name", GOOD)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS)
def test_a_damaged_file(folder: Path, name: str, edits: list[tuple[float, int, bytes]]) -> None:
    data = bytearray(GOOD[name])
    for place, length, splinter in edits:
        at = int(place * len(data))
        data[at : at + length] = splinter
    path = folder / name
    path.write_bytes(bytes(data))
    outcome(path)


@pytest.mark.parametrize("name", GOOD)
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300))
def test_bytes_of_any_kind(folder: Path, name: str, data: bytes) -> None:
    path = folder / name
    path.write_bytes(data)
    outcome(path)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=EDITS, member=st.integers(0, 20))
def test_a_damaged_part_of_a_sheet(folder: Path, edits: list[tuple[float, int, bytes]], member: int) -> None:
    """The zip around it is whole, so that the damage reaches the parsers of openpyxl."""
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD["x.xlsx"])) as old, zipfile.ZipFile(changed, "w") as new:
        names = old.namelist()
        for name in names:
            data = bytearray(old.read(name))
            if name == names[member % len(names)]:
                for place, length, splinter in edits:
                    at = int(place * len(data))
                    data[at : at + length] = splinter
            new.writestr(name, bytes(data))
    path = folder / "part.xlsx"
    path.write_bytes(changed.getvalue())
    outcome(path)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(st.text(min_size=1), st.text()), min_size=2, max_size=5))
def test_any_text_of_json_comes_back(folder: Path, rows: list[tuple[str, str]]) -> None:
    """Emoji, right-to-left, combining, zero-width, NUL, lone surrogates: what JSON can say is read as it is."""
    path = folder / "any.jsonl"
    path.write_text("".join(json.dumps({"text": a, "label": b}) + "\n" for a, b in rows))
    table = read(str(path))
    assert table.columns == {"text": [a for a, _ in rows], "label": [b for _, b in rows]}


# --- files made to do harm ---------------------------------------------------------------------------------

MILLION = 1_000_000
SHEET = b'<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>'
LAUGHS = b"".join(b'<!ENTITY %c "%s">' % (98 + i, (b"&%c;" % (97 + i)) * 10) for i in range(9))


def one_value(rows: int, value: str = "x") -> pa.Table:
    codes = pa.array([0] * rows, pa.int8())
    return pa.table({"text": pa.DictionaryArray.from_arrays(codes, pa.array([value]))})


# name -> (its bytes, what is said of it, or None where it is read)
HARM: dict[str, tuple[Callable[[], bytes], str | None]] = {
    "cell.csv": (lambda: b'text,label\n"' + b"word \xc3\xbc " * (50 * MILLION // 8) + b'",a\nshort,b\n', None),
    "cell.jsonl": (lambda: b'{"text":"' + b"word " * (10 * MILLION) + b'"}\n', None),
    "columns.csv": (lambda: b",".join(b"c%d" % i for i in range(MILLION)) + b"\n1\n", "has 1,000,000 columns"),
    "columns.jsonl": (lambda: json.dumps({f"c{i}": 1 for i in range(MILLION)}).encode(), "has 1,000,000 columns"),
    "keys.jsonl": (
        lambda: b"".join(b'{"c%d":1}\n' % i for i in range(2 * MOST_COLUMNS)),
        f"has {MOST_COLUMNS + 1:,} columns",
    ),
    "columns.parquet": (
        lambda: parquet(pa.table({f"c{i}": [1] for i in range(MOST_COLUMNS + 1)})),
        f"has {MOST_COLUMNS + 1:,} columns",
    ),
    "same.csv": (lambda: b",".join([b"c"] * 9000) + b"\n1\n", "columns 1, 2, 3, 4, 5, 6, 7, 8, 9, 10 … are all called"),
    "quote.csv": (lambda: b'text,label\n"never closed\n' + b"words\n" * (2 * MILLION), "line 2: the quote opened here"),
    "line.csv.gz": (lambda: gzip.compress(b"x" * (280 * MILLION), 9), "unpacks to"),
    "zeros.csv.gz": (lambda: gzip.compress(b"\0" * (280 * MILLION), 9), "line 1 has a NUL byte"),
    "rows.jsonl.gz": (lambda: gzip.compress(b'{"a":1}\n' * (36 * MILLION), 9), "unpacks to"),
    "rows.parquet": (lambda: parquet(one_value(60 * MILLION)), "unpacks to"),
    "words.parquet": (lambda: parquet(one_value(MILLION // 10, "x" * MILLION)), None),
    "coded.parquet": (lambda: parquet(one_value(MILLION // 10, "x" * MILLION), store_schema=False), None),
    "deep.json": (lambda: b"[" * MILLION + b"]" * MILLION, "nested too deep"),
    "deep.jsonl": (lambda: b'{"a":' * MILLION + b"1" + b"}" * MILLION, "nested too deep"),
    "digits.jsonl": (lambda: b'{"a": ' + b"9" * MILLION + b"}", "a number too long"),
    "bomb.xlsx": (
        lambda: xlsx(SHEET + b'<row><c t="inlineStr"><is><t>' + b"A" * (280 * MILLION) + b"</t></is></c></row>"),
        "unpacks to",
    ),
    "entities.xlsx": (
        lambda: xlsx(
            b'<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa">' + LAUGHS + b"]>" + SHEET
            + b'<row><c t="inlineStr"><is><t>&j;</t></is></c></row></sheetData></worksheet>'
        ),
        "is not an xlsx file, is damaged",
    ),
    "far.xlsx": (
        lambda: xlsx(SHEET + b'<row r="999999999999"><c><v>1</v></c></row></sheetData></worksheet>'),
        "states more than 1,048,576 rows",
    ),
    "wide.xlsx": (
        lambda: xlsx(SHEET + b'<row r="1"><c r="XFD1"><v>1</v></c></row></sheetData></worksheet>'),
        "has 16,384 columns",
    ),
}  # fmt: skip
READ = """
import json, sys, time
from pathlib import Path
from modernbert.errors import DataError
from tasks.data.readers import read
peak = lambda: int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
for path in sys.argv[1:]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    before, began = peak(), time.process_time()
    try:
        said = str(len(read(path)))
    except DataError as error:
        said = str(error)
    print(json.dumps([Path(path).name, time.process_time() - began, (peak() - before) // 1024, said]), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_harm_is_refused_in_bounded_memory(tmp_path: Path, root: Path) -> None:
    """The most is for a cell of 50 MB, read in seven times that."""
    for name, (make, _) in HARM.items():
        (tmp_path / name).write_bytes(make())
    paths = [str(tmp_path / name) for name in HARM]
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], cwd=root, capture_output=True, text=True, check=True, timeout=300
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [name for name, *_ in answers] == list(HARM)
    for name, seconds, megabytes, answer in answers:
        said = HARM[name][1]
        assert (said in answer) if said else answer.isdigit(), (name, answer[:300])
        assert len(answer) < 2000, name
        assert megabytes < 500, (name, megabytes)
        assert seconds < 20, (name, seconds)
