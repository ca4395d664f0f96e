"""What a trainer is refused before anything is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from app.cli import main
from app.trainers import require_devices, require_end
from modernbert.errors import ConfigError
from modernbert.sources import resolve

FILES = {"train": "_questions", "test": "_questions_test", "corpus": ""}


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize("preset", ["gpu", "ddp", "fsdp"])
def test_no_gpu(preset: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "task=classification", "data.train=examples/support.csv", f"trainer={preset}"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert said.startswith(f"error trainer.accelerator=gpu: torch {torch.__version__} sees no GPU here")
    assert said.endswith("Use trainer=cpu, or trainer.accelerator=cpu for processes that share the work of a CPU.")


def test_too_few_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    require_devices("cuda", 2)
    require_devices("gpu", -1)
    require_devices("gpu", [0, 1])
    require_devices("cpu", 8)
    with pytest.raises(ConfigError, match=r"trainer\.devices=8: there are 2 GPUs here; -1 takes all of them"):
        require_devices("gpu", 8)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.max_epochs=0"], "trainer.max_epochs=0: allowed is 1 or more whole epochs"),
        (["trainer.max_epochs=-1"], "trainer.max_epochs=-1: allowed is 1 or more whole epochs"),
        (["trainer.max_epochs=0.5"], "trainer.max_epochs"),
        (["trainer.max_steps=0"], "trainer.max_steps=0: allowed is 1 or more, or -1"),
        (["trainer.validate_every=0"], "trainer.validate_every=0: allowed is 1, or a share of an epoch"),
        (["trainer.validate_every=2"], "trainer.validate_every=2: allowed is 1, or a share of an epoch"),
        (["trainer.patience=0"], "trainer.patience=0: allowed is null, or 1 or more validations"),
        (["trainer.precision=8"], "trainer.precision=8: allowed is auto | 32 | bf16-mixed | 16-mixed"),
        (["trainer.accelerator=tpu"], "trainer.accelerator=tpu: allowed is auto | cpu | gpu | cuda | mps"),
        (["optim.name=adam", "trainer.max_steps=1"], "optim.name=adam: allowed is adamw"),
        (["trainer.max_steps=0"], "allowed is 1 or more, or -1 to end by trainer.max_epochs; a head that has not"),
        (["seed=-1"], "seed is a whole number from 0 to 4,294,967,295"),
        (["seed=null"], "seed is a whole number from 0 to 4,294,967,295"),
        (["seed=5000000000"], "seed is a whole number from 0 to 4,294,967,295"),
    ],
)
def test_what_no_training_can_do_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "task=classification", "data.train=examples/support.csv", "trainer=cpu", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_steps_alone_are_an_end() -> None:
    for epochs, steps in ((1, -1), (3, 4), (-1, 5), (None, 5)):
        require_end(epochs, steps)


@pytest.mark.slow
def test_patience_without_a_validation_stops_nothing(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    """The steps end before the first epoch does, and with it the first validation."""
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"good {i},{'ab'[i % 2]}\n" for i in range(60)), encoding="utf-8")
    words = [f"encoder.source={tiny_encoder('bert')}", "trainer=cpu", "trainer.max_steps=1", "trainer.patience=1"]
    line = ["train", "task=classification", f"data.train={rows}", f"run_dir={tmp_path / 'run'}", *words]
    assert main([*line, "optim.batch_size=8"]) == 0


def test_no_step_is_a_run_of_the_encoder_as_it_is(tmp_path: Path, root: Path, capsys: pytest.CaptureFixture) -> None:
    run = tmp_path / "run"
    files = {key: root / "examples" / f"manual{name}.csv" for key, name in FILES.items()}
    words = [*(f"data.{key}={file}" for key, file in files.items()), "encoder=minilm", "data.max_length=64"]
    assert main(["train", "task=retrieval", *words, "trainer=cpu", "trainer.max_steps=0", f"run_dir={run}"]) == 0
    assert "none (trainer.max_steps=0): the encoder as it is" in capsys.readouterr().out
    before, after = load_file(resolve("minilm") / "model.safetensors"), load_file(run / "model" / "model.safetensors")
    assert after.keys() <= before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert not (run / "checkpoints").exists()
    # What compares it with a training is there.
    assert len((run / "per_query.csv").read_text(encoding="utf-8").splitlines()) == 77
    assert json.loads((run / "metrics.json").read_text(encoding="utf-8"))["test"]["ndcg@10"] > 0.7
