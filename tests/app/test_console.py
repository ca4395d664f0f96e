"""The summary of a run, where a run goes, and what builds a task."""

from __future__ import annotations

import io
import logging
import warnings
from datetime import datetime
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from rich.console import Console

from app import console, quiet
from app.build import build_task
from app.console import Confusion, Score, Summary, summary
from app.rundir import data_name, new_run_dir
from modernbert.errors import ConfigError
from tasks.answers import Label

SUMMARY = Summary(
    title="classification: multiclass, 3 labels",
    facts={"encoder": "minilm, 23M parameters", "train": "405 rows of [my] rows.csv"},
    scores={
        "validation": [Score("accuracy", 0.9, 0.85, 0.94), Score("f1_macro", 0.88)],
        "test": [Score("accuracy", 0.89, 0.84, 0.93)],
    },
    run=Path("runs/classification/20260102-030405-a-rather-long-name-of-a-data-file-that-goes-on"),
    confusions=[Confusion("billing", "[/red]refund", 7, 40)],
    commands={"score new rows": "modernbert predict run=x input=new.csv output=scored.csv"},
)


def drawn(width: int) -> str:
    screen = Console(width=width, record=True, markup=False, file=io.StringIO())
    screen.print(summary(SUMMARY), soft_wrap=False)
    return "\n".join(line.rstrip() for line in screen.export_text().splitlines())


def test_summary() -> None:
    assert (
        drawn(120)
        == """\
classification: multiclass, 3 labels
  encoder  minilm, 23M parameters
  train    405 rows of [my] rows.csv

  95% interval  validation               test
  accuracy      0.900  (0.850 to 0.940)  0.890  (0.840 to 0.930)
  f1_macro      0.880

taken for another class most often
  label    predicted        rows
  billing  [/red]refund  7 of 40

the run is in runs/classification/20260102-030405-a-rather-long-name-of-a-data-file-that-goes-on

next
  # score new rows
  modernbert predict run=x input=new.csv output=scored.csv"""
    )


def test_summary_fits_a_narrow_terminal() -> None:
    assert max(map(len, drawn(60).splitlines())) <= 60


def test_only_the_first_process_speaks(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    for rank, said in (("0", "note\n"), ("1", "")):
        monkeypatch.setenv("LOCAL_RANK", rank)
        console.note("note")
        assert capsys.readouterr().err == said
    console.error("told by every process")
    assert capsys.readouterr().err == "error told by every process\n"


def config(**values: object):
    plain = {"run_dir": None, "task": {"name": "classification"}, "data": {"train": "trec6/train.csv"}}
    return OmegaConf.create(plain | values)


def test_run_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    now = datetime(2026, 1, 2, 3, 4, 5)
    first = new_run_dir(config(), now)
    assert first == Path("runs/classification/20260102-030405-trec6")
    first.mkdir(parents=True)
    assert new_run_dir(config(), now).name == "20260102-030405-trec6-2"
    assert new_run_dir(config(run_dir="mine")) == Path("mine")
    Path("mine").mkdir()
    assert new_run_dir(config(run_dir="mine")) == Path("mine")
    Path("mine/kept.txt").touch()
    with pytest.raises(ConfigError, match="run_dir=mine is there and not empty"):
        new_run_dir(config(run_dir="mine"))


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("reviews.csv", "reviews"),
        ("a b(1).csv", "a-b-1"),
        ("x/sst2/train.tsv", "sst2"),
        ("org/set", "set"),
        ("ä.csv", "ä"),
    ],
)
def test_data_name(source: str, name: str) -> None:
    assert data_name(source) == name


def test_build_task_passes_parts_through_unchanged() -> None:
    part = Label(("b",), {"b": 1.0})
    cfg = OmegaConf.create(
        {"task": {"_target_": "tasks.answers.Label", "name": "x", "labels": ["a"], "scores": {"a": 1.0}}}
    )
    built = build_task(cfg, value=part)
    assert built == Label(["a"], {"a": 1.0}, part)
    assert type(built.labels) is list
    assert built.value is part


@pytest.mark.parametrize("target", ["os.system", "app.build.build_task", None])
def test_build_task_refuses_other_targets(target: str | None) -> None:
    with pytest.raises(ConfigError, match=r"allowed is a class under tasks\.\*"):
        build_task(OmegaConf.create({"task": {"_target_": target}}))


def test_quiet_is_precise() -> None:
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    before = list(logger.filters)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        quiet.silence()
        quiet.silence()
        assert len(logger.filters) <= len(before) + 1
        record = logging.LogRecord("x", logging.INFO, "", 0, "GPU available: %s", (False,), None)
        other = logging.LogRecord("x", logging.INFO, "", 0, "Metric val_loss improved", (), None)
        assert not logger.filter(record)
        assert logger.filter(other)
        # The page is imported beside other threads, whose own catching of warnings may undo gradio's.
        for text in ("Couldn't find ffmpeg or avconv - defaulting to ffmpeg, but may not work", "the file is broken"):
            warnings.warn_explicit(text, RuntimeWarning, "utils.py", 170, module="pydub.utils")
    assert [str(warning.message) for warning in heard] == ["the file is broken"]


def test_silenced_messages_are_still_said_by_the_libraries() -> None:
    # A filter for a message that no library has any more hides nothing, and should go.
    import lightning.pytorch as lightning
    import transformers

    libraries = Path(lightning.__file__).parents[1]
    sources = [
        *libraries.glob("pytorch/**/*.py"),
        *libraries.glob("fabric/**/*.py"),
        Path(transformers.__file__).parent / "tokenization_utils_base.py",
    ]
    said = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for texts in quiet.LOGGERS.values():
        for text in texts:
            # Of a message that an f-string begins, the part behind it.
            assert repr(text)[1:-1] in said or text.split(maxsplit=2)[-1] in said, text
