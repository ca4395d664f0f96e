"""What both recipes are made of: trainings, runs without training, evaluations, each a stage.

Each composes the configuration of the verb that does it, and calls that verb.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import lightning as L
from omegaconf import DictConfig

from app import cli, finish, resume
from app import evaluate as evaluation
from app import train as training
from app.circle.stages import Stages, Unfinished, remove
from app.compose import compose, plain
from app.failures import OK
from app.origin import find
from app.rundir import data_name
from app.usage import UsageError
from modernbert import weights
from modernbert.config import read_config
from modernbert.errors import ConfigError
from tasks import run as runs
from tasks.data.module import DataSettings, Prepared
from tasks.data.schema import Report
from tasks.data.writers import open_writer
from tasks.retrieval_schema import RetrievalSchema

#: Name of the evaluations, under <run>/evaluations.
EVALUATION = "circle"
#: Keys of a training that the recipe gives itself.
FIXED = ("task", "data.train", "data.test", "seed", "run_dir", "resume")
DEVICES = {"auto": "auto", "cpu": "cpu", "cuda": "gpu"}
#: What Hydra reads as itself without quotes, and as a text.
BARE = re.compile(r"[A-Za-z/.][\w./-]*")

#: Keys of task=retrieval that say how texts are read.
TEXT_KEYS = ("query_prefix", "document_prefix", "query_max_length", "negatives", "split", "query_expansion")

Task = Literal["retrieval", "reranking"]
Rows = Mapping[str, Sequence[Any]]


class Workshop:
    """Stages in the folder of a run, with the settings that all of them share.

    Args:
        settings: the keys of conf/circle.yaml.

    Raises:
        ConfigError: a device that has no trainer, a key of a training that the recipe gives itself.
    """

    def __init__(self, settings: Mapping[str, Any], folder: Path) -> None:
        self.settings, self.folder, self.stages = settings, folder, Stages(folder)
        self.data, self.device = settings["data"], settings["device"]
        if self.device not in DEVICES:
            raise ConfigError(f"device={self.device}: allowed is {', '.join(DEVICES)}.")
        tasks: tuple[Task, ...] = ("retrieval", "reranking")
        for task in tasks:
            for key, _ in flat(settings[task]):
                if key in FIXED:
                    raise ConfigError(f"{task}.{key}: the recipe gives this key to each of its trainings.")
            composed("train", self.words(task, "rows.csv", {}, None))  # a slip is told before hours of training
        encoder = settings["encoder"]
        base = weights.resolve(encoder["source"], encoder["revision"])
        #: Of the encoder that all begins with.
        self.base = {path.name: runs.sha256(path) for path in sorted(base.glob("*.safetensors"))}

    def words(self, task: Task, rows: str | Path, asked: Mapping[str, Any], source: Path | None) -> list[str]:
        """The words of `modernbert train`: what the recipe asks for, and over it what the person says.

        Args:
            rows: to train on.
            source: a run whose encoder goes on; None: the encoder of the circle.
        """
        encoder = {f"encoder.{key}": value for key, value in self.settings["encoder"].items()}
        if source is not None:
            encoder |= {"encoder.source": str(source / "model"), "encoder.revision": None}
        common = {
            "task": task,
            "trainer": DEVICES[self.device],
            "trainer.threads": self.settings["threads"],
            "data.max_length": self.data["max_length"],
        }
        own = dict(flat(self.settings[task]))
        fixed = {"data.train": str(rows), "seed": self.settings["seed"]}
        return [word(key, value) for key, value in {**common, **encoder, **asked, **own, **fixed}.items()]

    def train(
        self, name: str, task: Task, rows: str | Path, asked: Mapping[str, Any], source: Path | None = None
    ) -> Path:
        """A training, which goes on from its last checkpoint where it was stopped; returns the run's folder."""
        words = self.words(task, rows, asked, source)

        def work(place: Path) -> None:
            if (place / resume.CONFIG).is_file():
                cfg = resume.configuration([f"resume={place}"])
            else:
                remove(place)
                cfg = composed("train", [*words, word("run_dir", str(place))])
            status = training.main(cfg)
            if status != OK:
                raise Unfinished(status)

        sources = [rows, *([self.data["corpus"]] if asked.get("data.corpus") else []), *([source] if source else [])]
        # The encoder's path says nothing of what is in it, and moves with the folder.
        told = [w for w in words if not w.startswith(("encoder.source=", "data.train="))]
        return self.stages.run(name, f"training, task={task}", [told, self.base], sources, work)

    def untrained(self, name: str, kind: Literal["tuples", "scored"], source: Path | None = None) -> Path:
        """A retrieval run of the encoder as it is, so that it is measured and compared as the others are."""
        rows = self.data["train"] or self.data["queries"]
        cfg = composed("train", self.words("retrieval", rows, {}, source))
        told = {key: plain(cfg)[key] for key in ("task", "seed")} | {"max_length": cfg.data.max_length, "kind": kind}
        return self.stages.run(
            name, "the encoder as it is", [told, self.base], [source] if source else [],
            lambda place: save_untrained(cfg, place, kind),
        )  # fmt: skip

    def measure(self, run: Path, columns: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The metrics of a run on data.test.

        Args:
            columns: role -> column of the test file; None: data.columns.
        """
        corpus = self.data["corpus"] if runs.read_info(run)["task"] == "retrieval" else None
        given = self.data["columns"] if columns is None else columns
        settings = {"data.test": self.data["test"], "data.corpus": corpus, "device": self.device}
        settings |= {"threads": self.settings["threads"]} | {f"data.columns.{key}": v for key, v in given.items()}

        def work(place: Path) -> None:
            remove(place)
            keys = settings | {"run": str(run), "output": str(place)}
            evaluation.main(composed("evaluate", [word(key, value) for key, value in keys.items()]))

        name = str(run.relative_to(self.folder) / "evaluations" / EVALUATION)
        sources = [run, self.data["test"], *([corpus] if corpus else [])]
        place = self.stages.run(name, f"scoring {data_name(self.data['test'])}", settings, sources, work)
        found: dict[str, Any] = json.loads((place / "metrics.json").read_text("utf-8"))["test"]
        return found

    def table(
        self, name: str, about: str, settings: Any, sources: Sequence[str | Path], rows: Callable[[], Rows]
    ) -> Path:
        """A file of rows that a function makes."""

        def work(place: Path) -> None:
            with open_writer(place) as writer:
                writer.write(rows())

        return self.stages.run(name, about, settings, sources, work)


def composed(config: str, words: Sequence[str]) -> DictConfig:
    """The configuration of a verb.

    Raises:
        ConfigError: a key or value that it does not have.
    """
    try:
        return compose(config, words)
    except UsageError as error:
        raise ConfigError(f"of modernbert {config}: {error}") from error


def save_untrained(cfg: DictConfig, place: Path, kind: Literal["tuples", "scored"]) -> None:
    """Save what a training of retrieval would begin with."""
    remove(place)
    place.mkdir(parents=True)
    base = weights.resolve(cfg.encoder.source, cfg.encoder.revision)
    keys = plain(cfg.task)
    schema = RetrievalSchema(
        {"query": "query"},
        kind,
        DataSettings(**plain(cfg.data)).token_limit(read_config(base).max_positions),
        **{name: keys[name] for name in TEXT_KEYS},
    )
    prepared = Prepared(schema, {}, {}, Report(), [])
    L.seed_everything(cfg.seed, verbose=False)  # of the weights of a projection
    task = training.new_task(cfg, base, prepared)
    made = find(cfg, base, {}) | {"training": {}}
    facts = finish.gather_facts(cfg, prepared, task, made)
    runs.save_run(place, task, base, finish.task_settings(cfg), facts)


def flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Paths and values of the leaves of a nested mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def word(key: str, value: Any) -> str:
    """`key=value` as Hydra reads it back."""
    if isinstance(value, str):
        return f"{key}={value if BARE.fullmatch(value) else cli.quoted(value)}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"
