"""Files to score: the bytes of `modernbert predict`, nothing of a client's opened, nothing left behind."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_runs import TEXTS, client_of, save_classifier, save_tagger, settings
from starlette.testclient import TestClient

from app import cli
from app.server import uploads
from app.server.context import Context

CSV = {"content-type": "text/csv"}
JSONL = {"content-type": "application/jsonl"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[[str], Path]) -> list[Path]:
    folder = tmp_path_factory.mktemp("runs")
    teams = save_classifier(folder / "teams", tiny_encoder("bert"), ["a", "b", "c"])
    return [teams, save_tagger(folder / "names", tiny_encoder("bert"))]


@pytest.fixture(scope="module")
def client(runs: list[Path]) -> Iterator[TestClient]:
    with client_of(Context(settings(*runs))) as client:
        yield client


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files of this test, which must be empty in the end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert list(folder.iterdir()) == []


def table(rows: int = 600) -> bytes:
    """More than one chunk; long, empty, quoted and foreign texts among them."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["id", "text", "note"])
    for i in range(rows):
        body = {7: "", 8: "where is my order " * 20, 9: 'a "quoted", text\nof two lines', 10: "Füße 👩‍👩‍👧"}.get(i)
        writer.writerow([i, f"{TEXTS[i % 6]} {i}" if body is None else body, f"=cmd|'/C calc'!A{i}"])
    return text.getvalue().encode()


def predicted(run: Path, folder: Path, content: bytes, suffix: str, *words: str) -> bytes:
    """What `modernbert predict` writes."""
    source, target = folder / f"rows{suffix}", folder / f"scored{suffix}"
    source.write_bytes(content)
    assert cli.main(["predict", f"run={run}", f"input={source}", f"output={target}", "device=cpu", *words]) == 0
    return target.read_bytes()


def rounded(content: bytes) -> list[list[str]]:
    """Cells of a CSV, numbers to 5 digits: other batches change the seventh."""
    def cell(text: str) -> str:
        try:
            return f"{float(text):.5f}" if "." in text else text
        except ValueError:
            return text

    return [[cell(each) for each in row] for row in csv.reader(io.StringIO(content.decode()))]


def test_a_csv_comes_back_as_predict_writes_it(client: TestClient, runs: list[Path], tmp_path: Path) -> None:
    content = table()
    reply = client.post("/runs/teams/batch", content=content, headers=CSV)
    assert reply.status_code == 200, reply.text
    assert rounded(reply.content) == rounded(predicted(runs[0], tmp_path, content, ".csv"))
    assert len(rounded(reply.content)) == 601
    assert reply.headers["content-type"].startswith("text/csv")
    assert reply.headers["content-disposition"] == 'attachment; filename="scored.csv"'
    assert (reply.headers["x-rows"], reply.headers["x-truncated"], reply.headers["x-without-text"]) == ("600", "1", "1")


def test_jsonl_with_entities(client: TestClient, runs: list[Path], tmp_path: Path) -> None:
    content = "\n".join(json.dumps({"n": i, "body": text}) for i, text in enumerate(TEXTS)).encode()
    reply = client.post("/runs/names/batch?text=body", content=content, headers=JSONL)
    assert reply.status_code == 200, reply.text
    expected = predicted(runs[1], tmp_path, content, ".jsonl", "data.columns.text=body")
    for ours, theirs in zip(reply.content.splitlines(), expected.splitlines(), strict=True):
        found, wanted = json.loads(ours), json.loads(theirs)
        scores = [[span.pop("score") for span in row["entities"]] for row in (found, wanted)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
        assert found == wanted


def test_a_column_of_another_name(client: TestClient) -> None:
    content = b"body\nwhere is my order\n"
    assert client.post("/runs/teams/batch?text=body", content=content, headers=CSV).status_code == 200
    reply = client.post("/runs/teams/batch", content=content, headers=CSV)
    assert reply.status_code == 422
    assert "the file has no column 'text'; its columns are 'body'" in reply.json()["error"]


BAD: list[tuple[bytes, dict[str, str], str, int, str]] = [
    (b"", CSV, "", 422, "the file is empty"),
    (b"text\n", CSV, "", 422, "no rows"),
    (b"\n\n\n", CSV, "", 422, "blank lines"),
    (b"\x00\x01\x02\xff" * 100, CSV, "", 422, ""),
    (b"PK\x03\x04" + bytes(100), CSV, "", 422, "is not text but an Excel or zip file"),
    (gzip.compress(b"text\na\n"), CSV, "", 422, "gzip"),
    (b'text\n"never closed\n', CSV, "", 422, ""),
    (b"text,more\na,b,c\n", CSV, "", 422, ""),
    (b"{not json}\n", JSONL, "", 422, ""),
    (b"[1, 2]\n", JSONL, "", 422, ""),
    (b"text\na\n", {"content-type": "application/json"}, "", 415, "text/csv"),
    (b"text\na\n", {"content-type": "application/x-www-form-urlencoded"}, "", 415, "text/csv"),
    (b"text\na\n", {"content-type": "../../etc/passwd"}, "", 415, "text/csv"),
    (b"PAR1" + bytes(64), {"content-type": "application/vnd.apache.parquet"}, "", 415, "text/csv"),
    (b"text\na\n", CSV, "?path=/etc/passwd", 422, "this run reads text"),
    (b"text\na\n", CSV, "?text=/etc/passwd", 422, "has no column '/etc/passwd'"),
    (b"text\na\n", CSV, "?text=hf:imdb", 422, "has no column 'hf:imdb'"),
]


@pytest.mark.parametrize(("content", "headers", "query", "status", "said"), BAD)
def test_a_bad_file_is_told_what_is_wrong(
    client: TestClient, content: bytes, headers: dict[str, str], query: str, status: int, said: str
) -> None:
    reply = client.post(f"/runs/teams/batch{query}", content=content, headers=headers)
    assert (reply.status_code, reply.json()["error_type"]) == (status, "validation"), reply.text
    assert said in reply.json()["error"]
    assert tempfile.gettempdir() not in reply.text


def test_a_form_is_told_how_to_send_a_file(client: TestClient) -> None:
    files = {"file": ("../../etc/cron.d/x.csv", b"text\na\n", "text/csv")}
    reply = client.post("/runs/teams/batch", files=files)
    assert (reply.status_code, "with the file as the body" in reply.json()["error"]) == (415, True)


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_file_above_the_limit(client: TestClient, in_pieces: bool) -> None:
    content = b"text\n" + b"where is my order\n" * 4_000
    body: Any = iter([content[i : i + 4096] for i in range(0, len(content), 4096)]) if in_pieces else content
    reply = client.post("/runs/teams/batch", content=body, headers=CSV)
    assert (reply.status_code, "this server takes 50,000" in reply.json()["error"]) == (413, True)


def test_a_name_in_a_cell_is_only_text(client: TestClient) -> None:
    """What a spreadsheet or a shell would take for more comes back as it went."""
    cells = ["/etc/passwd", "hf:imdb", "file:///etc/passwd", "https://example.org/x.csv", "$(touch /tmp/x)"]
    content = "text\n" + "\n".join(cells) + "\n"
    reply = client.post("/runs/teams/batch", content=content.encode(), headers=CSV)
    assert [row["text"] for row in csv.DictReader(io.StringIO(reply.text))] == cells


def test_the_folder_is_private_and_gone_before_the_answer(
    client: TestClient, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: list[int] = []
    score = uploads.score

    def watched(*arguments: Any) -> Any:
        (folder,) = temporary.iterdir()
        modes.extend([folder.stat().st_mode & 0o777, *(len(name) for name in os.listdir(folder))])
        return score(*arguments)

    monkeypatch.setattr(uploads, "score", watched)
    with client.stream("POST", "/runs/teams/batch", content=table(20), headers=CSV) as reply:
        assert reply.status_code == 200
        assert list(temporary.iterdir()) == []
        assert len(reply.read().splitlines()) > 20
    assert modes == [0o700, len("table.csv")]


def test_files_at_once_are_limited(runs: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "AT_ONCE", 0)
    with client_of(Context(settings(*runs))) as client:
        reply = client.post("/runs/teams/batch", content=table(2), headers=CSV)
    assert (reply.status_code, reply.headers["retry-after"]) == (429, "30")
