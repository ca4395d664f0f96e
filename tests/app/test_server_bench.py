"""`modernbert bench serve` from its command line to its JSON, and the clients that it is measured with."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from server_runs import save_classifier

from app import cli
from app.bench import serve_suite
from app.bench.http_load import Outcome, answer, load, request_bytes
from ui.ports import free_port


def test_bench_serve(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tiny_encoder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = save_classifier(tmp_path / "teams", tiny_encoder("bert"), ["a", "b", "c"])
    # One server for both sides: it is the suite that is under test, and a start takes seconds.
    servers: dict[str, Any] = {}

    def start(stack: Any, run: Path, settings: Any) -> tuple[dict[str, Any], dict[str, float]]:
        words = [f"run={run}", "device=cpu", "threads=1", "page=false"]
        server = stack.enter_context(serve_suite.serving(words, free_port("127.0.0.1", 27_000)))
        times = {path: server.wait(path) for path in ("/health", "/ready")}
        servers.update(dict.fromkeys(serve_suite.SIDES, server))
        return servers, times

    monkeypatch.setattr(serve_suite, "start", start)
    words = [f"run={run}", "clients=[1,4]", "seconds=0.3", "rounds=1", "texts=20", "load_clients=10"]
    words += ["load_seconds=0.5"]
    assert cli.main(["bench", "serve", *words, "device=cpu", "threads=1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["suite"] == "serve"
    assert found["max_difference"] < 1e-5
    assert 0 < found["startup"]["/health"] <= found["startup"]["/ready"]
    assert [row["clients"] for row in found["rows"]] == [1, 4]
    for row in found["rows"]:
        assert set(row["sides"]) == {"batched", "one at a time"}
        assert row["ratio"]["median"] > 0
        for side in row["sides"].values():
            assert 0 < side["p50_ms"] <= side["p95_ms"]
            assert side["answers_per_s"] > 0
            assert side["cpu_ms"] > 0
    assert found["rows"][0]["sides"]["batched"]["texts_per_batch"] == pytest.approx(1, abs=0.2)
    assert (found["load"]["lost"], found["load"]["statuses"]) == (0, {"200": found["load"]["sent"]})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clients=[0]"], "clients=[0]: allowed are numbers of at least 1"),
        (["seconds=0"], "seconds=0"),
        (["load_seconds=-1"], "load_seconds=-1"),
        (["json=no/where.json"], "json=no/where.json"),
    ],
)
def test_wrong_values(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "serve", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_clients_count_what_is_lost_refused_and_wrong() -> None:
    replies = [
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nright",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong",
        b"HTTP/1.1 429 Too Many\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhalf",  # then it closes
    ]

    async def scene() -> Outcome:
        asked = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            while asked < len(replies):
                await reader.readuntil(b"}")
                writer.write(replies[asked])
                asked += 1
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        outcome = await load(port, [request_bytes("/x", {})], 1, 60.0, lambda number, body: body == b"right")
        server.close()
        return outcome

    outcome = asyncio.run(scene())
    assert outcome.statuses == Counter({200: 2, 429: 1, 0: 1})
    assert (outcome.sent, outcome.wrong, outcome.lost) == (4, 1, 3)
    assert len(outcome.seconds) == 2


def test_percentiles_and_rate() -> None:
    outcome = Outcome(sent=4, seconds=[0.4, 0.1, 0.2, 0.3], wall=2.0)
    assert (outcome.percentile(0.5), outcome.percentile(0.95), outcome.rate) == (0.3, 0.4, 2.0)
    assert Outcome().percentile(0.5) == 0.0


def test_an_answer_without_a_body() -> None:
    async def read() -> tuple[int, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(b"HTTP/1.1 503 No\r\nX: y\r\n\r\n")
        return await answer(reader)

    assert asyncio.run(read()) == (503, b"")
