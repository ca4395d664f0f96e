"""`modernbert bench pretrained`: cells by the verbs, kept and taken up again; the mean and the verdict by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from app import cli
from app.bench import child
from app.bench.pretrained_cells import CELLS, Bench, Figure, Side, find_side, planned
from app.bench.pretrained_suite import FIRST_SIX, mean_of, verdict
from app.catalog import Catalog
from app.circle.workshop import word
from app.compose import compose
from tasks.data.tokenise import load_tokenizer

FIRST = [name for cells in FIRST_SIX for name in cells]
TEXTS = ("where is my parcel", "please refund money", "the app closes", "my password does not work")


def figure(cell: str, encoder: str, value: float, half: float = 0.0, seed: int = 0) -> Figure:
    return Figure(cell, encoder, seed, value, value - half, value + half, None, "")


def test_mean_counts_six_sets_and_adds_their_intervals() -> None:
    figures = [figure(cell, "a", 0.5, half=0.06) for cell in FIRST]
    figures[FIRST.index("scifact")] = figure("scifact", "a", 0.7, half=0.06)  # with scifact-zero: 0.6
    figures += [figure("trec6", "a", 0.9, half=0.06, seed=1)]  # with seed 0: 0.7
    mean = mean_of(figures, "a")
    assert mean is not None
    assert mean["value"] == pytest.approx((4 * 0.5 + 0.6 + 0.7) / 6)
    assert mean["high"] - mean["value"] == pytest.approx(0.06 * 6**0.5 / 6)
    assert mean_of(figures[1:-1], "a") is None
    assert mean_of(figures, "b") is None


@pytest.mark.parametrize(
    ("whole", "windows", "mean", "decided"),
    [
        (0.5, 0.4, 0.6, True),
        (0.5, 0.5, 0.6, False),  # not better on long documents
        (0.5, 0.4, 0.5, True),  # equal is enough for the mean
        (0.5, 0.4, 0.49, False),
        (None, 0.4, 0.6, None),
        (None, 0.4, 0.4, False),  # whatever the long documents are
    ],
)
def test_verdict(whole: float | None, windows: float, mean: float, decided: bool | None) -> None:
    figures = [figure("novels-512", "a", 0.3), figure("novels", "a", windows)]
    figures += [] if whole is None else [figure("novels", "b", whole)]
    means = {name: {"value": value, "low": value, "high": value} for name, value in (("a", 0.5), ("b", mean))}
    assert verdict(figures, "a", "b", means)["becomes_default"] is decided


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """A few rows of three sets, laid out as the real ones."""
    folder = tmp_path / "sets"
    rows = [(text, str(i % 2)) for i, text in enumerate(TEXTS * 6)]
    pairs = [(a, b, str(abs(i - j))) for i, a in enumerate(TEXTS) for j, b in enumerate(TEXTS)]
    for place, header, lines in (
        ("classification/trec6/train.csv", "text,label", rows),
        ("classification/trec6/test.csv", "text,label", rows[:9]),
        ("retrieval/stsb/train.csv", "sentence1,sentence2,score", pairs),
        ("retrieval/stsb/test.csv", "sentence1,sentence2,score", pairs),
    ):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join([header, *(",".join(line) for line in lines)]), encoding="utf-8")
    texts = [json.dumps({"_id": str(i), "title": "", "text": text}) for i, text in enumerate(TEXTS * 3)]
    (folder / "retrieval" / "scifact").mkdir()
    (folder / "retrieval" / "scifact" / "corpus.jsonl").write_text("\n".join(texts), encoding="utf-8")
    (folder / "pretraining").mkdir()
    for i in range(2):
        text = "\n\f\n".join(f"{TEXTS[j % 4]} {TEXTS[(i + j) % 4]}" for j in range(20 + i))
        (folder / "pretraining" / f"part-{i}.txt").write_text(text, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_cells_are_measured_once(
    sets: Path,
    tmp_path: Path,
    tiny_encoder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    ran: list[str] = []

    def here(module: str, words: Sequence[str]) -> str:
        """In this process: a new one takes ten seconds to begin."""
        assert (module, cli.main(list(words))) == ("app.cli", 0)
        ran.append(words[0])
        return ""

    monkeypatch.setattr(child, "run", here)
    encoders = []
    for family in ("bert", "modernbert"):
        source, folder = tiny_encoder(family), tmp_path / family
        tokenizer = load_tokenizer(source)
        tokenizer.mask_token = "[UNK]"
        tokenizer.save_pretrained(folder)
        for name in ("config.json", "model.safetensors"):
            (folder / name).write_bytes((source / name).read_bytes())
        encoders.append(str(folder))
    target = tmp_path / "found.json"
    words = [f"encoders=[{','.join(encoders)}]", f"sets={sets}", f"output={tmp_path / 'out'}", f"json={target}"]
    words += ["device=cpu", "threads=1", "train.trainer.max_epochs=1", "train.data.cache=false", "mlm_tokens=200"]
    assert cli.main(["bench", "pretrained", *words, "cells=[trec6,stsb,mlm,speed]"]) == 0
    assert ran == ["train", "train", "evaluate", "evaluate", "pretrain", "pretrain"]
    said = " ".join(capsys.readouterr().out.split())
    assert "mean of the first six at least equal: not measured" in said
    found = json.loads(target.read_text())
    assert [(one["cell"], one["encoder"]) for one in found["figures"]] == [
        (cell, encoder) for cell in ("trec6", "stsb", "mlm") for encoder in encoders
    ]
    for one in found["figures"]:
        assert one["low"] <= one["value"] <= one["high"]
        run = Path(one["folder"]) / "run"
        if one["cell"] == "trec6":
            assert json.loads((run / "metrics.json").read_text())["test"]["accuracy"] == one["value"]
    assert all(found["speeds"][encoder]["tokens_per_s"] > 0 for encoder in encoders)
    assert found["speeds"][encoders[0]]["first_over_it"]["median"] == 1
    # Again: nothing runs but what is missing, and that is taken up where it was left.
    ran.clear()
    (Path(found["figures"][0]["folder"]) / "figure.json").unlink()
    assert cli.main(["bench", "pretrained", *words, "cells=[trec6,mlm,speed]"]) == 0
    again = json.loads(target.read_text())
    assert ran == ["train"]
    assert again["figures"][0] == found["figures"][0]
    assert again["speeds"] == found["speeds"]
    # The text of the masked words is the last file.
    log = (Path(found["figures"][4]["folder"]) / "run" / "config.yaml").read_text()
    assert "part-1.txt" in log


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cells=[trec7]"], "cells=trec7: allowed are trec6, wnut17"),
        (["seeds=[]"], "seeds=[]"),
        (["encoders=[minilm,minilm]"], "each once"),
        (["device=tpu"], "device=tpu"),
        (["cells=[wnut17]"], "train.conll is not there"),
    ],
)
def test_wrong_values(words: list[str], said: str, sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["bench", "pretrained", f"sets={sets}", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


def test_cells_have_recipes_and_an_order() -> None:
    recipes = Catalog().options("experiment")
    assert all(cell.experiment in recipes for cell in CELLS.values() if cell.experiment)
    assert set(FIRST) < set(CELLS)
    a, b = (Side(name, [], Path(), name) for name in "ab")
    order = [(name, side.name, seed) for name, side, seed in planned(["trec6", "stsb"], [a, b], [3, 4])]
    assert order[:4] == [("trec6", "a", 3), ("trec6", "b", 3), ("trec6", "a", 4), ("trec6", "b", 4)]
    assert order[4:] == [("stsb", "a", 3), ("stsb", "b", 3)]  # nothing is drawn where nothing is learned


def test_cells_are_commands_on_the_shared_sets(shared: Path) -> None:
    bench = Bench(Path("out"), shared / "data", {}, 100, "auto", None)
    side = find_side("minilm")
    for cell in CELLS.values():
        files = [word(f"data.{key}", path) for key, path in bench.files(cell).items()]
        if cell.metric != CELLS["speed"].metric:
            words = [*bench.settings(cell, side, 0), *side.words, *files]
            compose("train" if cell.experiment else "pretrain", words)
    assert bench.files(CELLS["mlm"])["text"].endswith("wikipedia-3.txt.xz")


def test_long_documents_are_read_whole_or_in_windows() -> None:
    bench = Bench(Path("out"), Path("sets"), {"optim": {"lr": 3e-5}}, 100, "cpu", None)
    whole, first = (bench.settings(CELLS[name], find_side("minilm"), 0) for name in ("novels", "novels-512"))
    assert {"data.max_length=512", "task.long=window", "task.merging=mean", "optim.lr=3e-05"} < set(whole)
    assert not any(word.startswith("task.") for word in first)
