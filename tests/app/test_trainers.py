"""What a trainer is refused before anything is read."""

from __future__ import annotations

import pytest
import torch

from app.cli import main
from app.trainers import require_devices
from modernbert.errors import ConfigError


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
