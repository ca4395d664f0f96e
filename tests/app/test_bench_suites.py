"""Each bench from its command line to its JSON, on encoders and data small enough for seconds."""

from __future__ import annotations

import json
from pathlib import Path

import forked
import pytest
import torch

from app import cli
from app.bench import child, flops, memory, shapes, sides
from app.bench.shapes import Shape
from app.bench.workload import workload
from modernbert.errors import BackendError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", Shape(32, 3, 2, 48, tokens=400))
    monkeypatch.setitem(flops.CEILING_SIDE, "cpu", 64)


def run(capsys: pytest.CaptureFixture, *words: str) -> dict:
    """A command with --json, its document checked for what every one has."""
    assert cli.main(["bench", *words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["format"] == 1
    assert found["suite"] == words[0]
    assert found["machine"]["device"] == "cpu"
    assert found["machine"]["threads"] >= 1
    assert {"modernbert", "torch", "transformers"} <= set(found["machine"]["packages"])
    return found


def test_bench_alone_lists_the_suites(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench"]) == 0
    out = capsys.readouterr().out
    assert all(f"bench {suite} " in out for suite in ("encoder", "encode", "train"))
    assert cli.main(["bench", "encodr"]) == 2
    assert "Did you mean modernbert bench encoder?" in " ".join(capsys.readouterr().err.split())


def test_encoder(capsys: pytest.CaptureFixture) -> None:
    words = ["shapes=[tiny]", "lengths=[64,longtail-512]", "rounds=2", "device=cpu", "memory=[]", "batch_size=2"]
    rows = run(capsys, "encoder", *words)["rows"]
    assert [(row["length"], row["mode"]) for row in rows] == [
        (64, "inference"),
        (64, "training"),
        ("longtail-512", "inference"),
        ("longtail-512", "training"),
    ]
    assert list(rows[0]["sides"]) == ["ours", "transformers"]
    assert list(rows[2]["sides"]) == ["ours", "transformers padded", "transformers sorted"]
    assert rows[0]["tokens"] == 6 * 64
    assert rows[1]["useful_gflop"] == pytest.approx(3 * rows[0]["useful_gflop"], abs=0.002)
    for row in rows:
        assert row["layers"] == 3
        assert row["ceiling_share"] > 0  # of calls of a millisecond: on a busy machine it may be any number
        for name, found in row["sides"].items():
            assert found["tokens_per_s"] > 0
            if name != "ours":
                assert 0 < found["ratio"]["low"] <= found["ratio"]["median"] <= found["ratio"]["high"]


def test_sides_learn_the_same() -> None:
    work = workload("longtail-512", 1500, budget=300)
    found = []
    for name in (sides.OURS, sides.PADDED, sides.SORTED):
        pair = shapes.build("tiny", None, "sdpa", CPU)  # anew: a step has moved the weights
        sides.side(name, pair, work, "training", sides.Setting(CPU))()
        model = pair.ours if name == sides.OURS else pair.theirs
        gradient = dict(model.named_parameters())["final_norm.weight"].grad
        assert gradient is not None
        found.append(gradient.clone())
    for gradient in found[1:]:
        torch.testing.assert_close(gradient, found[0], rtol=1e-3, atol=1e-2)  # sums of 1,500 tokens


def test_unequal_encoders_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "AGREEMENT", 0.0)
    with pytest.raises(BackendError, match="different computations"):
        shapes.build("tiny", None, "sdpa", CPU)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shapes=[18m]"], "shapes=18m: allowed are 17m, 32m, base"),
        (["lengths=[many]"], "lengths=many"),
        (["modes=[sleeping]"], "modes=sleeping: allowed is inference and training"),
        (["rounds=0"], "rounds=0"),
        (["json=no/where.json"], "json=no/where.json"),
    ],
)
def test_wrong_values(words: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["bench", "encoder", *words]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(not memory.CLEAR.exists(), reason="needs Linux' /proc")
def test_memory_job(capsys: pytest.CaptureFixture) -> None:
    job = {"shape": "tiny", "layers": None, "length": 512, "tokens": 2048, "batch_size": None, "mode": "training"}
    job |= {"side": "ours", "device": "cpu", "attention": "sdpa", "adamw": "default", "threads": None}
    memory.main([json.dumps(job)])
    assert 0 < json.loads(capsys.readouterr().out)["peak_bytes"] < 2**30


def test_encode(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers")
    file = tmp_path / "texts.csv"
    file.write_text("body\n" + "\n".join(f"text number {i} " + "again " * i for i in range(12)), encoding="utf-8")
    words = [f"input={file}", "column=body", "texts=10", "rounds=1", "device=cpu", "precisions=[int8]"]
    found = run(capsys, "encode", *words)
    (row,) = found["rows"]
    assert row["texts"] == 10
    # [CLS], text, number, i, i times again, [SEP]
    assert row["tokens"] == sum(5 + i for i in range(10))
    assert row["max_difference"]["ours"] < 1e-5 < 1e-4 < row["max_difference"]["ours, int8"] < 0.05
    assert set(row["sides"]) == {"ours", "ours, int8", "sentence-transformers"}
    assert cli.main(["bench", "encode", f"input={file}", "column=boby"]) == 2
    assert "'body'" in capsys.readouterr().err
    assert cli.main(["bench", "encode", "precisions=[int4]"]) == 2
    assert "precisions=int4: allowed is bf16 and int8" in capsys.readouterr().err


def test_generated_texts_are_short_documents() -> None:
    from app.bench.encode_suite import generated
    from modernbert.sources import resolve
    from tasks.data.tokenise import load_tokenizer, tokenise

    folder = resolve("minilm")
    lengths = tokenise(load_tokenizer(folder), generated(folder, 300), None, 512).lengths
    assert 70 < lengths.mean() < 84


@pytest.mark.slow
def test_train(
    capsys: pytest.CaptureFixture, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate")
    monkeypatch.setattr(child, "run", forked.output)
    lines = (root / "examples" / "support.csv").read_text(encoding="utf-8").splitlines()
    file = tmp_path / "it's few.csv"
    file.write_text("\n".join(lines[:41]), encoding="utf-8")
    words = ["task=classification", f'data.train="{file}"', f'data.test="{file}"', "trainer=cpu", "optim.lr=1e-3"]
    words += ["trainer.max_epochs=2", "optim.batch_size=16", "data.max_length=48", "trainer.threads=1", "seeds=[3]"]
    found = run(capsys, "train", *words)
    assert [(run["side"], run["seed"]) for run in found["runs"]] == [("ours", 3), ("Trainer", 3)]
    for one in found["runs"]:
        assert one["steps"] == 6  # 40 rows in steps of 16, twice
        assert 0 < one["cpu_seconds"] < 300
        assert set(one["quality"]) == {"accuracy", "f1_macro"}
    assert found["means"]["ours"]["seconds"] == found["runs"][0]["seconds"]
    assert found["ratios"]["cpu_seconds"]["median"] > 0
    assert found["settings"]["data"]["validation_share"] == 0
