"""Who is let in, how much they may send, and when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_runs import client_of, save_classifier, settings
from starlette.testclient import TestClient

from app.server.context import Context
from app.server.guard import Guard, host_name
from app.server.settings import Limits, Settings, named
from modernbert.errors import ConfigError

TOKEN = "correct-horse-battery"
ASK = {"inputs": "where is my order"}
PAGE = {"accept": "text/html,*/*"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[[str], Path]) -> Path:
    return save_classifier(tmp_path_factory.mktemp("runs") / "teams", tiny_encoder("bert"), ["a", "b", "c"])


@pytest.fixture(scope="module")
def client(run: Path) -> Iterator[TestClient]:
    with client_of(Context(settings(run))) as client:
        yield client


@pytest.fixture(scope="module")
def locked(run: Path) -> Iterator[TestClient]:
    with client_of(Context(settings(run, token=TOKEN, host="0.0.0.0"))) as client:
        yield client


# -- who -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN} ", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer ", 401),
        ("Bearer \xe9\xff", 401),
        (None, 401),
    ],
)
def test_a_token_opens(locked: TestClient, header: str | None, status: int) -> None:
    headers = {} if header is None else {"authorization": header.encode("latin-1")}
    reply = locked.post("/predict", json=ASK, headers=headers)
    assert reply.status_code == status
    if status == 401:
        assert reply.headers["www-authenticate"] == "Bearer"
        assert reply.json()["error_type"] == "unauthorized"
        assert TOKEN not in reply.text


@pytest.mark.parametrize("path", ["/info", "/metrics", "/openapi.json", "/nothing", "/", "/runs/teams/predict"])
def test_only_health_and_readiness_need_no_token(locked: TestClient, path: str) -> None:
    assert locked.get(path).status_code == 401
    assert locked.get("/health").json() == {"status": "ready"}
    assert locked.get("/ready").status_code == 200
    assert locked.get("/health/../info").status_code == 401


def test_a_browser_gets_a_form_and_then_a_cookie(run: Path) -> None:
    with client_of(Context(settings(run, token=TOKEN))) as client:
        form = client.get("/info", headers=PAGE)
        assert (form.status_code, "This page needs a token" in form.text) == (401, True)
        assert client.get("/info?token=wrong", headers=PAGE).status_code == 401
        assert client.get(f"/info?token={TOKEN}").status_code == 401  # for pages alone: addresses are logged
        opened = client.get(f"/info?token={TOKEN}&a=b", headers=PAGE, follow_redirects=False)
        assert (opened.status_code, opened.headers["location"]) == (303, "/info?a=b")
        kept = opened.headers["set-cookie"]
        assert "HttpOnly" in kept
        assert "samesite=strict" in kept.lower()
        assert TOKEN not in kept
        assert client.get("/info").status_code == 200
        client.cookies.set("modernbert", "0" * 64)
        assert client.get("/info", headers={"cookie": "modernbert=" + "0" * 64}).status_code == 401


def test_the_redirect_stays_on_this_server(locked: TestClient) -> None:
    scope = scope_of("GET", "//example.org/x", [(b"accept", b"text/html")], f"token={TOKEN}")
    status, headers = run_app(locked, scope, [b""])[:2]
    assert (status, headers[b"location"]) == (303, b"/example.org/x")


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost:1", "LOCALHOST", "[::1]:80", "[::1]"])
def test_a_local_server_answers_to_local_names(client: TestClient, host: str) -> None:
    assert client.post("/predict", json=ASK, headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["example.org", "example.org:8080", "127.0.0.1.example.org", "localhost.org", ""])
def test_a_local_server_without_token_answers_to_no_other_name(client: TestClient, host: str) -> None:
    reply = client.post("/predict", json=ASK, headers={"host": host})
    assert (reply.status_code, "without token=" in reply.json()["error"]) == (403, True)


@pytest.mark.parametrize(
    ("origin", "status"),
    [("http://127.0.0.1", 200), ("https://example.org", 403), ("null", 403), ("http://127.0.0.1:9", 403)],
)
def test_pages_of_other_sites_may_not_ask(client: TestClient, origin: str, status: int) -> None:
    assert client.post("/predict", json=ASK, headers={"origin": origin}).status_code == status


def test_with_a_token_names_and_origins_do_not_matter(locked: TestClient) -> None:
    headers = {"authorization": f"Bearer {TOKEN}", "host": "models.example.org", "origin": "https://example.org"}
    assert locked.post("/predict", json=ASK, headers=headers).status_code == 200


def test_host_names() -> None:
    assert [host_name(h) for h in ("a:1", "a", "[::1]:1", "[::1]", "A")] == ["a", "a", "[::1]", "[::1]", "a"]


# -- how large -----------------------------------------------------------------------------------------------


def test_a_body_that_says_it_is_too_large_is_not_read(client: TestClient) -> None:
    reply = client.post("/predict", json={"inputs": "a " * 15_000})
    assert (reply.status_code, reply.headers["connection"]) == (413, "close")
    assert "this server takes 20,000" in reply.json()["error"]


@pytest.mark.parametrize("length", ["-1", "1e3", "many", "0"])
def test_a_body_that_lies_about_its_size_is_cut_off(client: TestClient, length: str) -> None:
    reply = client.post(
        "/predict", content=b'{"inputs": "' + b"a " * 15_000 + b'"}',
        headers={"content-type": "application/json", "content-length": length},
    )  # fmt: skip
    assert reply.status_code == 413


def test_a_body_in_pieces_is_counted(run: Path) -> None:
    pieces = [b'{"inputs": "', *[b"a " * 500] * 21, b'"}']
    context = Context(settings(run))
    with client_of(context) as client:
        status, taken = post(client, pieces, 0.0)
        assert (status, taken) == (413, 21)  # 20,000 bytes are in the first 21 pieces: no more is taken
        assert post(client, [b'{"inputs"', b': "a"}'], 0.0)[0] == 200


def test_a_body_that_does_not_come_is_given_up(run: Path) -> None:
    with client_of(Context(settings(run, seconds=0.1))) as client:
        started = time.perf_counter()
        assert post(client, [b'{"inputs": "', b'a"}'], 5.0)[0] == 408
        assert time.perf_counter() - started < 3


def post(client: TestClient, pieces: list[bytes], pause: float) -> tuple[int, int]:
    """Send a body piece by piece with pauses between; the status, and how many pieces were taken."""
    scope = scope_of("POST", "/predict", [(b"content-type", b"application/json")])
    status, _, taken = run_app(client, scope, pieces, pause)
    return status, taken


def scope_of(method: str, path: str, headers: list[tuple[bytes, bytes]], query: str = "") -> dict[str, Any]:
    return {
        "type": "http", "method": method, "path": path, "raw_path": path.encode(), "query_string": query.encode(),
        "headers": [(b"host", b"127.0.0.1"), *headers], "http_version": "1.1", "scheme": "http", "root_path": "",
        "asgi": {"version": "3.0"},
    }  # fmt: skip


def run_app(
    client: TestClient, scope: dict[str, Any], pieces: list[bytes], pause: float = 0.0
) -> tuple[int, dict[bytes, bytes], int]:
    """Status and headers of the answer to a request that no client library would send, and the pieces taken."""
    sent, started = 0, {}

    async def receive() -> dict[str, Any]:
        nonlocal sent
        if sent:
            await asyncio.sleep(pause)
        sent += 1
        return {"type": "http.request", "body": pieces[sent - 1], "more_body": sent < len(pieces)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            started.update(message)

    assert isinstance(client.app, Guard)
    asyncio.run(client.app(scope, receive, send))  # type: ignore[arg-type]
    return started["status"], dict(started["headers"]), sent


# -- now or later --------------------------------------------------------------------------------------------


def test_phases(run: Path) -> None:
    context = Context(settings(run))
    with client_of(context, load=False) as client:
        assert client.get("/health").json() == {"status": "loading"}
        assert client.get("/ready").status_code == 503
        assert "modernbert_ready 0" in client.get("/metrics").text
        early = client.post("/predict", json=ASK)
        assert (early.status_code, early.headers["retry-after"]) == (503, "2")
        assert early.json()["error_type"] == "unavailable"
        assert client.get("/info").status_code == 503
    context = Context(settings(run))
    with client_of(context) as client:
        assert client.get("/ready").status_code == 200
        context.phase = "stopping"
        assert (client.get("/health").status_code, client.get("/ready").status_code) == (200, 503)
        late = client.post("/predict", json=ASK)
        assert (late.status_code, late.headers["connection"]) == (503, "close")


def test_a_stream_of_the_page_ends_with_the_server(run: Path) -> None:
    context = Context(settings(run))
    context.phase = "ready"
    sent: list[Any] = []

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while True:
            await send({"type": "http.response.body", "body": b"beat", "more_body": True})
            await asyncio.sleep(0.01)

    async def scene() -> int:
        async def send(message: Any) -> None:
            sent.append(message)

        scope = scope_of("GET", "/gradio_api/heartbeat/1", [])
        answer = asyncio.create_task(Guard(endless, context)(scope, asyncio.Event().wait, send))  # type: ignore[arg-type]
        await asyncio.sleep(0.05)
        waited_for = context.in_flight
        context.ended.set()
        await asyncio.wait_for(answer, 5)
        return waited_for

    assert asyncio.run(scene()) == 0
    assert len(sent) > 2
    assert sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}


def test_requests_are_counted_by_route_not_by_address(run: Path) -> None:
    context = Context(settings(run))
    with client_of(context) as client:
        client.post("/predict", json=ASK)
        client.post("/runs/teams/predict", json=ASK)
        client.post("/runs/nobody/predict", json=ASK)
        client.get("/secret/1")
        client.get("/secret/2")
        client.post("/predict", json={})
    assert context.metrics.requests.values == {
        ("/predict", "200"): 1,
        ("/runs/{run}/predict", "200"): 1,
        ("/runs/{run}/predict", "404"): 1,
        ("other", "404"): 2,
        ("/predict", "422"): 1,
    }
    assert context.in_flight == 0


# -- keys ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"token": "short"}, "give 16 or more"),
        ({"token": "é" * 20}, "of ASCII"),
        ({"tokens_per_batch": 0}, "tokens_per_batch=0: allowed is auto"),
        ({"tokens_per_batch": True}, "tokens_per_batch=True"),
        ({"batch_wait": -1}, "batch_wait=-1"),
        ({"batch_wait": 1000}, "0 to 100 milliseconds"),
        ({"texts": 0}, "limits.texts=0"),
        ({"seconds": -1.0}, "limits.seconds=-1.0"),
    ],
)
def test_keys_out_of_range(run: Path, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        settings(run, **changed)


def test_names_of_runs(tmp_path: Path) -> None:
    assert list(named([str(tmp_path / "a"), str(tmp_path / "b" / ".." / "c")])) == ["a", "c"]
    with pytest.raises(ConfigError, match="would both be called 'a'"):
        named([str(tmp_path / "a"), str(tmp_path / "x" / "a")])
    with pytest.raises(ConfigError, match="cannot stand in an address"):
        named(str(tmp_path / "a b"))
    with pytest.raises(ConfigError, match=r"run=\[\]"):
        named([])


def test_settings_are_read_from_the_configuration(run: Path) -> None:
    from app.compose import compose, plain

    words = [f"run=[{run}]", "token=1234567890123456", "limits.texts=5"]
    read = Settings.of(plain(compose("serve", words)))
    assert dict(read.runs) == {"teams": run}
    assert read.token == "1234567890123456"
    assert read.limits == Limits(2_000_000, 100_000_000, 5, 65_536, 512, 30.0)
