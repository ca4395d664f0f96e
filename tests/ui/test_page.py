"""The page as a client meets it: numbers, notices, messages, and nothing that leads elsewhere."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from modernbert.errors import ConfigError
from tasks.run import Run
from ui.ports import address, require_port

OpenPage = Callable[[Run], AbstractContextManager[Client]]
TEXT = "Where is my parcel, and who pays for it?"


def bars(shown: str) -> dict[str, float]:
    """Name -> value of the bars, in the order of the page."""
    found = re.findall(r'role="meter" aria-label="([^"]*)"[^>]*aria-valuenow="([^"]*)"', shown)
    return {name: float(value) for name, value in found}


def ask(client: Client, *texts: str) -> tuple[str, dict[str, Any]]:
    return client.predict(*texts, api_name="/answer")


def test_numbers_are_those_of_the_run(client: Client, run: Run) -> None:
    shown, exact = ask(client, TEXT)
    label = run.answer([TEXT])[0]
    assert exact["scores"] == pytest.approx(label.scores, abs=1e-7)
    assert exact["labels"] == list(label.labels)
    assert bars(shown) == pytest.approx(label.scores, abs=1e-6)
    assert list(bars(shown).values()) == sorted(bars(shown).values(), reverse=True)
    assert f'class="verdict">{label.labels[0]}<' in shown
    assert shown.count("class=chosen") == 1


def test_a_long_text_says_that_it_was_cut(client: Client, run: Run) -> None:
    assert f"longer than the {run.schema.max_length} tokens" in ask(client, "where is it " * 40)[0]
    assert "tokens" not in ask(client, TEXT)[0]


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_an_empty_text_is_a_message(client: Client, text: str) -> None:
    with pytest.raises(AppError, match="Text is empty: type or paste one"):
        ask(client, text)


def test_two_texts(make_run: Callable[..., Run], open_page: OpenPage) -> None:
    run = make_run(["yes", "no"], pair=True)
    with open_page(run) as client:
        exact = ask(client, TEXT, "delivery")[1]
        assert exact["scores"] == pytest.approx(run.answer([TEXT], ["delivery"])[0].scores, abs=1e-7)
        assert exact["scores"] != pytest.approx(run.answer([TEXT], ["money"])[0].scores, abs=1e-4)
        with pytest.raises(AppError, match="Second text is empty"):
            ask(client, TEXT, "")


def visible_examples(client: Client) -> list[list[list[str]]]:
    datasets = [c["props"] for c in client.config["components"] if c["type"] == "dataset"]
    return [props["samples"] for props in datasets if props["visible"]]


def test_the_examples_are_short_rows_of_the_run_and_answer(client: Client, run: Run) -> None:
    (texts,) = visible_examples(client)
    assert 3 <= len(texts) <= 6
    assert all(len(text) <= 110 for (text,) in texts)
    labels = [run.answer([text])[0].labels for (text,) in texts]
    assert len(set(labels[:2])) == 2  # different ones first


def test_a_run_without_predictions_has_no_examples(run: Run, open_page: OpenPage, tmp_path: Any) -> None:
    import shutil

    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copytree(run.folder / "model", bare / "model")
    shutil.copyfile(run.folder / "task.json", bare / "task.json")
    with open_page(Run.load(bare, "cpu")) as client:
        assert visible_examples(client) == []
        assert ask(client, TEXT)[1]["scores"] == pytest.approx(run.answer([TEXT])[0].scores, abs=1e-7)


def test_nothing_is_reported_or_fetched_elsewhere(client: Client) -> None:
    config = client.config
    assert config["analytics_enabled"] is False
    assert config.get("run_history") is False
    pages = httpx.get(client.src).text + httpx.get(f"{client.src}theme.css").text
    links = re.findall(r"""(?:src|href)=["']?(https?://[^"'\s>]+)|url\(["']?(https?://[^)"']+)""", pages)
    assert links == []


def test_no_file_outside_the_page_is_served(client: Client, run: Run) -> None:
    for path in (run.folder / "task.json", run.folder / "model" / "config.json", "/etc/passwd"):
        reply = httpx.get(f"{client.src}gradio_api/file={path}")
        assert reply.status_code in (403, 404), path


def test_a_busy_port_names_a_free_one(busy_port: int) -> None:
    with pytest.raises(ConfigError, match=f"port={busy_port} on 127.0.0.1 is in use") as caught:
        require_port("127.0.0.1", busy_port)
    free = re.search(r"Use port=(\d+)", str(caught.value))
    assert free is not None
    require_port("127.0.0.1", int(free[1]))


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 0, "port=0: allowed is 1 to 65535"),
        ("127.0.0.1", 70_000, "allowed is 1 to 65535"),
        ("192.0.2.1", 7860, "host=192.0.2.1 is no address of this machine"),
        ("no such host", 7860, "host=no such host is no address of this machine"),
    ],
)
def test_a_bad_host_or_port_is_refused(host: str, port: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        require_port(host, port)


def test_address() -> None:
    assert address("0.0.0.0", 1) == "http://127.0.0.1:1"
    assert address("::1", 2) == "http://[::1]:2"
    assert address("example.org", 3) == "http://example.org:3"
