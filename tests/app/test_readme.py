"""The README is executed: its commands in order, as a person types them, then its Python."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import forked
import httpx
import pytest

from app.catalog import Catalog
from app.compose import compose, expand, parse
from app.usage import UsageError

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BIN = Path(sys.executable).parent
LOADED = 60  # seconds within which the page must answer
#: Trained on a tiny encoder; the others' default one must tell texts apart, or nothing can be mined.
SMALL = {"experiment=support_ner", "task=reranking"}


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in this language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Every command of the sh blocks, in order, without comments; lines that end in a backslash are joined."""
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    bare = (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines)
    return [line for line in bare if line]


def spoken() -> list[str]:
    """The overrides in the prose and in the tables."""
    prose = re.sub(r"^```.*?^```", "", README, flags=re.MULTILINE | re.DOTALL)
    codes = re.findall(r"`([^`\n]+)`", prose)
    return [code for code in codes if "=" in code and code != "key=value" and not code.startswith("modernbert")]


def environment() -> dict[str, str]:
    return os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}


def check_call(command: list[str], folder: Path) -> None:
    """Run to the end; what it said is shown where its status is not 0."""
    done = subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command} exits {done.returncode}\n{done.stdout}\n{done.stderr}"


def check_page(command: str, folder: Path) -> None:
    """The page answers on its port, and Ctrl-C ends it without an error."""
    port = free_port()
    # exec, so that the signal reaches the page and not the shell before it.
    words = ["bash", "-c", f"exec {command} port={port}"]
    with subprocess.Popen(
        words, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as page:
        try:
            assert answer(f"http://127.0.0.1:{port}", page) == 200
        finally:
            page.send_signal(signal.SIGINT)
            try:
                _, said = page.communicate(timeout=60)
            except subprocess.TimeoutExpired:
                page.kill()
                raise
    assert (page.returncode, said) == (0, "stopped\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answer(address: str, page: subprocess.Popen[str]) -> int | None:
    """The HTTP status of the page, waited for; None where it ended or stayed silent."""
    until = time.monotonic() + LOADED
    while time.monotonic() < until and page.poll() is None:
        try:
            return httpx.get(address, timeout=10).status_code
        except httpx.TransportError:
            time.sleep(0.2)
    return None


@pytest.mark.slow
def test_every_command_of_the_readme_runs(
    tmp_path: Path, tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    ours = [command for command in commands() if command.startswith("modernbert ")]
    assert {command.split()[1] for command in ours} >= {"train", "check", "evaluate", "predict", "export", "ui"}
    for command in ours:
        verb = command.split()[1]
        if verb == "ui":
            check_page(command, tmp_path)
        elif verb == "check":  # one as a shell finds and starts it; the others without the seconds of importing
            check_call(["bash", "-c", command], tmp_path)
        else:
            words = shlex.split(command)[1:]
            if verb == "train":  # a few steps: what is tested are the commands, not the score
                words.append("trainer.max_steps=4")
            if verb == "train" and SMALL & set(words):
                words.append(f"encoder.source={tiny_encoder('modernbert')}")
            done = forked.run("app.cli", *words)
            assert done.returncode == 0, f"{command} exits {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert blocks("python")
    for code in blocks("python"):
        check_call([sys.executable, "-c", code], tmp_path)


def test_what_is_not_run_is_checked_by_name() -> None:
    others = [command for command in commands() if not command.startswith("modernbert ")]
    targets = [command.split() for command in others]
    assert targets
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for program, *names in targets:
        assert program == "make", f"nothing tests {program} of the README"
        assert names
        for name in names:
            assert re.search(rf"^{name}:.*\n\t\S", makefile, re.MULTILINE), f"make {name} has no recipe"


def test_make_demo_trains_what_composes() -> None:
    done = subprocess.run(["make", "-n", "demo"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.replace("\\\n", " ").splitlines()
    trainings = [words for line in lines if (words := shlex.split(line)) and words[0].endswith("/modernbert")]
    assert [words[1] for words in trainings] == ["train"]
    config = compose("train", trainings[0][2:])
    assert (ROOT / config.data.train).is_file()
    assert (ROOT / config.data.test).is_file()


@pytest.mark.parametrize("code", spoken())
def test_overrides_in_the_text_compose(code: str) -> None:
    words = [word for word in shlex.split(code) if word != "--multirun"]
    given = {word.partition("=")[0] for word in words}
    # An override of one task's own key (task.head=crf) names no task in the text around it.
    tasks = [f"task={name}" for name in Catalog().options("task")]
    mistakes = []
    for words_of_run in expand(parse(words)):
        for task in tasks:
            more = [word for word in (task, "data.train=x.csv") if word.partition("=")[0] not in given]
            try:
                compose("train", [*more, *words_of_run])
            except UsageError as error:
                mistakes.append(str(error))
            else:
                break
        else:
            pytest.fail(f"{code} fits no task: {mistakes}")
