"""`modernbert bench encode`: texts to sentence vectors, tokenising included, beside sentence-transformers.

Dimensions: N texts, D hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.table import Table

from app import console
from app.bench import report, suite
from app.bench.measure import Ratio, cpus, device_clock, paired, ratio, walls
from app.bench.quiet import quiet_transformers
from modernbert.errors import ConfigError
from modernbert.sources import resolve
from tasks.data import readers
from tasks.data.tokenise import load_tokenizer
from tasks.embedding import Embedder

OURS, THEIRS = "ours", "sentence-transformers"
#: Words of a generated text: log-normal, so that most are short; with special tokens about 77 tokens each.
MEDIAN_WORDS, SPREAD, FEWEST_WORDS, MOST_WORDS = 60, 0.7, 3, 250


@dataclass(frozen=True)
class Settings:
    """The keys of conf/bench_encode.yaml but `json`.

    Raises:
        ConfigError: for a value outside its range.
    """

    source: str
    input: str | None
    column: str | None
    texts: int
    batch_size: int
    precisions: list[str]
    rounds: int
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        suite.require_least_one(self, "texts", "batch_size", "rounds")
        if (self.input is None) != (self.column is None):
            raise ConfigError("input=<file> and column=<name> go together; without both, texts are generated.")
        unknown = set(self.precisions) - {"bf16", "int8"}
        if unknown:
            raise ConfigError(f"precisions={','.join(sorted(unknown))}: allowed is bf16 and int8.")


def main(cfg: DictConfig) -> int:
    """Encode the texts on both sides in turns; returns the exit status."""
    settings = suite.settings_of(Settings, cfg)
    suite.require_sentence_transformers()
    device, folder = suite.begin(settings.device, settings.threads), resolve(settings.source)
    texts = read_texts(settings) if settings.input else generated(folder, settings.texts)
    row = measure(settings, folder, texts, device)
    found = report.document("encode", device, torch.get_num_threads(), asdict(settings), rows=[row])
    report.emit(cfg.json, found, table(row), (verdict(row),))
    return 0


def measure(settings: Settings, folder: Path, texts: list[str], device: torch.device) -> dict[str, Any]:
    """All sides on the same texts, and how far their vectors differ, as a JSON object.

    Raises:
        BackendError: the vectors differ, so that the times compare different things.
    """
    from sentence_transformers import SentenceTransformer

    quiet_transformers()
    theirs = SentenceTransformer(str(folder), device=str(device))
    limit = int(theirs.max_seq_length or 512)
    if device.type == "cuda":
        theirs.bfloat16()
    ours = {OURS: embedder(folder, limit, device)}
    ours |= {f"{OURS}, {name}": embedder(folder, limit, device, name) for name in settings.precisions}
    work: dict[str, Callable[[], np.ndarray]] = {name: partial(vectors_of, side, texts) for name, side in ours.items()}
    work[THEIRS] = lambda: np.asarray(
        theirs.encode(texts, batch_size=settings.batch_size, show_progress_bar=False), dtype=np.float32
    )
    vectors = {name: call() for name, call in work.items()}  # which warms all of them
    apart = {name: float(np.abs(found - vectors[THEIRS]).max()) for name, found in vectors.items() if name in ours}
    advice = " Ours are of length 1; of a model without modules of sentence-transformers the mean of the tokens."
    suite.require_agreement(f"vectors of {settings.source}", apart[OURS], device, advice)
    timings = paired(work, settings.rounds, device_clock(device), warmup=0)
    tokens = tokens_of(ours[OURS], texts)
    return {
        "source": settings.source,
        "texts": len(texts),
        "tokens": tokens,
        "max_length": limit,
        "sides": {name: suite.speed(samples, len(texts), "texts") for name, samples in timings.items()},
        "max_difference": apart,
        "ratio": {name: ratio(walls(timings[THEIRS]), walls(timings[name])).to_json() for name in ours},
        "cpu_ratio": {name: ratio(cpus(timings[THEIRS]), cpus(timings[name])).to_json() for name in ours},
    }


def embedder(folder: Path, max_length: int, device: torch.device, precision: str = "auto") -> Embedder:
    """What `index` and `evaluate` encode with, of an encoder as it was published."""
    return Embedder.from_encoder(str(folder), max_length=max_length, device=str(device), precision=precision)


def vectors_of(side: Embedder, texts: Sequence[str]) -> np.ndarray:
    """(N, D) fp32, of length 1, in the order of the texts; tokenising included."""
    found: np.ndarray = side.encode(texts, "document").values.float().cpu().numpy()
    return found


def tokens_of(side: Embedder, texts: Sequence[str]) -> int:
    """Tokens that it reads of these texts."""
    return int(np.sum(side.task.schema.texts(side.tokenizer, texts, "document").lengths))


def read_texts(settings: Settings) -> list[str]:
    """The first `texts` non-empty texts of a column.

    Raises:
        ConfigError: no such column, or no text in it.
    """
    found = readers.read(str(settings.input))
    columns = ", ".join(map(repr, found.columns))
    if settings.column not in found.columns:
        raise ConfigError(f"column={settings.column}: {settings.input} has {columns}.")
    cells = (cell for cell in found.columns[str(settings.column)] if isinstance(cell, str) and cell.strip())
    texts = [cell for cell, _ in zip(cells, range(settings.texts), strict=False)]
    if not texts:
        raise ConfigError(f"column={settings.column} of {settings.input} holds no text.")
    return texts


def generated(folder: Path, count: int, seed: int = 0, words: int = MEDIAN_WORDS) -> list[str]:
    """Texts of whole words of the vocabulary, half of them of more than `words`; by default as short documents."""
    source = np.random.default_rng(seed)
    tokens = load_tokenizer(folder).get_vocab()
    vocabulary = sorted(word for word in tokens if word.isascii() and word.isalpha())
    drawn = source.lognormal(np.log(words), SPREAD, count)
    lengths = np.clip(drawn, FEWEST_WORDS, MOST_WORDS).astype(int)
    return [" ".join(source.choice(vocabulary, length)) for length in lengths]


def table(row: dict[str, Any]) -> Table:
    """A line a side."""
    columns = ["side", "texts/s", "seconds", "CPU s", "ratio", "CPU ratio", "difference"]
    rows = [
        [name, f"{found['texts_per_s']:,.0f}", f"{found['wall_s']:.2f}", f"{found['cpu_s']:.2f}", *beside(row, name)]
        for name, found in row["sides"].items()
    ]
    return console.table(columns, rows, right=columns[1:])


def beside(row: dict[str, Any], name: str) -> list[str]:
    """What one of our sides is to the other library's; nothing for that itself."""
    if name not in row["ratio"]:
        return ["", "", ""]
    ratios = (str(Ratio(**row[key][name])) for key in ("ratio", "cpu_ratio"))
    return [*ratios, f"{row['max_difference'][name]:.1e}"]


def verdict(row: dict[str, Any]) -> str:
    """What was encoded, and what the columns are."""
    mean = row["tokens"] / row["texts"]
    return (
        f"\n{row['texts']:,} texts of {mean:.0f} tokens on average, at most {row['max_length']}; "
        "tokenising included.\n"
        f"Ratios: {THEIRS} over ours, median of rounds (smallest-largest); difference: the largest of a coordinate, "
        "of vectors of length 1."
    )
