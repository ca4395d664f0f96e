"""The numbers as Prometheus' own parser reads them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from server_runs import TEXTS, client_of, save_classifier, settings

from app.server.context import Context
from app.server.metrics import Counter, Gauge, Histogram, Metrics

parser = pytest.importorskip("prometheus_client.parser")


def read(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = list(parser.text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def test_text_format() -> None:
    metrics = Metrics({"modernbert_answer": ("Forty-two.", lambda: 42.0)})
    metrics.requests.add('/a"b\\c\nd', "200")
    metrics.requests.add('/a"b\\c\nd', "200", by=2)
    for value in (0.001, 0.002, 0.0021, 99.0):
        metrics.request_seconds.observe(value, "/x")
    found = read(metrics.text())
    assert found["modernbert_requests_total", frozenset({("route", '/a"b\\c\nd'), ("status", "200")})] == 3
    assert found["modernbert_answer", frozenset()] == 42
    buckets = {dict(labels)["le"]: value for (name, labels), value in found.items() if name.endswith("seconds_bucket")}
    assert (buckets["0.002"], buckets["0.005"], buckets["30"], buckets["+Inf"]) == (2, 3, 3, 4)
    assert found["modernbert_request_seconds_count", frozenset({("route", "/x")})] == 4
    assert found["modernbert_request_seconds_sum", frozenset({("route", "/x")})] == pytest.approx(99.0051)
    assert 10e6 < found["process_resident_memory_bytes", frozenset()] < 100e9
    assert found["process_cpu_seconds_total", frozenset()] > 0


@pytest.mark.parametrize("metric", [Counter("a", "b"), Gauge("a", "b", lambda: 1.0), Histogram("a", "b", (1,))])
def test_kinds_are_those_of_prometheus(metric: Counter | Gauge | Histogram) -> None:
    assert metric.kind in ("counter", "gauge", "histogram")


def test_a_server_counts_what_it_computes(tmp_path: Path, tiny_encoder: Callable[[str], Path]) -> None:
    run = save_classifier(tmp_path / "teams", tiny_encoder("bert"), ["a", "b"])
    with client_of(Context(settings(run))) as client:
        client.post("/predict", json={"inputs": [TEXTS[0], TEXTS[0], "where is my order please " * 10]})
        reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = read(reply.text)
    teams = frozenset({("run", "teams")})
    assert found["modernbert_texts_total", teams] == 3
    assert found["modernbert_tokens_total", teams] == 2 * 8 + 24
    assert found["modernbert_truncated_texts_total", teams] == 1
    assert found["modernbert_batch_texts_count", teams] == 1
    assert found["modernbert_requests_total", frozenset({("route", "/predict"), ("status", "200")})] == 1
    assert (found["modernbert_ready", frozenset()], found["modernbert_waiting_tokens", frozenset()]) == (1, 0)
