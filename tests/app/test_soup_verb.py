"""`modernbert soup` and `modernbert vector` on runs that were trained for it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from app.cli import main
from modernbert.weights import encoder_to_hf, load_encoder, read_tensors

TEXTS = ["the parcel has not come yet", "please refund money", "my password does not work", "where is my order"]


@pytest.fixture(scope="module")
def runs(tiny_encoder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    """Labelled rows, and two runs trained on them with different seeds."""
    folder = tmp_path_factory.mktemp("runs")
    rows = folder / "rows.csv"
    with rows.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(
            [f"{'good bad'.split()[i % 2]} {TEXTS[i % 4]} {i}", "yes no".split()[i % 2]] for i in range(40)
        )
    found = []
    for seed in (0, 1):
        words = [
            "train", "task=classification", f"encoder.source={tiny_encoder('modernbert')}", f"data.train={rows}",
            "optim.lr=1e-3", "trainer=cpu", "trainer.max_epochs=1", f"seed={seed}", f"run_dir={folder / f'run{seed}'}",
        ]  # fmt: skip
        assert main(words) == 0
        found.append(folder / f"run{seed}")
    return rows, found


def test_a_soup_is_the_average_scored_beside_its_parts(runs: tuple[Path, list[Path]], tmp_path: Path) -> None:
    rows, (first, second) = runs
    soup = tmp_path / "soup"
    assert main(["soup", f"runs=[{first},{second}]", f"output={soup}", f"data.test={rows}", "device=cpu"]) == 0
    parts = [read_tensors(run / "model") for run in (first, second)]
    for name, value in read_tensors(soup / "model").items():
        torch.testing.assert_close(value, (parts[0][name] + parts[1][name]) / 2)
    info = json.loads((soup / "task.json").read_text())
    assert [part["run"] for part in info["soup"]["runs"]] == [str(first), str(second)]
    for name in ("run0", "run1", "soup"):
        scores = json.loads((soup / "evaluations" / name / "metrics.json").read_text())
        assert 0 <= scores["test"]["accuracy"] <= 1
    assert main(["predict", f"run={soup}", f"input={rows}", f"output={tmp_path / 'out.csv'}", "device=cpu"]) == 0


def test_runs_that_do_not_fit_leave_nothing_behind(
    runs: tuple[Path, list[Path]], tiny_encoder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, (first, _) = runs
    assert main(["soup", f"runs=[{first},{tiny_encoder('modernbert')}]", f"output={tmp_path / 'soup'}"]) == 2
    assert "not a saved run" in capsys.readouterr().err
    assert not (tmp_path / "soup").exists()


def test_vectors_make_an_encoder_or_a_run(
    runs: tuple[Path, list[Path]], tiny_encoder: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, (first, second) = runs
    base = tiny_encoder("modernbert")
    words = ["vector", f"base={base}", f"runs=[{first},{second}]", "scales=[0.5,-0.25]"]
    assert main([*words, f"output={tmp_path / 'encoder'}"]) == 0
    start = encoder_to_hf(load_encoder(base))
    moved = [encoder_to_hf(load_encoder(run / "model")) for run in (first, second)]
    for name, value in encoder_to_hf(load_encoder(tmp_path / "encoder")).items():
        expected = start[name] + 0.5 * (moved[0][name] - start[name]) - 0.25 * (moved[1][name] - start[name])
        torch.testing.assert_close(value, expected, atol=1e-6, rtol=1e-5)
    assert main([*words, f"head={second}", f"output={tmp_path / 'run'}"]) == 0
    merged, owner = read_tensors(tmp_path / "run" / "model"), read_tensors(second / "model")
    assert torch.equal(merged["classifier.weight"], owner["classifier.weight"])
    out = tmp_path / "out.csv"
    assert main(["predict", f"run={tmp_path / 'run'}", f"input={rows}", f"output={out}", "device=cpu"]) == 0
    capsys.readouterr()
    assert main(["vector", f"base={base}", f"runs=[{first},{second}]", "scales=[1.0,1.0,1.0]"]) == 2
    assert "3 for 2 runs" in capsys.readouterr().err
    assert main(["vector", f"base={base}", f"runs=[{first}]", "head=elsewhere"]) == 2
    assert "name one of runs" in capsys.readouterr().err
