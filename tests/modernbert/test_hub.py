"""Encoders from the Hugging Face hub: the real client against a server on this machine that speaks its protocol."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import pytest
import torch

from modernbert.errors import EncoderError
from modernbert.sources import resolve
from modernbert.weights import load_encoder

#: Commits of the one repository, by the names they go by.
REVISIONS = {"main": "b" * 40, "v1": "a" * 40, "a" * 40: "a" * 40, "b" * 40: "b" * 40}
NAME = "someone/tiny"


class Hub(BaseHTTPRequestHandler):
    """Answers as huggingface.co does for models: what there is, and each file by its commit and ETag."""

    folders: dict[str, Path]
    asked: list[str]

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        self.asked.append(path)
        if path.startswith(f"/api/models/{NAME}/"):
            what, _, revision = path.removeprefix(f"/api/models/{NAME}/").partition("/")
            self.tell(what, revision) if revision in REVISIONS else self.refuse("RevisionNotFound")
        elif path.startswith(f"/{NAME}/resolve/"):
            revision, _, file = path.removeprefix(f"/{NAME}/resolve/").partition("/")
            self.send(REVISIONS[revision], self.folders[REVISIONS[revision]] / file)
        else:
            self.refuse("RepoNotFound")

    def tell(self, what: str, revision: str) -> None:
        commit = REVISIONS[revision]
        files = sorted(path for path in self.folders[commit].rglob("*") if path.is_file())
        names = [path.relative_to(self.folders[commit]).as_posix() for path in files]
        if what == "tree":
            pairs = zip(names, files, strict=True)
            body = json.dumps([{"type": "file", "path": name, "size": path.stat().st_size, "oid": sha1(path)}
                               for name, path in pairs])  # fmt: skip
        else:
            body = json.dumps({"id": NAME, "sha": commit, "siblings": [{"rfilename": name} for name in names]})
        self.reply(200, body.encode(), {"Content-Type": "application/json"})

    def send(self, commit: str, path: Path) -> None:
        self.reply(200, path.read_bytes(), {"ETag": f'"{sha1(path)}"', "X-Repo-Commit": commit})

    def refuse(self, code: str) -> None:
        self.reply(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "no"})

    def reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *about: object) -> None:
        """Quiet."""


def sha1(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()


@pytest.fixture
def asked(
    tmp_path: Path, tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """What the hub was asked for. It has two commits of one model, and files that nobody should fetch."""
    from huggingface_hub import constants

    folders = {"a" * 40: "bert", "b" * 40: "modernbert"}
    Hub.folders, Hub.asked = {}, []
    for commit, family in folders.items():
        folder = Hub.folders[commit] = tmp_path / commit
        shutil.copytree(tiny_encoder(family), folder)
        (folder / "pytorch_model.bin").write_bytes(b"a pickle")
        (folder / "onnx").mkdir()
        (folder / "onnx" / "config.json").write_text("{}")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    yield Hub.asked
    server.shutdown()
    server.server_close()


def test_the_main_branch_and_a_pinned_revision(asked: list[str], tiny_encoder: Callable[..., Path]) -> None:
    for revision, family in ((None, "modernbert"), ("v1", "bert"), ("a" * 40, "bert")):
        encoder = load_encoder(resolve(NAME, revision))
        assert encoder.config.family == family
        here = load_encoder(tiny_encoder(family))
        for name, value in encoder.state_dict().items():
            torch.testing.assert_close(value, here.state_dict()[name], atol=0, rtol=0)
    fetched = {path.rsplit("/", 1)[-1] for path in asked if "/resolve/" in path}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= fetched
    assert not any("pytorch_model" in path or "onnx" in path for path in asked if "/resolve/" in path)


def test_what_was_fetched_once_is_there_without_a_network(asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    first = resolve(NAME, "v1")
    asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert resolve(NAME, "v1") == first
    assert asked == []
    with pytest.raises(EncoderError, match="cannot be reached on the Hugging Face hub and is not in the local cache"):
        resolve("someone/other")


def test_names_that_are_not_there(asked: list[str]) -> None:
    with pytest.raises(EncoderError, match="'someone/tiny' at revision 'v9' is not on the Hugging Face hub: no commit"):
        resolve(NAME, "v9")
    with pytest.raises(EncoderError, match=r"'someone/other' is not on the Hugging Face hub, or is private \(hf auth"):
        resolve("someone/other")
