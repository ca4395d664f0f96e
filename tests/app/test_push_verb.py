"""`modernbert push`: what would go where, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import push
from app.cli import main
from modernbert.errors import BackendError, ConfigError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The files of a run, with a proven export, one that the gate never saw, and a copy of model/."""
    folder = tmp_path / "run"
    files = {
        "model/config.json": "{}", "model/model.safetensors": "x" * 2000, "model/tokenizer.json": "{}",
        "model/1_Pooling/config.json": "{}", "model/.hidden": "", "model/model.safetensors.part": "",
        "README.md": 'pipeline("text-classification", model="model")', "task.json": '{"format": 1, "task": "t"}',
        "metrics.json": "{}", "predictions.csv": "text\nprivate\n", "config.yaml": "secret: path", "checkpoints/a": "",
        "export/onnx/model.onnx": "y" * 1000, "export/onnx/parity.json": json.dumps({"passed": True}),
        "export/broken/model.onnx": "z", "export/transformers/parity.json": json.dumps({"passed": True}),
    }  # fmt: skip
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


SENT = ["1_Pooling/config.json", "README.md", "config.json", "metrics.json", "model.safetensors", "onnx/model.onnx",
        "onnx/parity.json", "task.json", "tokenizer.json"]  # fmt: skip


class Hub:
    """The network: keeps what it is sent."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.made, self.files, self.message = error, {}, dict[str, str](), ""

    def create_repo(self, repo: str, **named: Any) -> None:
        if self.error:
            raise self.error
        self.made = {"repo": repo} | named

    def upload_folder(self, repo_id: str, folder_path: str, repo_type: str, commit_message: str) -> Any:
        # As huggingface_hub reads a folder.
        paths = [path for path in sorted(Path(folder_path).glob("**/*")) if path.is_file()]
        self.files = {path.relative_to(folder_path).as_posix(): path.read_text(encoding="utf-8") for path in paths}
        self.message = commit_message
        return f"https://huggingface.co/{repo_id}/commit/1"


def test_a_dry_run_says_what_would_go_where(
    run: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(run.parent)  # short paths: a long one is folded, and its end would look like a file's name
    assert main(["push", "run=run", "repo=me/reviews"]) == 0
    said = capsys.readouterr()
    listed = [line.split()[0] for line in said.out.splitlines()[1:-1]]
    assert [name for name in listed if name in SENT] == SENT
    assert "nothing was sent: 9 files, 0.0 MB would go to me/reviews (private if it is new)" in said.out
    assert "predictions.csv, config.yaml" in said.err
    assert "export/broken, export/transformers" in said.err


def test_what_is_sent(run: Path) -> None:
    hub = Hub()
    where = push.send(push.find_files(run), "me/reviews", True, "first", hub)
    assert where == "https://huggingface.co/me/reviews/commit/1"
    assert hub.made == {"repo": "me/reviews", "private": True, "repo_type": "model", "exist_ok": True}
    assert sorted(hub.files) == SENT
    assert hub.files["model.safetensors"] == "x" * 2000
    assert hub.files["README.md"] == 'pipeline("text-classification", model="me/reviews")'
    assert hub.message == "first"


def test_the_client_takes_what_we_call_it_with() -> None:
    import inspect

    from huggingface_hub import HfApi

    inspect.signature(HfApi.create_repo).bind(None, "me/x", private=True, repo_type="model", exist_ok=True)
    named = {"repo_id": "me/x", "folder_path": "a", "repo_type": "model", "commit_message": "m"}
    inspect.signature(HfApi.upload_folder).bind(None, **named)


def test_without_a_token_it_says_how_to_get_one(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "nothing"))
    assert main(["push", f"run={run}", "repo=me/reviews", "confirm=true"]) == 2
    assert "run `hf auth login`, or set HF_TOKEN" in capsys.readouterr().err


def test_a_hub_that_cannot_be_reached(run: Path) -> None:
    with pytest.raises(BackendError, match="repo=me/reviews was not sent: no route"):
        push.send(push.find_files(run), "me/reviews", True, "m", Hub(httpx.ConnectError("no route")))


@pytest.mark.parametrize("repo", ["a/b/c", "-bad-", "me/two words"])
def test_names_that_the_hub_does_not_allow(run: Path, repo: str) -> None:
    with pytest.raises(ConfigError, match="is no name on the hub"):
        push.check_name(repo)


def test_a_run_without_weights(run: Path, capsys: pytest.CaptureFixture) -> None:
    (run / "model" / "model.safetensors").unlink()
    assert main(["push", f"run={run}", "repo=me/reviews"]) == 2
    assert "has no model/ with weights" in capsys.readouterr().err
