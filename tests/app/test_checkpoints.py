"""The file of a state, which checkpoints are kept, what a full disk and another world do to them."""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from resume_runs import words, write_rows

from app.checkpoint_files import FOLDER, checkpoints, last_good
from app.checkpoints import Checkpoints
from app.cli import main
from app.signals import Signals
from modernbert.errors import ConfigError
from tasks import state
from tasks.row_adamw import RowAdamW

WEIGHT = torch.arange(6.0).reshape(2, 3)
STATE = {
    "weights": {"a": WEIGHT, "tied": WEIGHT, "row": WEIGHT[1], "none": torch.empty(0), "whole": torch.tensor(7)},
    "groups": [{"betas": (0.9, 0.999), "params": [0, 1]}],
    "by number": {0: {"step": torch.tensor(3.0)}},
    "plain": [None, True, -2, 1.5, float("inf"), "text \u2603", [], ()],
}


def equal(left: object, right: object) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return isinstance(right, dict) and left.keys() == right.keys() and all(equal(left[k], right[k]) for k in left)
    if isinstance(left, (list, tuple)):
        return type(left) is type(right) and len(left) == len(right) and all(map(equal, left, right))
    return type(left) is type(right) and left == right


def test_a_state_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.safetensors"
    state.write(path, STATE, {"step": 4})
    assert equal(state.read(path), STATE)
    assert state.read_about(path) == {"step": 4}
    assert state.torn(path) is None
    assert sorted(p.name for p in path.parent.iterdir()) == ["a.safetensors", "a.safetensors.sha256"]
    line = state.checksum_path(path).read_text()
    said = subprocess.run(["sha256sum", "-c"], input=line, cwd=path.parent, text=True, capture_output=True, check=True)
    assert said.stdout == "a.safetensors: OK\n"


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ({"a": [1, object()]}, r"state\.a\[1\] is a object"),
        ({"a": {1.5: 2}}, r"state\.a has the key 1\.5"),
        ({"a": {1}}, r"state\.a is a set"),
    ],
)
def test_what_would_need_pickle_is_refused(tmp_path: Path, value: dict, place: str) -> None:
    with pytest.raises(state.StateError, match=place):
        state.write(tmp_path / "a.safetensors", value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_damaged_file_is_torn_and_never_crashes(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.safetensors"
    state.write(path, STATE)
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    assert "its SHA-256 is" in str(state.torn(path))
    with pytest.raises(state.StateError):
        state.read(path)
    path.write_bytes(whole)
    state.checksum_path(path).unlink()
    assert state.torn(path) == "a.safetensors.sha256 is not there"


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, root: Path) -> None:
    """In a process of its own, as the limit on files stays with it."""
    path = tmp_path / "a.safetensors"
    state.write(path, {"w": torch.zeros(10)}, {"n": 1})
    code = (
        "import resource, sys, torch; from pathlib import Path; from tasks import state\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, {resource.RLIM_INFINITY}))\n"
        "try: state.write(Path(sys.argv[1]), {'w': torch.zeros(10_000)}, {'n': 2})\n"
        "except OSError as error: print(error.errno, error.filename)"
    )
    said = subprocess.run([sys.executable, "-c", code, str(path)], cwd=root, capture_output=True, text=True, check=True)
    assert said.stdout == f"27 {path}\n"  # EFBIG; ENOSPC takes the same way
    assert state.torn(path) is None
    assert state.read_about(path) == {"n": 1}
    assert len(list(tmp_path.iterdir())) == 2


def test_the_last_two_are_kept_with_their_best_weights(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, 1, ("accuracy", "max"), Signals())
    for step, best in [(1, 1), (2, 1), (3, 3), (4, 4)]:
        kept.best_name = f"best-{best:08d}.safetensors"
        state.write(tmp_path / FOLDER / kept.best_name, {})
        state.write(tmp_path / FOLDER / f"step-{step:08d}.safetensors", {}, {"step": step, "best": kept.best_name})
        kept.prune()
    names = sorted(p.stem for p in (tmp_path / FOLDER).glob("*.safetensors"))
    assert names == ["best-00000003", "best-00000004", "step-00000003", "step-00000004"]
    # Best weights that are torn make the checkpoint that speaks of them worthless.
    (tmp_path / FOLDER / "best-00000004.safetensors").write_bytes(b"")
    found = last_good(tmp_path / FOLDER)
    assert found is not None
    assert found.name == "step-00000003.safetensors"
    assert checkpoints(tmp_path / FOLDER) == [found]


def test_auto_waits_a_minute_and_then_thirty_times_what_it_costs(tmp_path: Path) -> None:
    now = 0.0
    kept = Checkpoints(tmp_path, "auto", None, Signals(), clock=lambda: now)

    total = SimpleNamespace(completed=5)
    loop = SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=total)))
    trainer = SimpleNamespace(fit_loop=loop)
    for now, cost, due in [(59.0, 0.0, False), (60.0, 0.0, True), (60.0, 3.0, False), (90.0, 3.0, True)]:
        kept.cost = cost
        assert kept._due(trainer, 2) is due, (now, cost)  # type: ignore[arg-type]
    kept.every = 5
    assert kept._due(trainer, 2) is True  # type: ignore[arg-type]
    kept.every = 3
    assert kept._due(trainer, 2) is False  # type: ignore[arg-type]
    assert kept._due(trainer, 0) is True  # type: ignore[arg-type]  # an epoch begins


@pytest.mark.parametrize("every", [0, -1, True, "often", 2.5])
def test_a_bad_number_of_steps(tmp_path: Path, every: object) -> None:
    with pytest.raises(ConfigError, match="checkpoint_every"):
        Checkpoints(tmp_path, every, None, Signals())  # type: ignore[arg-type]


def test_rows_of_the_word_table_go_on_bit_by_bit() -> None:
    """What rows have missed is saved with them: paying it at the checkpoint would round in another place."""

    def learn(steps: int, cut: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        table = torch.nn.Embedding(40, 8)
        optimizer = RowAdamW([{"params": [table.weight], "weight_decay": 0.1}], table, lr=1e-2)
        order = torch.randint(0, 40, (steps, 3), generator=torch.Generator().manual_seed(1))
        for number in range(steps):
            if number == cut:
                with optimizer.as_it_is():
                    weights = {name: value.clone() for name, value in table.state_dict().items()}
                    held = copy.deepcopy(optimizer.state_dict())
                table = torch.nn.Embedding(40, 8)
                table.load_state_dict(weights)
                optimizer = RowAdamW([{"params": [table.weight], "weight_decay": 0.1}], table, lr=1e-2)
                optimizer.load_state_dict(held)
            table(order[number]).square().sum().backward()
            optimizer.step()
            optimizer.zero_grad()
        optimizer.close()
        return table.weight.detach()

    whole = learn(60, None)
    for cut in (1, 17, 45):
        assert torch.equal(learn(60, cut), whole), cut


@pytest.mark.slow
def test_a_training_on_a_full_disk_goes_on_and_says_so(
    tmp_path: Path, tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    write = state.write

    def full(path: Path, *args: object) -> None:
        if path.name.startswith("step-"):
            raise OSError(28, "No space left on device", str(path))
        write(path, *args)  # type: ignore[arg-type]

    monkeypatch.setattr("tasks.state.write", full)
    line = words(tiny_encoder("bert"), write_rows(tmp_path / "rows.csv"), "trainer.checkpoint_every=5")
    assert main([*line, f"run_dir={tmp_path / 'run'}"]) == 0
    said = capsys.readouterr().err
    assert "no checkpoint at step 5: [Errno 28] No space left on device" in said
    assert json.loads((tmp_path / "run" / "task.json").read_text())["training"]["steps"] == 12
