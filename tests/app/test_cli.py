"""The command line: what is typed wrong is answered in a line or two, what is right reaches the verb."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from app import cli, console
from app.cli import VERBS, Verb, main

TRAIN = ["train", "task=classification", "data.train=x.csv"]

MISTAKES = [
    (["trian"], "modernbert train"),
    (["xyzzy"], "Verbs: train, evaluate"),
    (["train", "task=clasification"], "task=classification"),
    (["train", "data.train=x.csv"], "task is missing: task=classification"),
    (["train", "tsk=classification"], "Did you mean task?"),
    (["train", "task=classification"], "data.train="),
    (["train", "task=null"], "no option 'None'"),
    ([*TRAIN, "data.trian=x"], "Did you mean data.train?"),
    ([*TRAIN, "lr=1e-4"], "Did you mean optim.lr?"),
    ([*TRAIN, "optim.learning_rate=1e-4"], "'optim.learning_rate' is not a key."),
    ([*TRAIN, "epochs=3"], "Did you mean trainer.max_epochs?"),
    ([*TRAIN, "+trainer.max_epoch=3"], "Did you mean trainer.max_epochs?"),
    ([*TRAIN, "++trainer.max_epoch=3"], "Did you mean trainer.max_epochs?"),
    ([*TRAIN, "~data.test"], "data.test=null"),
    ([*TRAIN, "hydra.run.dir=x"], "--config-dir"),
    ([*TRAIN, "encoder=modernbert"], "encoder=modernbert-base"),
    ([*TRAIN, "encoder=./my-model"], "encoder.source=./my-model"),
    ([*TRAIN, "trainer=slurm"], "auto, cpu, ddp, fsdp, gpu"),
    ([*TRAIN, "optim.batch_size=many"], "a whole number, as 32"),
    ([*TRAIN, "optim.batch_size=3.5"], "a whole number, as 32"),
    ([*TRAIN, "optim.lr=fast"], "a number"),
    ([*TRAIN, "data.cache=3"], "true or false"),
    ([*TRAIN, "task.class_weights.spam=2"], "task.class_weights={spam: …}"),
    ([*TRAIN, "seed.x=2"], "Did you mean seed?"),
    ([*TRAIN, "trainer={max_epoch: 3}"], "max_epoch"),
    ([*TRAIN, "output"], "is not key=value"),
    ([*TRAIN, "reviews.csv"], "Did you mean data.train=reviews.csv?"),
    ([*TRAIN, "--epochs"], "Flags are --help"),
    ([*TRAIN, "seed=1,2"], "add --multirun"),
    ([*TRAIN, "seed=${nothing}"], "nothing"),
    (["train", "task=classification", "data.train=rows (1).csv"], "data.train='rows (1).csv'"),
    (["train", "task=classification", "data.train=[x"], "cannot be read"),
    ([*TRAIN, "--cfg", "hydra"], "--cfg job"),
    ([*TRAIN, "--config-dir"], "--config-dir my_conf"),
    ([*TRAIN, "--config-dir", "/no/such/folder"], "no such folder"),
    ([*TRAIN, "--multirun", "seed=1,2", "run_dir=same"], "run_dir=same"),
    ([*TRAIN, "--multirun", "seed=1,2", "trainer=ddp"], "trainer.devices=1"),
    (["predict"], "run="),
    (["evaluate", "run=x", "trainer=cpu"], "'trainer' is not a key"),
    (["export", "run=x"], "format="),
]


@pytest.mark.parametrize(("argv", "hint"), MISTAKES, ids=[" ".join(argv) for argv, _ in MISTAKES])
def test_mistake_is_answered_in_two_lines(argv: list[str], hint: str, capsys: pytest.CaptureFixture) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert hint in captured.err
    assert 1 <= len(captured.err.strip().splitlines()) <= 2
    assert "Traceback" not in captured.err


def test_quoted_mend_works(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "task=classification", "data.train='rows (1).csv'", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["train"] == "rows (1).csv"


def test_lists(capsys: pytest.CaptureFixture) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(verb in out and VERBS[verb].help in out for verb in VERBS)
    assert main(["train"]) == 0
    out = capsys.readouterr().out
    assert "task=classification" in out
    assert "modernbert train task=classification data.train=" in out


@pytest.mark.parametrize("verb", VERBS)
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture) -> None:
    assert main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"modernbert {verb} " in out
    assert "Examples" in out
    if verb == "train":
        for expected in ("encoder=minilm *", "trainer=ddp", "data.columns.label=null", "optim.batch_size=32"):
            assert expected in out


def test_cfg_job_prints_the_configuration(capsys: pytest.CaptureFixture) -> None:
    assert main([*TRAIN, "trainer.max_epochs=5", "task.class_weights={spam: 2.0}", "--cfg", "job"]) == 0
    plain = yaml.safe_load(capsys.readouterr().out)
    assert plain["trainer"]["max_epochs"] == 5
    assert plain["task"]["class_weights"] == {"spam": 2.0}
    assert plain["optim"]["lr"] == "${encoder.default_lr}"
    assert main(["train", "task=classification", "--cfg=job", "--resolve"]) == 0
    plain = yaml.safe_load(capsys.readouterr().out)
    assert (plain["optim"]["lr"], plain["data"]["train"]) == (1e-4, "???")


QUICK = [["--help"], ["train"], ["train", "--help"], [*TRAIN, "--cfg", "job"], ["train", "task=clas"]]


@pytest.mark.parametrize("argv", QUICK, ids=[" ".join(argv) for argv in QUICK])
def test_quick_and_without_heavy_imports(argv: list[str], root: Path) -> None:
    code = (
        "import sys; from app.cli import main; main(sys.argv[1:]); "
        "heavy = {'torch', 'lightning', 'transformers', 'gradio', 'numpy'} & set(sys.modules); "
        "sys.exit(str(heavy or ''))"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", code, *argv], cwd=root, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "{" not in done.stderr, done.stderr
    # CPU seconds, not wall time: other work on the machine is not what is measured.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


@pytest.fixture
def verb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A verb of the test's own, `note`, which writes each seed it is given to a file and fails as told."""
    log = tmp_path / "seeds.txt"
    (tmp_path / "noting.py").write_text(
        f"""
from modernbert.errors import ConfigError, DataError
import torch
LOG = {str(log)!r}
FAILURES = {{
    1: ConfigError('[bold]seed[/bold] 1'),
    2: DataError('row 3'),
    3: KeyboardInterrupt(),
    4: KeyError('k'),
    5: torch.OutOfMemoryError('CUDA out of memory.'),
    6: PermissionError(13, 'Permission denied', 'out.csv'),
}}
def main(cfg):
    open(LOG, 'a').write(f'{{cfg.seed}} ')
    if cfg.seed in FAILURES:
        raise FAILURES[cfg.seed]
    if cfg.seed == 7:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemExit(1)
    return 0
def after_sweep(jobs):
    open(LOG, 'a').write(' '.join(f'{{words[-1]}}:{{status}}' for words, cfg, status in jobs))
"""
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(cli.VERBS, "note", Verb("noting", "train", "for this test"))
    yield log
    sys.modules.pop("noting", None)


NOTE = ["note", "task=classification", "data.train=x.csv"]


@pytest.mark.parametrize(
    ("seed", "status", "said"),
    [
        (0, 0, ""),
        (1, 2, "error [bold]seed[/bold] 1"),
        (2, 1, "error row 3"),
        (3, 130, "stopped"),
        (4, 70, "this is a bug in modernbert: KeyError: 'k'"),
        (5, 1, "Lower data.tokens_per_batch"),
        (6, 1, "out.csv: Permission denied"),
        (7, 130, "stopped"),
    ],
)
def test_status_and_message(verb: Path, seed: int, status: int, said: str, capsys: pytest.CaptureFixture) -> None:
    assert main([*NOTE, f"seed={seed}"]) == status
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    if status == 70:
        file = Path(err.partition("The trace is in ")[2].partition(";")[0])
        trace = file.read_text()
        assert "noting.py" in trace
        assert "torch 2" in trace
        file.unlink()


def test_multirun_runs_each_combination_in_order(verb: Path) -> None:
    words = ["--multirun", "seed=10,11", "optim.batch_size=8,16"]
    assert main([*NOTE, *words]) == 0
    assert verb.read_text() == (
        "10 10 11 11 optim.batch_size=8:0 optim.batch_size=16:0 optim.batch_size=8:0 optim.batch_size=16:0"
    )


def test_multirun_goes_on_after_a_failed_run_and_stops_at_an_interrupt(verb: Path) -> None:
    assert main([*NOTE, "-m", "seed=2,10"]) == 1
    assert verb.read_text() == "2 10 seed=2:1 seed=10:0"
    verb.unlink()
    assert main([*NOTE, "-m", "seed=range(2,5)"]) == 130
    assert verb.read_text() == "2 3 "


def test_multirun_checks_every_combination_first(verb: Path) -> None:
    assert main([*NOTE, "-m", "encoder=minilm,minilmm"]) == 2
    assert not verb.exists()


def write(folder: Path, name: str, text: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


def test_own_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own = tmp_path / "it's mine"
    write(own, "encoder/ours.yaml", "defaults: [_shared, _self_]\nsource: /models/ours\ndefault_lr: 7e-5\n")
    words = [*TRAIN, "encoder=ours", "--config-dir", str(own)]
    assert main([*words, "--cfg", "job", "--resolve"]) == 0
    plain = yaml.safe_load(capsys.readouterr().out)
    assert plain["encoder"]["source"] == "/models/ours"
    assert float(plain["optim"]["lr"]) == 7e-5
    assert main(["train", "--help", "--config-dir", str(own)]) == 0
    assert "encoder=ours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "text", "word", "hint"),
    [
        (
            "experiment/e.yaml",
            "# @package _global_\ntrainer:\n  max_epoch: 9\n",
            "experiment=e",
            "trainer.max_epochs",
        ),
        ("encoder/e.yaml", "source: x\n", "encoder=e", "'encoder.default_lr' is missing"),
        ("encoder/e.yaml", "defaults: [_sharde, _self_]\nsource: x\n", "encoder=e", "_sharde"),
        ("experiment/e.yaml", "# @package _global_\ntrainer: [\n", "experiment=e", "e.yaml"),
    ],
)
def test_mistake_in_own_file(
    tmp_path: Path, file: str, text: str, word: str, hint: str, capsys: pytest.CaptureFixture
) -> None:
    write(tmp_path, file, text)
    assert main([*TRAIN, word, "--config-dir", str(tmp_path)]) == 2
    assert hint in capsys.readouterr().err


def test_open_mapping_takes_keys_below_it(capsys: pytest.CaptureFixture) -> None:
    words = ["predict", "run=x", "input=y.csv", "output=z.csv", "data.columns.text=body", "--cfg", "job"]
    assert main(words) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["columns"] == {"text": "body"}


def test_json_flag(capsys: pytest.CaptureFixture) -> None:
    assert main(["check", *TRAIN[1:], "--json", "--cfg", "job"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["json"] is True
    assert main([*TRAIN, "--json"]) == 2


def test_closed_pipe_is_quiet(root: Path) -> None:
    done = subprocess.run(
        f"{sys.executable} -m app.cli train --help | head -1",
        shell=True, cwd=root, capture_output=True, text=True, env=dict(os.environ), check=False,
    )  # fmt: skip
    assert done.stdout.startswith("modernbert train")
    assert done.stderr == ""


def test_consoles_are_apart(capsys: pytest.CaptureFixture) -> None:
    console.out().print(json.dumps({"a": [1]}))
    console.note("note")
    console.warn("[red]warning[/red]")
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"a": [1]}
    assert captured.err == "note\nwarning [red]warning[/red]\n"
