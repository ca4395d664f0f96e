"""`modernbert bench score`: pairs of a query and a document to scores, beside sentence-transformers' CrossEncoder.

Both sides have the same weights; tokenising is included. The cheaper models of `tasks.interaction` may be timed with
them: `poly` encodes everything, `poly kept` finds the vectors of all documents kept, as in a search that asks about
the same documents again.

Dimensions: P pairs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from rich.table import Table as Lines

from app import console
from app.bench import report, suite
from app.bench.encode_suite import generated
from app.bench.measure import Ratio, cpus, device_clock, paired, ratio, walls
from app.bench.quiet import quiet_transformers
from modernbert.config import read_config
from modernbert.errors import ConfigError
from modernbert.sources import resolve
from modernbert.weights import load_encoder, read_tensors
from tasks.data.ranking.lists import read_pairs
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer
from tasks.reranking import KINDS, Reranking
from tasks.reranking_schema import RerankingSchema
from tasks.run import Run, save_run

OURS, THEIRS = "ours", "CrossEncoder"
#: Candidates of each generated query.
CANDIDATES = 20
#: The codes of a poly-encoder with random weights.
CODES = 64


@dataclass(frozen=True)
class Settings:
    """The keys of conf/bench_score.yaml but `json`.

    Raises:
        ConfigError: for a value outside its range.
    """

    source: str
    input: str | None
    pairs: int
    kinds: list[str]
    batch_size: int
    rounds: int
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        suite.require_least_one(self, "pairs", "batch_size", "rounds")
        if wrong := [kind for kind in self.kinds if kind not in KINDS]:
            raise ConfigError(f"kinds={wrong[0]}: allowed are {', '.join(KINDS)}.")


def main(cfg: DictConfig) -> int:
    """Score the pairs on every side in turns; returns the exit status."""
    settings = suite.settings_of(Settings, cfg)
    suite.require_sentence_transformers()
    device, base = suite.begin(settings.device, settings.threads), model_folder(settings.source)
    pairs = read_input(settings) if settings.input else generated_pairs(base, settings.pairs)
    row = measure(settings, base, pairs, device)
    found = report.document("score", device, torch.get_num_threads(), asdict(settings), rows=[row])
    report.emit(cfg.json, found, lines(row), (verdict(row),))
    return 0


def model_folder(source: str) -> Path:
    """The weights of a saved run, or those of an encoder."""
    run = Path(source).expanduser() / "model"
    return run if run.is_dir() else resolve(source)


def measure(settings: Settings, base: Path, pairs: Table, device: torch.device) -> dict[str, Any]:
    """All sides on the same pairs, and how far the scores of the two cross-encoders differ, as a JSON object.

    Raises:
        BackendError: they differ, so that the times compare different things.
    """
    from sentence_transformers import CrossEncoder

    quiet_transformers()
    asked = list(zip(pairs.columns["query"], pairs.columns["document"], strict=True))
    with tempfile.TemporaryDirectory(prefix="modernbert-bench-") as folder:
        ours = cross_encoder(base, Path(folder), device)
        theirs = CrossEncoder(str(Path(folder) / "model"), device=str(device))
    if device.type == "cuda":
        theirs.bfloat16()

    def predict() -> Any:
        return theirs.predict(asked, batch_size=settings.batch_size, show_progress_bar=False)

    work: dict[str, Callable[[], Any]] = {OURS: lambda: scores(ours, pairs), THEIRS: predict}
    difference = float(np.abs(work[OURS]() - np.asarray(predict(), dtype=np.float64)).max())
    suite.require_agreement(f"scores of {settings.source}", difference, device)
    work |= other_kinds(settings.kinds, base, pairs, device)
    # The comparison above has warmed both.
    timings = paired(work, settings.rounds, device_clock(device), warmup=int(len(work) > 2))
    sides = {
        name: suite.speed(samples, len(asked), "pairs")
        | {"ratio": ratio(walls(timings[THEIRS]), walls(samples)).to_json()}
        | {"cpu_ratio": ratio(cpus(timings[THEIRS]), cpus(samples)).to_json()}
        for name, samples in timings.items()
    }
    examples = ours.schema.examples(pairs, ours.tokenizer, "predict")
    return {
        "source": settings.source,
        "pairs": len(asked),
        "queries": len(set(pairs.columns["query"])),
        "tokens": int(examples.lengths.sum()),
        "max_difference": difference,
        "sides": sides,
    }


def scores(run: Run, pairs: Table) -> np.ndarray:
    """(P,) in the order of the pairs."""
    return np.array([score.value for score in run.outputs(pairs)])


def cross_encoder(base: Path, folder: Path, device: torch.device) -> Run:
    """A cross-encoder with these weights and, where they have none, a head drawn at random, saved in `folder`."""
    task = build("cross", base)
    save_run(folder, task, base, {}, {})
    return Run.load(folder, str(device))


def build(kind: str, base: Path) -> Reranking:
    """A model of a kind on these weights; what they have of its head is taken over."""
    torch.manual_seed(0)
    schema = RerankingSchema(read_config(base).max_positions, kind=kind)  # type: ignore[arg-type]
    task = Reranking(load_encoder(base), schema, kind=kind, codes=CODES)  # type: ignore[arg-type]
    task.load_head(read_tensors(base))
    return task


def other_kinds(kinds: Sequence[str], base: Path, pairs: Table, device: torch.device) -> dict[str, Callable[[], Any]]:
    """The cheaper models of the same size, with random heads: their speed does not depend on what they learned."""
    work: dict[str, Callable[[], Any]] = {}

    def run(kind: str) -> Run:
        return Run(base, build(kind, base).to(device), load_tokenizer(base), {})

    if "uni" in kinds:
        uni = run("uni")
        work["uni"] = lambda: scores(uni, pairs)
    if "poly" in kinds:
        cold, kept = run("poly"), run("poly")
        task: Any = cold.task

        def forgetful() -> Any:
            task.kept.vectors.clear()
            return scores(cold, pairs)

        work |= {"poly": forgetful, "poly kept": lambda: scores(kept, pairs)}
    return work


def read_input(settings: Settings) -> Table:
    """The first pairs of a file with candidates."""
    found = Report()
    table = read_pairs(str(settings.input), {}, found)
    found.raise_if_errors()
    return table.select(range(min(settings.pairs, len(table))))


def generated_pairs(base: Path, count: int) -> Table:
    """Pairs of texts made of words: documents of the lengths of short ones, queries of ten words."""
    documents = generated(base, count)
    queries = [" ".join(text.split()[:10]) for text in generated(base, -(-count // CANDIDATES), seed=1)]
    asked = [queries[i // CANDIDATES] for i in range(count)]
    return Table("generated", {"query": asked, "document": documents}, list(range(1, count + 1)))


def lines(row: dict[str, Any]) -> Lines:
    """A line a side."""
    columns = ["side", "pairs/s", "seconds", "CPU s", f"{THEIRS} over it"]
    rows = [
        [name, f"{s['pairs_per_s']:,.0f}", f"{s['wall_s']:.2f}", f"{s['cpu_s']:.2f}", str(Ratio(**s["ratio"]))]
        for name, s in row["sides"].items()
    ]
    return console.table(columns, rows, right=columns[1:])


def verdict(row: dict[str, Any]) -> str:
    """What was scored, the ratios, and how far the scores differ."""
    ours, mean = row["sides"][OURS], row["tokens"] / row["pairs"]
    return (
        f"\n{row['pairs']:,} pairs of {row['queries']:,} queries, {mean:.0f} tokens on average; tokenising included.\n"
        f"{THEIRS} over ours, median of rounds (smallest-largest): wall time {Ratio(**ours['ratio'])}, "
        f"CPU time {Ratio(**ours['cpu_ratio'])}\n"
        f"largest difference of a score: {row['max_difference']:.1e}"
    )
