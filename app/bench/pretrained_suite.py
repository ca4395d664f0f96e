"""`modernbert bench pretrained`: encoders beside each other after the same fine-tuning, and whether one may replace
the first.

The rule: a candidate has at least the default's mean of the first six data sets and is better on long documents.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from app import console
from app.bench import report
from app.bench.encode_suite import embedder, tokens_of, vectors_of
from app.bench.measure import cpus, paired, ratio, walls
from app.bench.pretrained_cells import CELLS, Bench, Figure, Side, find_side, planned, read_json
from app.circle.stages import digest_of, fingerprint
from app.compose import plain
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.data import readers
from tasks.run import choose_device, write_json

#: The data sets of the mean; one that has two figures counts with the mean of both.
FIRST_SIX = (("trec6",), ("wnut17",), ("germeval2018",), ("scifact-zero", "scifact"), ("wikiqa",), ("stsb",))
#: Texts of the speed cell, most tokens of each, and turns.
SPEED_TEXTS, SPEED_LENGTH, ROUNDS = 200, 256, 3


@dataclass(frozen=True)
class Settings:
    """The keys of conf/bench_pretrained.yaml but `json`.

    Raises:
        ConfigError: for a value outside its range.
    """

    encoders: Sequence[str]
    sets: str
    cells: Sequence[str] | None
    seeds: Sequence[int]
    train: Mapping[str, Any]
    mlm_tokens: int
    output: str
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        _require_list("encoders", self.encoders, str, "a list of encoders, such as [minilm,pocket]")
        _require_list("seeds", self.seeds, int, "a list of whole numbers, such as [0,1,2]")
        if self.cells is not None:
            _require_list("cells", self.cells, str, f"null, or a list of {', '.join(CELLS)}")
        for name in self.cells or ():
            if name not in CELLS:
                raise ConfigError(f"cells={name}: allowed are {', '.join(CELLS)}.")
        if self.mlm_tokens < 1:
            raise ConfigError(f"mlm_tokens={self.mlm_tokens}: allowed is 1 or more.")

    @property
    def names(self) -> list[str]:
        """The cells, in the order of the table."""
        return [name for name in CELLS if self.cells is None or name in self.cells]


def _require_list(key: str, value: Any, kind: type, allowed: str) -> None:
    good = isinstance(value, list) and value and all(isinstance(item, kind) for item in value)
    if not good or len(set(value)) < len(value):
        raise ConfigError(f"{key}={value}: allowed is {allowed}; each once.")


def main(cfg: DictConfig) -> int:
    """Measure what is not measured yet; returns the exit status."""
    settings = Settings(**{key: value for key, value in plain(cfg).items() if key != "json"})
    report.check_target(cfg.json)
    use_threads(settings.threads)
    output = Path(settings.output).expanduser()
    bench = Bench(
        output, Path(settings.sets).expanduser(), settings.train, settings.mlm_tokens, settings.device, settings.threads
    )
    for name in settings.names:
        bench.files(CELLS[name])  # what is missing is told before hours of training
    sides = [find_side(name) for name in settings.encoders]
    output.mkdir(parents=True, exist_ok=True)
    tasks = [name for name in settings.names if name != "speed"]
    figures = [bench.measure(name, side, seed) for name, side, seed in planned(tasks, sides, settings.seeds)]
    speeds = speed(bench, sides) if "speed" in settings.names else {}
    means = {side.name: mean_of(figures, side.name) for side in sides}
    verdicts = [verdict(figures, settings.encoders[0], name, means) for name in settings.encoders[1:]]
    found = report.document(
        "pretrained", choose_device(settings.device), torch.get_num_threads(), asdict(settings),
        encoders={side.name: {"folder": str(side.folder), "sha256": side.digest} for side in sides},
        figures=[asdict(figure) for figure in figures], speeds=speeds, means=means, verdicts=verdicts,
    )  # fmt: skip
    report.emit(cfg.json, found, table(figures, speeds, means), remarks(settings, verdicts))
    return 0


def speed(bench: Bench, sides: Sequence[Side]) -> dict[str, dict[str, Any]]:
    """Tokens and texts a second of texts to vectors on the CPU, tokenising included, all encoders in turns."""
    (file,) = bench.files(CELLS["speed"]).values()
    threads = torch.get_num_threads()
    kept = bench.output / f"speed-{digest_of([side.digest for side in sides], fingerprint(file), threads)[:10]}.json"
    if kept.is_file():
        console.note("speed: done, unchanged")
        rows: list[dict[str, Any]] = read_json(kept)
    else:
        console.note(f"speed: {SPEED_TEXTS} texts, {ROUNDS} turns")
        rows = timed(sides, [text for text in readers.read(file).columns["text"] if text.strip()][:SPEED_TEXTS])
        write_json(kept, rows)
    return {side.name: row for side, row in zip(sides, rows, strict=True)}


def timed(sides: Sequence[Side], texts: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each encoder, in their order."""
    encoders = [embedder(side.folder, SPEED_LENGTH, torch.device("cpu")) for side in sides]
    timings = paired({str(i): partial(vectors_of, encoder, texts) for i, encoder in enumerate(encoders)}, ROUNDS)
    rows = []
    for i, encoder in enumerate(encoders):
        seconds, tokens = statistics.median(walls(timings[str(i)])), tokens_of(encoder, texts)
        rows.append({
            "tokens": tokens,
            "tokens_per_s": round(tokens / seconds, 1),
            "tokens_per_cpu_s": round(tokens / statistics.median(cpus(timings[str(i)])), 1),
            "texts_per_s": round(len(texts) / seconds, 2),
            "first_over_it": ratio(walls(timings["0"]), walls(timings[str(i)])).to_json(),
        })  # fmt: skip
    return rows


def averaged(figures: Sequence[Figure], cell: str, encoder: str) -> tuple[float, float, float] | None:
    """Value, low and high of a cell, each the mean over seeds; None where it was not measured."""
    mine = [figure for figure in figures if (figure.cell, figure.encoder) == (cell, encoder)]
    if not mine:
        return None
    return (
        statistics.fmean(figure.value for figure in mine),
        statistics.fmean(figure.low for figure in mine),
        statistics.fmean(figure.high for figure in mine),
    )


def mean_of(figures: Sequence[Figure], encoder: str) -> dict[str, Any] | None:
    """The mean of the first six with its interval, as the six are independent; None unless all are measured."""
    sets = []
    for cells in FIRST_SIX:
        found = [averaged(figures, cell, encoder) for cell in cells]
        known = [one for one in found if one is not None]
        if len(known) < len(cells):
            return None
        # Both figures of a set are of the same queries: the interval of their mean is the mean of theirs.
        sets.append([statistics.fmean(column) for column in zip(*known, strict=True)])
    value = statistics.fmean(one[0] for one in sets)
    low, high = (math.hypot(*(one[0] - one[end] for one in sets)) / len(sets) for end in (1, 2))
    return {"value": value, "low": value - low, "high": value + high}


def verdict(
    figures: Sequence[Figure], default: str, candidate: str, means: Mapping[str, dict[str, Any] | None]
) -> dict[str, Any]:
    """Whether a candidate may replace the default; `becomes_default` is None while a figure is missing.

    On long documents the candidate reads the whole text, and has to be better than the best the default can do:
    its first tokens, or all of them in windows.
    """
    before, after = means[default], means[candidate]
    at_least = None if before is None or after is None else after["value"] >= before["value"]
    whole = averaged(figures, "novels", candidate)
    other = [averaged(figures, cell, default) for cell in ("novels-512", "novels")]
    known = [one[0] for one in other if one is not None]
    longer = None if whole is None or len(known) < len(other) else whole[0] > max(known)
    decided = False if False in (at_least, longer) else None if None in (at_least, longer) else True
    return {
        "candidate": candidate, "default": default, "at_least_equal_mean": at_least, "better_on_long": longer,
        "becomes_default": decided,
    }  # fmt: skip


def table(
    figures: Sequence[Figure], speeds: Mapping[str, dict[str, Any]], means: Mapping[str, dict[str, Any] | None]
) -> Table:
    """A line a figure, a column an encoder."""
    lines = []
    for name, cell in CELLS.items():
        found = [averaged(figures, name, encoder) for encoder in means]
        if any(found):
            lines.append([cell.about, *(_shown(one) for one in found)])
    if any(means.values()):
        found = [None if one is None else (one["value"], one["low"], one["high"]) for one in means.values()]
        lines.append(["mean of the first six", *(_shown(one) for one in found)])
    if speeds:
        lines.append([CELLS["speed"].about, *(f"{speeds[encoder]['tokens_per_s']:,.0f}" for encoder in means)])
        lines.append(["texts/s on the CPU", *(f"{speeds[encoder]['texts_per_s']:,.1f}" for encoder in means)])
    return console.table(["", *means], lines, right=list(means))


def _shown(one: tuple[float, float, float] | None) -> str:
    return "" if one is None else "{:.1f} ({:.1f} to {:.1f})".format(*(100 * value for value in one))


def remarks(settings: Settings, verdicts: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """How to read the table, and the verdict of the rule."""
    told = [
        f"\nIn brackets 95% intervals over the rows of each test; seeds {', '.join(map(str, settings.seeds))}. scifact "
        "counts in the mean with both figures as one."
    ]
    if "mlm" in settings.names:
        told.append(
            f"Masked words: pretrained for {settings.mlm_tokens:,} tokens, with a new head where there is none; 30% of "
            "the tokens of held-out text. An encoder of fewer words has shorter tokens, which are easier."
        )
    return (*told, *map(sentence, verdicts))


def sentence(found: Mapping[str, Any]) -> str:
    """A verdict in words."""
    words = {True: "yes", False: "no", None: "not measured"}
    outcome = {
        True: f"{found['candidate']} may become the default",
        False: f"{found['default']} stays the default",
        None: "Undecided",
    }[found["becomes_default"]]
    return (
        f"{found['candidate']} beside {found['default']}: mean of the first six at least equal: "
        f"{words[found['at_least_equal_mean']]}; better on long documents: {words[found['better_on_long']]}. {outcome}."
    )
