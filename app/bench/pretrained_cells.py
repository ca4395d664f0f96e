"""The cells of `modernbert bench pretrained`: one data set, one encoder, one seed; each done by verbs, and kept.

A cell lies in a folder that is named after all that it is made of (settings, encoder, data), so a finished one is not
computed again, one that was cut short goes on, and two calls may fill the same folder side by side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from app import console
from app.bench import child
from app.catalog import Catalog
from app.circle.stages import digest_of, fingerprint, remove
from app.circle.workshop import composed, flat, save_untrained, word
from modernbert import weights
from modernbert.config import read_config
from modernbert.errors import ConfigError
from tasks.metrics import bootstrap
from tasks.run import write_json

#: Tokens at which long documents are read whole, and those of an encoder of the BERT family.
WHOLE, SHORT = 8192, 512
#: Tokens of a step of the masked-language cell: 120 steps in half a million tokens.
MASKED_STEP = 4096
ACCELERATORS = {"auto": "auto", "cpu": "cpu", "cuda": "gpu"}


@dataclass(frozen=True)
class Cell:
    """What a figure is measured by.

    `files` are keys of `data` and places under the folder of the sets; `untrained` is the kind of a retrieval run that
    is measured as it is, and None where there is something to learn.
    """

    metric: str
    about: str
    files: dict[str, str]
    experiment: str | None = None
    untrained: Literal["tuples", "scored"] | None = None
    long: int | None = None


def _split(folder: str, suffix: str, *names: str) -> dict[str, str]:
    keys = {"dev": "validation"}
    return {keys.get(name, name): f"{folder}/{name}.{suffix}" for name in names}


NOVELS = _split("classification/novels", "csv", "train", "test")
SCIFACT = {"train": "retrieval/scifact", "test": "retrieval/scifact"}
TRAIN_TEST = ("train", "test")

CELLS = {
    "trec6": Cell("accuracy", "trec6 accuracy", _split("classification/trec6", "csv", *TRAIN_TEST), "trec6"),
    "wnut17": Cell("f1", "wnut17 F1", _split("ner/wnut17", "conll", "train", "validation", "test"), "wnut17"),
    "germeval2018": Cell(
        "f1_macro", "germeval2018 macro F1", _split("classification/germeval2018", "csv", *TRAIN_TEST), "germeval2018"
    ),
    "scifact-zero": Cell("ndcg@10", "scifact nDCG@10, not fine-tuned", SCIFACT, "scifact", untrained="tuples"),
    "scifact": Cell("ndcg@10", "scifact nDCG@10", SCIFACT, "scifact"),
    "wikiqa": Cell("map", "wikiqa MAP", _split("reranking/wikiqa", "csv", "train", "dev", "test"), "wikiqa"),
    "stsb": Cell(
        "spearman", "stsb Spearman, not fine-tuned", _split("retrieval/stsb", "csv", *TRAIN_TEST), "stsb",
        untrained="scored",
    ),
    "novels-512": Cell("accuracy", f"novels accuracy, first {SHORT} tokens", NOVELS, "novels", long=SHORT),
    "novels": Cell("accuracy", f"novels accuracy, {WHOLE:,} tokens", NOVELS, "novels", long=WHOLE),
    "mlm": Cell("masked_accuracy", "masked words guessed", {"text": "pretraining"}),
    "speed": Cell("tokens/s", "tokens/s on the CPU", {"text": "retrieval/scifact/corpus.jsonl"}),
}  # fmt: skip


@dataclass(frozen=True)
class Side:
    """An encoder: as it was named, where its weights are, and what they are (SHA-256 of the folder)."""

    name: str
    words: list[str]
    folder: Path
    digest: str

    @property
    def positions(self) -> int:
        """Most tokens that it reads."""
        return read_config(self.folder).max_positions


def find_side(name: str) -> Side:
    """A preset by its name; else a folder or a hub name.

    Raises:
        EncoderError: it cannot be found.
    """
    words = [f"encoder={name}" if name in Catalog().options("encoder") else word("encoder.source", name)]
    cfg = composed("train", ["task=classification", "data.train=rows.csv", *words])
    folder = weights.resolve(cfg.encoder.source, cfg.encoder.revision)
    return Side(name, words, folder, fingerprint(folder))


@dataclass(frozen=True)
class Figure:
    """One measured cell; `low` and `high` bound its 95% interval over the rows of the test."""

    cell: str
    encoder: str
    seed: int
    value: float
    low: float
    high: float
    cpu_seconds: float | None  # of the training alone
    folder: str


class Bench:
    """Cells under one folder.

    Args:
        sets: folder of the data sets.
        train: keys of `modernbert train` that every training takes over those of its experiment.
        mlm_tokens: of the masked-language cell.

    Raises:
        ConfigError: a device that has no trainer.
    """

    def __init__(
        self, output: Path, sets: Path, train: Mapping[str, Any], mlm_tokens: int, device: str, threads: int | None
    ) -> None:
        if device not in ACCELERATORS:
            raise ConfigError(f"device={device}: allowed is {', '.join(ACCELERATORS)}.")
        self.output, self.sets, self.train, self.mlm_tokens = output, sets, train, mlm_tokens
        self.device, self.threads = device, threads

    def files(self, cell: Cell) -> dict[str, str]:
        """The files of a cell.

        Raises:
            ConfigError: one is not there.
        """
        found = {key: self.sets / place for key, place in cell.files.items()}
        for path in found.values():
            if not path.exists():
                raise ConfigError(f"sets={self.sets}: {path} is not there; its layout is in docs/pretraining.md.")
        if cell.metric == CELLS["mlm"].metric:
            # The last file: a training that began at the first one and took no whole pass has not read it.
            found["text"] = sorted(path for path in found["text"].iterdir() if path.is_file())[-1]
        return {key: str(path) for key, path in found.items()}

    def settings(self, cell: Cell, side: Side, seed: int) -> list[str]:
        """What a cell is made of beside its encoder and its files, as words of the verb that does it."""
        if cell.experiment is None:
            limits = [f"budget.tokens={self.mlm_tokens}", "budget.minutes=null", f"optim.batch_tokens={MASKED_STEP}"]
            limits.append(f"data.max_length={min(SHORT, side.positions)}")
            return [*limits, f"seed={seed}", f"device={self.device}"]
        found = [f"experiment={cell.experiment}", f"trainer.accelerator={ACCELERATORS[self.device]}", f"seed={seed}"]
        if cell.long is not None:
            found.append(f"data.max_length={min(cell.long, side.positions)}")
            if side.positions < cell.long:  # it reads the whole text too, a window at a time
                found += ["task.long=window", "task.merging=mean", "task.windows=1"]
        return found if cell.untrained else [*found, *(word(key, value) for key, value in flat(self.train))]

    def place(self, name: str, side: Side, settings: Sequence[str]) -> Path:
        """The folder of a cell: its name begins with what it is and ends with what it is made of."""
        made_of = digest_of(settings, side.digest, [fingerprint(path) for path in self.files(CELLS[name]).values()])
        short = re.sub(r"[^\w.]+", "-", side.name).strip("-")[-40:]
        return self.output / f"{name}-{short}-{made_of[:10]}"

    def measure(self, name: str, side: Side, seed: int) -> Figure:
        """One figure, from its folder where it is finished.

        Raises:
            ModernBertError: the process that measures it has failed.
        """
        cell = CELLS[name]
        settings = self.settings(cell, side, seed)
        place = self.place(name, side, settings)
        kept = place / "figure.json"
        if kept.is_file():
            console.note(f"{name}, {side.name}, seed {seed}: done, unchanged")
            return replace(Figure(**read_json(kept)), encoder=side.name)
        console.note(f"{name}, {side.name}, seed {seed}: {place}")
        given = [word(f"data.{key}", value) for key, value in self.files(cell).items()]
        seconds, found = self.compute(cell, [*settings, *side.words, *given], place / "run")
        low, high = found[f"{cell.metric}_low"], found[f"{cell.metric}_high"]
        figure = Figure(name, side.name, seed, found[cell.metric], low, high, seconds, str(place))
        write_json(kept, asdict(figure))
        return figure

    def compute(self, cell: Cell, words: list[str], run: Path) -> tuple[float | None, dict[str, Any]]:
        """CPU seconds of the training, if there is one, and the metrics of a cell."""
        threads = json.dumps(self.threads)
        if cell.untrained is not None:
            return None, self.as_it_is(cell, words, run)
        if cell.experiment is None:
            self.learn("pretrain", [*words, f"threads={threads}"], run)
            return None, masked(run)
        self.learn("train", [*words, f"trainer.threads={threads}"], run)
        training = read_json(run / "task.json")["training"]
        return training["cpu_seconds"], read_json(run / "metrics.json")["test"]

    def learn(self, verb: str, words: list[str], run: Path) -> None:
        """A training in a process of its own; goes on where one was cut short."""
        if (run / "config.yaml").is_file():
            words = [word("resume", str(run))]
        else:
            remove(run)
            words = [*words, word("run_dir", str(run))]
        child.run("app.cli", [verb, *words])

    def as_it_is(self, cell: Cell, words: list[str], run: Path) -> dict[str, Any]:
        """A retrieval run of the encoder without any training, measured in a process of its own."""
        assert cell.untrained is not None
        save_untrained(composed("train", words), run, cell.untrained)
        output = run.parent / "evaluation"
        remove(output)
        given = {"run": str(run), "data.test": self.files(cell)["test"], "output": str(output)}
        told = [word(key, value) for key, value in given.items()]
        child.run("app.cli", ["evaluate", *told, f"device={self.device}", f"threads={json.dumps(self.threads)}"])
        found: dict[str, Any] = read_json(output / "metrics.json")["test"]
        return found


def masked(run: Path) -> dict[str, Any]:
    """The figures of a run of `pretrain`, with an interval as if its masked words were independent."""
    found: dict[str, Any] = read_json(run / "metrics.json")["held_out"]
    count = round(found["masked_tokens"])
    right = found["masked_accuracy"] * count
    low, high = bootstrap.mean_interval(right, right, count)
    return found | {"masked_accuracy_low": low, "masked_accuracy_high": high}


def planned(cells: Sequence[str], sides: Sequence[Side], seeds: Sequence[int]) -> Iterator[tuple[str, Side, int]]:
    """Cells in order, the encoders beside each other; what is not fine-tuned is measured with the first seed alone."""
    for name in cells:
        once = CELLS[name].untrained is not None or CELLS[name].experiment is None
        for seed in seeds[:1] if once else seeds:
            for side in sides:
                yield name, side, seed


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))
