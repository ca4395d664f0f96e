"""Counters, gauges and histograms in Prometheus' text format (version 0.0.4).

Written out here because it is short, and a client library would be one more thing to install before a server starts.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path

Labels = tuple[str, ...]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Upper bounds: seconds of a request or batch, tokens and texts of a batch.
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class Counter:
    """A number that only rises, for each set of label values."""

    kind = "counter"

    def __init__(self, name: str, about: str, labels: Sequence[str] = ()) -> None:
        self.name, self.about, self.labels = name, about, tuple(labels)
        self.values: dict[Labels, float] = {}
        self.lock = threading.Lock()

    def add(self, *labels: str, by: float = 1) -> None:
        """Raise the number of these label values."""
        with self.lock:
            self.values[labels] = self.values.get(labels, 0.0) + by

    def lines(self) -> Iterator[str]:
        with self.lock:
            values = dict(self.values)
        for labels, value in values.items():
            yield f"{self.name}{written(self.labels, labels)} {number(value)}"


class Gauge:
    """A number that is asked for when the metrics are."""

    kind = "gauge"

    def __init__(self, name: str, about: str, read: Callable[[], float], kind: str = "gauge") -> None:
        self.name, self.about, self.read, self.kind = name, about, read, kind

    def lines(self) -> Iterator[str]:
        yield f"{self.name} {number(self.read())}"


class Histogram:
    """How many observations were at most each bound, for each set of label values."""

    kind = "histogram"

    def __init__(self, name: str, about: str, bounds: Sequence[float], labels: Sequence[str] = ()) -> None:
        self.name, self.about, self.bounds, self.labels = name, about, tuple(bounds), tuple(labels)
        self.counts: dict[Labels, list[int]] = {}
        self.sums: dict[Labels, float] = {}
        self.lock = threading.Lock()

    def observe(self, value: float, *labels: str) -> None:
        """Count a value."""
        at = bisect_left(self.bounds, value)
        with self.lock:
            self.counts.setdefault(labels, [0] * (len(self.bounds) + 1))[at] += 1
            self.sums[labels] = self.sums.get(labels, 0.0) + value

    def lines(self) -> Iterator[str]:
        with self.lock:
            counts = {labels: list(each) for labels, each in self.counts.items()}
            sums = dict(self.sums)
        for labels, each in counts.items():
            bounds = [*map(number, self.bounds), "+Inf"]
            for bound, count in zip(bounds, accumulate(each), strict=True):
                yield f"{self.name}_bucket{written((*self.labels, 'le'), (*labels, bound))} {count}"
            yield f"{self.name}_sum{written(self.labels, labels)} {number(sums[labels])}"
            yield f"{self.name}_count{written(self.labels, labels)} {sum(each)}"


class Metrics:
    """All numbers of a server.

    Args:
        gauges: name -> (what it is, how it is read), beside those of the process.
    """

    def __init__(self, gauges: dict[str, tuple[str, Callable[[], float]]]) -> None:
        self.requests = Counter("modernbert_requests_total", "Requests answered.", ("route", "status"))
        self.request_seconds = Histogram(
            "modernbert_request_seconds", "From the first byte of a request to its answer.", SECONDS, ("route",)
        )
        self.texts = Counter("modernbert_texts_total", "Texts (or pairs) computed.", ("run",))
        self.tokens = Counter("modernbert_tokens_total", "Tokens computed.", ("run",))
        self.cut = Counter("modernbert_truncated_texts_total", "Texts longer than the run reads.", ("run",))
        self.batch_seconds = Histogram("modernbert_batch_seconds", "Computing a batch.", SECONDS, ("run",))
        self.batch_tokens = Histogram("modernbert_batch_tokens", "Tokens of a batch.", TOKENS, ("run",))
        self.batch_texts = Histogram("modernbert_batch_texts", "Texts of a batch.", TEXTS, ("run",))
        own = list(vars(self).values())
        read = [Gauge(name, about, value) for name, (about, value) in gauges.items()]
        self.all: list[Counter | Gauge | Histogram] = [*own, *read, *process()]

    def text(self) -> str:
        """Everything, as Prometheus reads it."""
        lines = []
        for metric in self.all:
            lines += [f"# HELP {metric.name} {metric.about}", f"# TYPE {metric.name} {metric.kind}", *metric.lines()]
        return "\n".join(lines) + "\n"


def process() -> list[Gauge]:
    """What Prometheus' own clients tell of a process, under their names."""
    started = time.time()
    return [
        Gauge("process_start_time_seconds", "When the process started, since 1970.", lambda: started),
        Gauge("process_cpu_seconds_total", "CPU time of all threads.", time.process_time, "counter"),
        Gauge("process_resident_memory_bytes", "Memory held.", resident_bytes),
    ]


def resident_bytes() -> float:
    """Now where the system tells it (Linux), else the most so far."""
    now = Path("/proc/self/statm")
    if now.is_file():
        return int(now.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def written(names: Sequence[str], values: Sequence[str]) -> str:
    """{route="/predict",status="200"}"""
    pairs = (f'{name}="{escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{','.join(pairs)}}}" if names else ""


def escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def number(value: float) -> str:
    """Whole numbers without a point."""
    return str(int(value)) if float(value).is_integer() else repr(float(value))
