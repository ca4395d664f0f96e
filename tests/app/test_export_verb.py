"""`modernbert export`, as a person runs it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli import main

TEXTS = ("good parcel", "bad money again please", "fine shoes")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("verb")
    rows = "".join(f"{TEXTS[i % 3]} {i},{'abc'[i % 3]}\n" for i in range(48))
    (folder / "rows.csv").write_text("text,label\n" + rows, encoding="utf-8")
    words = ["task=classification", f"data.train={folder / 'rows.csv'}", f"encoder.source={tiny_encoder('modernbert')}",
             f"run_dir={folder / 'run'}", "trainer=cpu", "trainer.threads=1", "trainer.max_epochs=1"]  # fmt: skip
    assert main(["train", *words]) == 0
    return folder / "run"


def test_several_formats_in_one_call_with_figures(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    words = [f"run={run}", "format=[transformers,onnx,onnx-int8,head]", f"output={tmp_path / 'out'}", "figures=true"]
    # The tiny validation split has few rows: one may turn without a fault of the export.
    assert main(["export", *words, "max_metric_drop=0.9", f"data.test={run.parent / 'rows.csv'}", "threads=1"]) == 0
    said = capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["head", "onnx", "onnx-int8", "transformers"]
    assert "rows answered otherwise" in said
    assert 'pipeline("text-classification"' in said
    assert "the run, in PyTorch" in said
    figures = json.loads((tmp_path / "out" / "onnx" / "figures.json").read_text())["figures"]
    assert figures["onnx"]["alone_ms"] > 0
    assert figures["the run, in PyTorch"]["speed"] == 1.0
    parity = json.loads((tmp_path / "out" / "onnx" / "parity.json").read_text())
    assert parity["rows"] == 48
    assert parity["metric"]["name"] == "f1_macro"


@pytest.mark.slow
def test_named_entities_have_logits_for_each_token(
    tmp_path: Path, tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    lines = [f"where is {'my good ' * (i % 4)}parcel {i}" for i in range(40)]
    entities = [[[line.index("parcel"), line.index("parcel") + 6, "THING"]] for line in lines]
    rows = [json.dumps({"text": line, "entities": spans}) for line, spans in zip(lines, entities, strict=True)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows), encoding="utf-8")
    words = [f"data.train={tmp_path / 'rows.jsonl'}", f"encoder.source={tiny_encoder('roberta')}", "trainer=cpu",
             f"run_dir={tmp_path / 'run'}", "trainer.threads=1", "trainer.max_epochs=1"]  # fmt: skip
    assert main(["train", "task=ner", *words]) == 0
    test = f"data.test={tmp_path / 'rows.jsonl'}"
    assert main(["export", f"run={tmp_path / 'run'}", "format=[onnx,head]", test, f"output={tmp_path / 'out'}"]) == 0
    assert "O, B-THING, I-THING" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].shape == ["batch", "sequence", 3]


def test_the_runs_own_rows_prove_it_by_default(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", f"run={run}", "format=head"]) == 0
    assert (run / "export" / "head" / "head.safetensors").is_file()
    assert "predictions.csv" in capsys.readouterr().err
    assert main(["export", f"run={run}", "format=head"]) == 2
    assert "is there already and not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("format=tflite", "format=tflite: allowed is one or more of transformers, sentence-transformers, onnx"),
        ("format=[head,coreml]", "format=coreml"),
        ("format=[]", "format=[] is empty"),
    ],
)
def test_mistakes_get_one_clear_line(run: Path, capsys: pytest.CaptureFixture, word: str, message: str) -> None:
    assert main(["export", f"run={run}", word]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_bench_puts_runs_beside_their_exports(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnxruntime")
    words = [f"run=[{run}]", "rounds=2", "threads=1", f"json={tmp_path / 'found.json'}"]
    assert main(["bench", "export", *words, "max_metric_drop=0.9"]) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines() if line.startswith("classification")]
    assert [line[1:3] for line in lines[1:]] == [["modernbert", "onnx"], ["modernbert", "onnx-int8"]]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["suite"] == "export"
    (one,) = found["runs"]
    assert list(one["sides"]) == ["the run, in PyTorch", "onnx", "onnx-int8"]
    assert one["sides"]["onnx"]["largest_difference"] < 1e-4
    assert one["sides"]["onnx"]["metric"] == one["sides"]["the run, in PyTorch"]["metric"]
    for side in one["sides"].values():
        assert side["megabytes"] > 0
        assert len(side["rounds"]) == 2
    ratios = [a / b for a, b in zip(*(one["sides"][name]["rounds"] for name in ("onnx", "onnx-int8")), strict=True)]
    assert one["int8_over_float"]["median"] == pytest.approx(sum(ratios) / 2, rel=1e-2)


def test_a_refused_export_has_a_line_in_the_bench(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from app.bench import export_suite

    measured = {
        "run": "r", "task": "ner", "family": "bert", "rows": 9, "metric": "f1", "how": "so", "int8_over_float": None,
        "sides": {"ours": {"megabytes": 1.0, "metric": 0.5, "alone_ms": 1.0, "rows_per_s": 9.0, "speed": 1.0}},
        "refused": {"onnx-int8": "it lost too much"},
    }  # fmt: skip
    assert export_suite.table([measured]).row_count == 2
    assert export_suite.remark(measured).endswith("onnx-int8 was refused: it lost too much")
    slow = measured | {"refused": {}, "int8_over_float": {"median": 1.2, "low": 1.1, "high": 1.3}}
    assert "1.20 (1.10-1.30) times the rows of ONNX fp32 at batch 32, less than the 1.5" in export_suite.remark(slow)


@pytest.mark.parametrize(
    ("word", "message"), [("run=[]", "run=[]"), ("rounds=0", "rounds=0"), ("formats=[x]", "format=x")]
)
def test_wrong_values_of_the_bench(run: Path, capsys: pytest.CaptureFixture, word: str, message: str) -> None:
    words = [word] if word.startswith("run") else [f"run=[{run}]", word]
    assert main(["bench", "export", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_limit_that_is_no_share_is_refused(run: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["export", f"run={run}", "format=head", "max_metric_drop=2"]) == 2
    assert "max_metric_drop=2" in capsys.readouterr().err
