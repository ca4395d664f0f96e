"""The tab that trains: words of the command, the doctor's report, curves, and real processes started and stopped."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from app import serve
from app.compose import compose
from modernbert.errors import ConfigError, DataError
from tasks.run import Run
from ui.curves import panel, panels, read_curves
from ui.train_tab import report_of
from ui.training import Setup, TaskChoice, Training, Trainings, Wish
from ui.uploads import UPLOADS
from ui.work import Work

SECONDS = 150.0


@pytest.fixture
def setup(tiny_encoder: Callable[..., Path], tmp_path: Path) -> Setup:
    """The real tasks, with a tiny encoder to choose."""
    encoder = tiny_encoder("bert")

    def word(key: str, value: str | int) -> str:
        return f"encoder.source={encoder}" if key == "encoder" else serve.word(key, value)

    real = serve.setup()
    return Setup(real.command, word, real.tasks, {"tiny": "two layers"}, tmp_path / "runs")


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two labels, clear from single words; the columns are not called text and label."""
    path = tmp_path / "it's, (1).csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["words of a person", "kind", "id"])
        for i in range(30):
            writer.writerows([(f"the parcel was good {i}", "fine", i), (f"the app was bad {i}", "broken", i)])
    return path


def value_of(update: Any) -> Any:
    return update["value"] if isinstance(update, dict) else update


def test_the_application_offers_its_tasks_and_encoders() -> None:
    setup = serve.setup()
    assert list(setup.tasks) == ["classification", "ner", "reranking", "retrieval"]
    assert setup.tasks["classification"].roles["label"].startswith("column of the label")
    assert next(iter(setup.encoders)) == "minilm"
    assert "modernbert-base" in setup.encoders
    assert setup.command[0] == sys.executable


TRICKY = ["a.csv", "/tmp/x/a.csv", "it's, (1) [a] {b}.csv", "null", "1", "1e5", "True", "${x}", "a=b", "ünï", "a\\'b"]


@pytest.mark.parametrize("value", TRICKY)
def test_words_come_back_from_the_configuration_as_texts(value: str) -> None:
    words = [serve.word("task", "classification"), serve.word("data.train", value)]
    words += [serve.word("data.columns.text", value), serve.word("trainer.max_epochs", 3)]
    cfg = compose("train", words)
    # `null` means none in every grammar of Hydra; no file is called so.
    assert cfg.data.train == (None if value == "null" else value)
    assert cfg.data.columns.text == cfg.data.train
    assert cfg.trainer.max_epochs == 3


@pytest.mark.parametrize(
    ("wish", "kind", "message"),
    [
        (Wish("poetry", "a.csv", encoder="tiny"), ConfigError, "no task 'poetry'"),
        (Wish("ner", None, encoder="tiny"), DataError, "no rows yet"),
        (Wish("ner", "a.csv", encoder="/etc/passwd"), ConfigError, "no encoder '/etc/passwd'"),
        (Wish("ner", "a.csv", encoder="tiny", epochs=0), ConfigError, "0 epochs: choose 1 to 1000"),
    ],
)
def test_only_what_is_offered_is_started(setup: Setup, wish: Wish, kind: type[Exception], message: str) -> None:
    trainings = Trainings(setup)
    with pytest.raises(kind, match=message):
        trainings.start(wish)
    assert trainings.last is None


def test_the_command_names_what_was_chosen(setup: Setup, tmp_path: Path) -> None:
    echo = (sys.executable, "-c", "import sys; print(sys.argv[1:]); print('error', sys.argv[2], file=sys.stderr)")
    UPLOADS.take()
    try:
        trainings = Trainings(Setup(echo, setup.word, setup.tasks, setup.encoders, setup.folder))
        upload = str(tmp_path / "cache" / "my rows.csv")
        wish = Wish("classification", upload, columns={"label": "kind", "text": ""}, encoder="tiny", epochs=2)
        training = trainings.start(wish)
        training.process.wait(SECONDS)
        words = training.said()
        assert "'train', 'task=classification'" in words
        assert f"data.train='{upload}'" in words
        assert "'data.columns.label=kind', 'trainer.max_epochs=2'" in words
        assert "data.columns.text" not in words
        assert "data.cache=false" in words
        assert training.folder.parent == setup.folder / "classification"
        assert training.folder.name.endswith("-my-rows")
        assert training.shown.startswith("modernbert train task=classification")
        assert str(tmp_path / "cache") not in training.shown
        with pytest.raises(DataError, match=r"^task=classification$"):
            trainings.check(wish)
    finally:
        UPLOADS.give_back()


def test_a_training_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ui.training.GRACE", 0.5)
    deaf = "import signal, time; signal.signal(2, signal.SIG_IGN); print('here', flush=True); time.sleep(600)"
    training = Training([sys.executable, "-c", deaf], "", tmp_path, tmp_path / "log.txt", 1)
    while "here" not in training.said():
        time.sleep(0.05)
    assert training.running
    training.close()
    assert not training.running
    assert not training.succeeded


def test_the_report_lists_problems_with_their_mends() -> None:
    problem = {"level": "error", "source": "/tmp/x/a.csv", "row": 7, "column": "text", "what": "<b>", "mend": "fill it"}
    shown = report_of({"errors": 3, "warnings": 1, "notes": ["text: column 'a'"], "problems": [problem]})
    assert "3 errors: training would stop at them." in shown
    assert "<td>a.csv</td><td>7</td><td>text</td><td>&lt;b&gt;</td><td>fill it</td>" in shown
    assert "3 more of the same kinds" in shown
    assert "Ready to train, with 2 warnings." in report_of({"errors": 0, "warnings": 2, "problems": []})
    assert "Ready to train." in report_of({"errors": 0, "warnings": 0})


def test_curves_are_read_as_lightning_writes_them(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    assert read_curves(path) == {}
    path.write_text("epoch,step,train_loss,val_f1\n0,9,1.5,\n0,9,,0.25\n1,19,1.0,\n", encoding="utf-8")
    curves = read_curves(path)
    assert curves == {"train_loss": [(9, 1.5), (19, 1.0)], "val_f1": [(9, 0.25)]}
    shown = panels(curves)
    assert shown.count("<svg") == 2
    assert 'aria-label="training loss: 1.5 at step 9, 1 at step 19"' in shown
    points = re.findall(r'points="([^"]*)"', panel("loss", [(0, 2.0), (5, 1.0), (10, 0.0)]))[0].split()
    x, y = zip(*(map(float, point.split(",")) for point in points), strict=True)
    assert x[1] - x[0] == pytest.approx(x[2] - x[1])
    assert y[0] < y[1] < y[2], "a falling loss goes down"
    assert panel("loss", [(i, 1.0 / (i + 1)) for i in range(5000)]).count(",") < 400


def test_without_trainings_there_is_no_such_tab(client: Client) -> None:
    assert "Train" not in {c["props"].get("label") for c in client.config["components"] if c["type"] == "tabitem"}
    assert "/train" not in client.view_api(return_format="dict")["named_endpoints"]


@pytest.fixture
def train_client(run: Run, open_page: Callable[..., Any], setup: Setup) -> Iterator[tuple[Client, Trainings]]:
    trainings = Trainings(setup)
    with open_page(run, trainings=trainings) as client:
        yield client, trainings


def test_headers_are_offered(train_client: tuple[Client, Trainings], rows: Path) -> None:
    client, _ = train_client
    _, *columns = client.predict(handle_file(str(rows)), "classification", api_name="/headers")
    shown = [column for column in columns if column["visible"]]
    assert [column["label"] for column in shown] == [
        "Column of the text", "Column of the text pair", "Column of the label",
    ]  # fmt: skip
    assert [value for _, value in shown[0]["choices"]] == ["(guess)", "words of a person", "kind", "id"]


@pytest.mark.slow
def test_check_train_and_try(train_client: tuple[Client, Trainings], rows: Path) -> None:
    client, trainings = train_client
    wish = ["classification", handle_file(str(rows)), None, "tiny", 2, "words of a person", "(guess)", "kind"]
    rest = ["(guess)"] * 4
    report = client.predict(*wish, *rest, api_name="/check")
    assert "Ready to train" in report
    assert "60 rows of" in report
    assert "/tmp" not in report
    assert "Training …" in client.predict(*wish, *rest, api_name="/train")[0]
    with pytest.raises(AppError, match="A training is under way"):
        client.predict(*wish, *rest, api_name="/train")
    training = trainings.last
    assert training is not None
    training.process.wait(SECONDS)
    state, curves, metrics, _, command, *_ = client.predict(api_name="/training")
    assert "Trained. The run is in" in state, training.said()
    assert "<svg" in curves
    assert "<td>validation accuracy</td>" in metrics
    assert "modernbert train task=classification" in command
    name = value_of(client.predict(api_name="/try"))
    assert name == training.folder.name
    _, exact = client.predict("the app was bad 3", name=name, api_name="/answer")
    assert set(exact["scores"]) == {"fine", "broken"}
    metrics = json.loads((training.folder / "metrics.json").read_text(encoding="utf-8"))
    assert "validation" in metrics


@pytest.mark.slow
def test_a_training_is_stopped_and_keeps_its_checkpoint(train_client: tuple[Client, Trainings], rows: Path) -> None:
    client, trainings = train_client
    columns = {"text": "words of a person", "label": "kind"}
    training = trainings.start(Wish("classification", str(rows), columns=columns, encoder="tiny", epochs=1000))
    started = time.monotonic()
    while not training.curves.is_file():
        assert training.running, training.said()
        assert time.monotonic() - started < SECONDS
        time.sleep(0.2)
    client.predict(api_name="/stop")
    assert training.process.wait(SECONDS) == 130
    state, _, _, said, *_ = client.predict(api_name="/training")
    assert "Stopped." in state
    assert "To go on: modernbert train resume=" in said
    with pytest.raises(AppError, match="Nothing is trained yet"):
        client.predict(api_name="/try")


def test_work_that_nobody_waits_for_ends(tmp_path: Path) -> None:
    told = threading.Event()

    def long(advance: Callable[[int], None]) -> None:
        for _ in range(10_000):
            advance(1)
            time.sleep(0.002)
        told.set()

    steps = iter(Work(long))
    next(steps)
    steps.close()
    assert not told.is_set()
    assert "work" not in [thread.name for thread in threading.enumerate()]
    work = Work(lambda advance: [advance(2), advance(3), "done"][-1])
    assert set(work) <= {0, 2, 5}
    assert (work.done, work.result) == (5, "done")
    with pytest.raises(DataError, match="no"):
        list(Work(lambda advance: (_ for _ in ()).throw(DataError("no"))))


def test_a_page_that_closes_stops_its_training(run: Run, open_page: Callable[..., Any], setup: Setup) -> None:
    wait = (sys.executable, "-c", "import time; time.sleep(600)")
    trainings = Trainings(Setup(wait, setup.word, {"ner": TaskChoice("", {})}, setup.encoders, setup.folder))
    with open_page(run, trainings=trainings):
        training = trainings.start(Wish("ner", "a.csv", encoder="tiny"))
        assert training.running
    assert isinstance(training.process, subprocess.Popen)
    assert not training.running
