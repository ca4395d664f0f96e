"""A server as a person starts it: a process on a port, its page, its load, its end."""

from __future__ import annotations

import asyncio
import csv
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from server_runs import TEXTS, save_classifier, save_tagger, settings

from app import cli
from app.bench.http_load import answer, load, request_bytes
from app.server.batcher import StoppedError
from app.server.context import Context
from app.server.engines import Rows
from app.server.lifecycle import Service
from tasks.run import Run
from ui.ports import bound, free_port

SECONDS = 60
LABELS = ["delivery", "billing", "account"]


@contextmanager
def started(root: Path, *words: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`modernbert serve` and its address; it has ended when the context has."""
    port = free_port("127.0.0.1", 23_000)
    command = [sys.executable, "-m", "app.cli", "serve", f"port={port}", "device=cpu", "threads=1", *words]
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(SECONDS)


def wait_for(address: str, path: str, process: subprocess.Popen[str]) -> httpx.Response:
    """The first answer with status 200."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            reply = httpx.get(address + path, timeout=SECONDS)
            if reply.status_code == 200:
                return reply
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    process.kill()
    raise AssertionError(f"{path} did not come: {process.communicate()}")


@pytest.fixture(scope="module")
def teams(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[[str], Path]) -> Path:
    return save_classifier(tmp_path_factory.mktemp("runs") / "teams", tiny_encoder("bert"), LABELS)


@pytest.fixture(scope="module")
def server(root: Path, teams: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with started(root, f"run={teams}") as (process, address):
        assert wait_for(address, "/health", process).json()["status"] in ("loading", "ready")
        wait_for(address, "/ready", process)
        yield process, address


def test_page_server_run_and_predict_give_the_same_numbers(
    server: tuple[subprocess.Popen[str], str], teams: Path, tmp_path: Path
) -> None:
    process, address = server
    wait_for(address, "/", process)
    client = Client(address, verbose=False, analytics_enabled=False)
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    source.write_text("text\n" + "\n".join(TEXTS) + "\n", encoding="utf-8")
    assert cli.main(["predict", f"run={teams}", f"input={source}", f"output={target}", "device=cpu"]) == 0
    rows = list(csv.DictReader(target.open(encoding="utf-8")))
    served = httpx.post(f"{address}/predict", json={"inputs": TEXTS}).json()
    for text, label, row, found in zip(TEXTS, Run.load(teams, "cpu").answer(TEXTS), rows, served, strict=True):
        expected = pytest.approx(dict(label.scores), abs=2e-6)
        assert {each["label"]: each["score"] for each in found} == expected
        assert {name: float(row[f"p_{name}"]) for name in LABELS} == expected
        assert client.predict(text, api_name="/answer")[1]["scores"] == expected


def test_fifty_clients_lose_nothing(server: tuple[subprocess.Popen[str], str], teams: Path) -> None:
    address = server[1]
    texts = [f"{text} {other}" for text in TEXTS for other in TEXTS]
    expected = [dict(label.scores) for label in Run.load(teams, "cpu").answer(texts)]

    def right(number: int, body: bytes) -> bool:
        found = {each["label"]: each["score"] for each in json.loads(body)}
        return found == pytest.approx(expected[number], abs=1e-5)

    requests = [request_bytes("/predict", {"inputs": text}) for text in texts]
    port = int(address.rpartition(":")[2])
    outcome = asyncio.run(load(port, requests, clients=50, seconds=4.0, right=right))
    assert outcome.sent > 50
    assert (outcome.lost, outcome.wrong, dict(outcome.statuses)) == (0, 0, {200: outcome.sent})
    numbers = httpx.get(f"{address}/metrics", timeout=SECONDS).text.splitlines()
    found = {name: float(value) for name, value in (line.rsplit(" ", 1) for line in numbers if line[0] != "#")}
    batches = found['modernbert_batch_texts_count{run="teams"}']
    assert found['modernbert_texts_total{run="teams"}'] / batches > 2  # requests did share batches
    assert found["modernbert_waiting_requests"] == 0


GARBAGE = {
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    "version": b"GET / HTTP/9.9\r\n\r\n",
    "length": b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: many\r\n\r\n",
    "address": b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    "headers": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X-A: b\r\n" * 20_000 + b"\r\n",
    "chunks": b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_what_is_no_http_is_refused_and_harms_nobody(server: tuple[Any, str], garbage: bytes) -> None:
    address = server[1]
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])), SECONDS) as line:
        line.sendall(garbage)
        try:
            reply = line.recv(1 << 16)
        except ConnectionResetError:  # it closed before it had read everything
            reply = b""
    assert reply == b"" or reply.split(b" ")[1].startswith(b"4"), reply[:200]
    assert httpx.post(f"{address}/predict", json={"inputs": "a"}).status_code == 200


def test_a_signal_finishes_what_was_accepted_and_takes_no_more(server: tuple[subprocess.Popen[str], str]) -> None:
    """The last test of this server: it ends."""
    process, address = server
    port = int(address.rpartition(":")[2])
    # Some 20 batches each: seconds of work that the signal falls into.
    body = {"inputs": [f"{text} " * 12 for text in TEXTS for _ in range(100)]}

    async def scene() -> tuple[list[int], int, list[int]]:
        lines = [await asyncio.open_connection("127.0.0.1", port, limit=1 << 24) for _ in range(8)]
        for _, writer in lines:
            writer.write(request_bytes("/predict", body))
        while True:  # until all of them are in
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            found = (await reader.read()).decode()
            if "modernbert_waiting_requests 8" in found:
                break
        late = await asyncio.open_connection("127.0.0.1", port)
        process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.2)
        late[1].write(request_bytes("/predict", {"inputs": "too late"}))
        refused = (await answer(late[0]))[0]
        answers = [await answer(reader) for reader, _ in lines]
        return [status for status, _ in answers], refused, [len(json.loads(found)) for _, found in answers]

    statuses, refused, counts = asyncio.run(scene())
    assert (statuses, counts, refused) == ([200] * 8, [len(TEXTS) * 100] * 8, 503)
    out, err = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert err == "stopped\n"
    assert out.endswith(f"teams is at {address}  (Ctrl-C stops)\n")


def test_several_runs_have_one_page_behind_a_token(
    teams: Path, tmp_path: Path, tiny_encoder: Callable[[str], Path]
) -> None:
    names = save_tagger(tmp_path / "names", tiny_encoder("bert"))
    token, listener = "a-token-of-a-test", bound("127.0.0.1", free_port("127.0.0.1", 24_000))
    listener.listen()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}"
    service = Service(Context(settings(teams, names, token=token, page=True)), listener)
    thread = threading.Thread(target=asyncio.run, args=(service.run(),))
    thread.start()
    try:
        with httpx.Client(base_url=address, headers={"Authorization": f"Bearer {token}"}, timeout=SECONDS) as client:
            while (contents := client.get("/")).status_code != 200:
                assert (contents.status_code, "being loaded" in contents.text) == (503, True)
                time.sleep(0.05)
            assert "gradio" in contents.text
            assert client.post("/entities", json={"inputs": TEXTS[0]}).status_code == 200
            page = Client(address, headers=dict(client.headers), verbose=False, analytics_enabled=False)
            chosen = next(c["props"] for c in page.config["components"] if c["props"].get("label") == "Run")
            assert [name for _, name in chosen["choices"]] == ["teams", "names"]
        assert httpx.get(f"{address}/gradio_api/info").status_code == 401
    finally:
        service.server.stop()
        thread.join(SECONDS)
    assert not thread.is_alive()


def test_a_folder_that_is_no_run_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port("127.0.0.1", 25_000)
    assert cli.main(["serve", f"run={tmp_path}", f"port={port}"]) == 2
    out, err = capsys.readouterr()
    assert (out, len(err.splitlines())) == ("", 1)
    assert "is not a saved run" in err


def test_a_second_signal_ends_it_at_once(teams: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = bound("127.0.0.1", free_port("127.0.0.1", 26_000))
    listener.listen()
    context = Context(settings(teams))
    service = Service(context, listener)
    thread = threading.Thread(target=asyncio.run, args=(service.run(),))
    thread.start()
    while context.phase != "ready":
        time.sleep(0.02)
    go = threading.Event()
    monkeypatch.setattr(Rows, "compute", lambda engine, items: [None] * len(items) if go.wait(SECONDS) else [])
    waiting = context.batcher.submit(context.runs["teams"].run.engine(["text"]), [("a",)], [3])
    queued = context.batcher.submit(context.runs["teams"].run.engine(["topic"]), [("a",)], [3])
    context.in_flight += 1  # a request that is not answered: the first signal waits for it
    service.server.handle_exit(signal.SIGTERM, None)
    thread.join(0.5)
    assert thread.is_alive()
    service.server.handle_exit(signal.SIGTERM, None)
    for future in (waiting, queued):
        with pytest.raises(StoppedError):
            future.result(SECONDS)
    go.set()
    thread.join(SECONDS)
    assert not thread.is_alive()


def test_nothing_heavy_is_imported_before_the_server_listens() -> None:
    heavy = "{'torch', 'lightning', 'transformers', 'gradio', 'numpy'}"
    code = f"import sys, app.server.main; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_busy_port_and_an_open_host_are_told_before_anything_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", "run=nowhere", f"port={port}"]) == 2
        assert f"port={port} on 127.0.0.1 is in use" in capsys.readouterr().err
        assert cli.main(["serve", "run=nowhere", f"port={port}", "host=0.0.0.0"]) == 2
        assert "whoever reaches this machine can use the server" in capsys.readouterr().err
