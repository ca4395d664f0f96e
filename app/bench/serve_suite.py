"""`modernbert bench serve`: a server that batches beside one that computes each request alone.

Both are whole servers in processes of their own, with the same run; the clients take turns at them.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from app import console
from app.bench import report, suite
from app.bench.encode_suite import generated
from app.bench.http_load import Outcome, load, request_bytes
from app.bench.measure import Ratio, ratio, rotated
from app.bench.server_process import ServerProcess, serving
from modernbert import weights
from modernbert.errors import BackendError, ConfigError
from modernbert.sources import resolve
from tasks.classification import Classification, ClassificationSchema
from tasks.data.readers import Table as Rows
from tasks.run import choose_device, save_run
from ui.ports import free_port

BATCHED, ALONE = "batched", "one at a time"
SIDES = {BATCHED: (), ALONE: ("tokens_per_batch=1", "batch_wait=0")}
#: Questions that both sides are compared on, which also warms them.
COMPARED = 64
FIRST_PORT = 18_100


@dataclass(frozen=True)
class Settings:
    """The keys of conf/bench_serve.yaml but `json`.

    Raises:
        ConfigError: for a value outside its range.
    """

    run: str | None
    clients: list[int]
    seconds: float
    rounds: int
    texts: int
    words: int
    load_clients: int
    load_seconds: float
    device: str
    threads: int | None

    def __post_init__(self) -> None:
        for key in ("seconds", "rounds", "texts", "words", "load_clients"):
            if getattr(self, key) <= 0:
                raise ConfigError(f"{key}={getattr(self, key)}: allowed is a number above 0.")
        if self.load_seconds < 0:
            raise ConfigError(f"load_seconds={self.load_seconds}: allowed is 0 (without this part) or more.")
        if not all(isinstance(count, int) and count > 0 for count in self.clients):
            raise ConfigError(f"clients={self.clients}: allowed are numbers of at least 1.")


@dataclass(frozen=True)
class Turn:
    """What clients saw of a side in one turn, and what it cost the server: CPU seconds and batches."""

    outcome: Outcome
    cpu: float
    batches: float

    @property
    def seconds_each(self) -> float:
        return self.outcome.wall / max(1, len(self.outcome.seconds))

    @property
    def cpu_each(self) -> float:
        return self.cpu / max(1, len(self.outcome.seconds))


def main(cfg: DictConfig) -> int:
    """Measure as configured; returns the exit status."""
    settings = suite.settings_of(Settings, cfg)
    device = choose_device(settings.device)
    with ExitStack() as stack:
        run = Path(settings.run) if settings.run else stack.enter_context(untrained_run())
        texts = generated(run / "model", settings.texts, words=settings.words)
        questions = [request_bytes("/predict", {"inputs": text}) for text in texts]
        servers, startup = start(stack, run, settings)
        difference = compare(servers, texts[:COMPARED], device)
        rows = [level(servers, questions, count, settings) for count in settings.clients]
        found: dict[str, Any] = {"startup": startup, "max_difference": difference, "rows": rows}
        if settings.load_seconds:
            found["load"] = under_load(servers[BATCHED], questions, settings)
    threads = settings.threads or torch.get_num_threads()
    document = report.document("serve", device, threads, asdict(settings), **found)
    report.emit(cfg.json, document, table(rows), remarks(found))
    return 0


@contextmanager
def untrained_run() -> Iterator[Path]:
    """MiniLM with a head of 5 labels that nobody has trained: it is as fast as a trained one."""
    base = resolve("minilm")
    labels = ["a", "b", "c", "d", "e"]
    rows = Rows("none", {"text": labels, "label": labels}, [*range(1, 6)])
    schema = ClassificationSchema.fit(rows, {"text": "text", "label": "label"}, {}, 512)
    with tempfile.TemporaryDirectory(prefix="modernbert-bench-") as folder:
        task = Classification(weights.load_encoder(base), schema)
        save_run(Path(folder), task, base, {}, {"encoder": {"source": "minilm"}})
        yield Path(folder)


def start(stack: ExitStack, run: Path, settings: Settings) -> tuple[dict[str, ServerProcess], dict[str, float]]:
    """A server a side, and the seconds from its command to health, readiness and page (of the first, alone)."""
    words = [f"run={run}", f"device={settings.device}", "limits.waiting=100000"]
    words += [f"threads={settings.threads}"] if settings.threads else []
    servers: dict[str, ServerProcess] = {}
    startup: dict[str, float] = {}
    for side, own in SIDES.items():
        page = "true" if not servers else "false"
        server = stack.enter_context(serving([*words, *own, f"page={page}"], free_port("127.0.0.1", FIRST_PORT)))
        times = {path: server.wait(path) for path in ("/health", "/ready")}
        if page == "true":
            startup = {name: round(seconds, 2) for name, seconds in (times | {"page": server.wait("/")}).items()}
        servers[side] = server
    return servers, startup


def compare(servers: dict[str, ServerProcess], texts: list[str], device: torch.device) -> float:
    """Largest difference of a probability between the sides.

    Raises:
        BackendError: they differ, so that the times compare different things.
    """
    first = json.loads(servers[BATCHED].ask("/predict", {"inputs": texts})[1])
    second = [json.loads(servers[ALONE].ask("/predict", {"inputs": text})[1]) for text in texts]
    differences = [
        abs(a["score"] - {b["label"]: b["score"] for b in theirs}[a["label"]])
        for ours, theirs in zip(first, second, strict=True)
        for a in ours
    ]
    return suite.require_agreement("answers of the two servers", max(differences), device)


def level(
    servers: dict[str, ServerProcess], questions: list[bytes], clients: int, settings: Settings
) -> dict[str, Any]:
    """Both sides with this many clients, in turns, as a JSON object."""
    turns: dict[str, list[Turn]] = {side: [] for side in servers}
    for number in range(settings.rounds):
        for side in rotated(list(servers), number):
            turns[side].append(turn(servers[side], questions, clients, settings.seconds))
    each = {side: [one.seconds_each for one in found] for side, found in turns.items()}
    cpu = {side: [one.cpu_each for one in found] for side, found in turns.items()}
    return {
        "clients": clients,
        "sides": {side: summary(found) for side, found in turns.items()},
        "ratio": ratio(each[ALONE], each[BATCHED]).to_json(),
        "cpu_ratio": ratio(cpu[ALONE], cpu[BATCHED]).to_json(),
    }


def turn(server: ServerProcess, questions: list[bytes], clients: int, seconds: float) -> Turn:
    """One turn of a side.

    Raises:
        BackendError: a question was not answered.
    """
    before = server.numbers()
    outcome = asyncio.run(load(server.port, questions, clients, seconds))
    after = server.numbers()
    if outcome.lost:
        raise BackendError(f"{outcome.lost} of {outcome.sent} questions got no answer: {dict(outcome.statuses)}.")

    def spent(name: str) -> float:
        return sum(value - before.get(key, 0.0) for key, value in after.items() if key.startswith(name))

    return Turn(outcome, spent("process_cpu_seconds_total"), spent("modernbert_batch_texts_count"))


def summary(turns: list[Turn]) -> dict[str, float]:
    """Medians over the rounds."""

    def median(values: list[float], digits: int) -> float:
        return round(statistics.median(values), digits)

    return {
        "answers_per_s": median([one.outcome.rate for one in turns], 1),
        "p50_ms": median([1000 * one.outcome.percentile(0.5) for one in turns], 2),
        "p95_ms": median([1000 * one.outcome.percentile(0.95) for one in turns], 2),
        "cpu_ms": median([1000 * one.cpu_each for one in turns], 2),
        "texts_per_batch": median([len(one.outcome.seconds) / max(1.0, one.batches) for one in turns], 2),
    }


def under_load(server: ServerProcess, questions: list[bytes], settings: Settings) -> dict[str, Any]:
    """Many clients for long: what came back, and how soon."""
    outcome = asyncio.run(load(server.port, questions, settings.load_clients, settings.load_seconds))
    return {
        "clients": settings.load_clients,
        "sent": outcome.sent,
        "lost": outcome.lost,
        "statuses": {str(status): count for status, count in outcome.statuses.items()},
        "answers_per_s": round(outcome.rate, 1),
        **{f"p{share}_ms": round(1000 * outcome.percentile(share / 100), 1) for share in (50, 95, 99)},
        "memory_mb": round(server.numbers()["process_resident_memory_bytes"] / 2**20),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    """A line a side and number of clients."""
    columns = ["clients", "side", "answers/s", "p50 ms", "p95 ms", "CPU ms", "texts a batch", "ratio"]
    lines = [
        [
            str(row["clients"]), side, f"{found['answers_per_s']:,.1f}", f"{found['p50_ms']:.1f}",
            f"{found['p95_ms']:.1f}", f"{found['cpu_ms']:.1f}", f"{found['texts_per_batch']:.1f}",
            str(Ratio(**row["ratio"])) if side == BATCHED else "",
        ]
        for row in rows
        for side, found in row["sides"].items()
    ]  # fmt: skip
    return console.table(columns, lines, right=columns[:1] + columns[2:])


def remarks(found: dict[str, Any]) -> tuple[str, ...]:
    """How it was measured, the start, and the load."""
    times = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in found["startup"].items())
    said = [
        "\nratio: answers a second with batching over one at a time, median of rounds (smallest-largest); "
        f"largest difference of a probability {found['max_difference']:.1e}",
        f"from the command to the first answer: {times}",
    ]
    if "load" in found:
        load = found["load"]
        said.append(
            f"{load['clients']} clients: {load['sent']:,} questions, {load['lost']} lost, {load['answers_per_s']:,.1f} "
            f"answers/s, p50 {load['p50_ms']:,.0f} ms, p95 {load['p95_ms']:,.0f} ms, p99 {load['p99_ms']:,.0f} ms, "
            f"{load['memory_mb']:,} MB"
        )
    return tuple(said)
