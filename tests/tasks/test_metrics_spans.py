"""Span metrics against seqeval's strict mode, and errors counted by hand."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.scheme import IOB2, IOBES

from modernbert.errors import DataError
from tasks.data.entities.tags import TagSet
from tasks.metrics import SpanReport
from tasks.metrics.spans import measures
from tasks.spans import Spans, TagTable, pair_up, spans_of

LABELS = ("PER", "ORG", "LOC")


def random_tags(tag_set: TagSet, sentences: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random tags (U,), invalid sequences among them, and the sentences' borders; O is half of all."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 30, sentences)
    tags = rng.integers(0, len(tag_set.names), lengths.sum()) * (rng.random(lengths.sum()) < 0.5)
    return torch.from_numpy(tags), torch.from_numpy(np.concatenate([[0], lengths.cumsum()]))


def as_lists(tag_set: TagSet, tags: torch.Tensor, cu_units: torch.Tensor) -> list[list[str]]:
    names = [tag_set.names[i] for i in tags.tolist()]
    cut = cu_units.tolist()
    return [names[a:b] for a, b in pairwise(cut)]


def report_of(tag_set: TagSet, predicted: torch.Tensor, gold: torch.Tensor, cu_units: torch.Tensor) -> SpanReport:
    report, table = SpanReport(tag_set.labels), TagTable.of(tag_set)
    lengths = cu_units.diff()
    row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    right = torch.zeros(len(lengths), dtype=torch.int64).index_add(0, row, (predicted == gold).long())
    report.update(
        spans_of(predicted, cu_units, table, strict=True),
        spans_of(gold, cu_units, table, strict=True),
        lengths, right, torch.arange(len(lengths)),
    )  # fmt: skip
    return report


def mixed(gold: torch.Tensor, other: torch.Tensor, share: float, seed: int) -> torch.Tensor:
    keep = torch.rand(len(gold), generator=torch.Generator().manual_seed(seed)) < share
    return torch.where(keep, gold, other)


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_seqeval_strict(scheme: str, seed: int) -> None:
    tag_set = TagSet(LABELS, scheme)
    gold, cu_units = random_tags(tag_set, 200, seed)
    predicted = mixed(gold, random_tags(tag_set, 200, seed)[0].roll(7), 0.7, seed)
    found = report_of(tag_set, predicted, gold, cu_units).compute()
    pair = as_lists(tag_set, gold, cu_units), as_lists(tag_set, predicted, cu_units)
    settings = {"mode": "strict", "scheme": {"BIO": IOB2, "BIOES": IOBES}[scheme], "zero_division": 0}
    for name, oracle in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert found[name] == pytest.approx(oracle(*pair, average="micro", **settings), abs=1e-9)
        each = oracle(*pair, average=None, **settings)
        assert [found[f"{name}/{label}"] for label in sorted(LABELS)] == pytest.approx(list(each), abs=1e-9)
    assert found["f1_macro"] == pytest.approx(f1_score(*pair, average="macro", **settings), abs=1e-9)
    assert found["f1_low"] < found["f1"] < found["f1_high"]


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_spans_are_those_of_the_tag_set(scheme: str) -> None:
    tag_set = TagSet(LABELS, scheme)
    tags, cu_units = random_tags(tag_set, 300, 3)
    found = spans_of(tags, cu_units, TagTable.of(tag_set))
    expected, cut = [], cu_units.tolist()
    for a, b in pairwise(cut):
        expected += tag_set.decode(tags[a:b].tolist(), [(i, i + 1) for i in range(a, b)])
    each = zip(found.start.tolist(), found.end.tolist(), found.label.tolist(), strict=True)
    assert [(a, b, LABELS[label]) for a, b, label in each] == expected


def test_errors_are_those_counted_by_hand() -> None:
    gold = Spans.of([[(0, 2, "PER"), (3, 4, "ORG"), (6, 9, "LOC")], [(0, 1, "PER")], [(5, 6, "LOC")], []], LABELS)
    predicted = Spans.of(
        [
            [(0, 2, "PER"), (3, 4, "LOC"), (7, 9, "LOC")],  # right, wrong type, wrong boundary
            [(0, 2, "ORG")],  # both wrong
            [(1, 2, "PER")],  # spurious, and a LOC missed
            [(0, 1, "ORG")],  # spurious
        ],
        LABELS,
    )
    tokens = torch.tensor([10, 4, 8, 2])
    report = SpanReport(LABELS)
    report.update(predicted, gold, tokens, torch.tensor([8, 2, 6, 1]), torch.arange(4))
    found = report.compute()
    errors = {name: found[name] for name in ("wrong_type", "wrong_boundary", "wrong_both", "missed", "spurious")}
    assert errors == {"wrong_type": 1, "wrong_boundary": 1, "wrong_both": 1, "missed": 1, "spurious": 2}
    assert (found["precision"], found["recall"]) == pytest.approx((1 / 6, 1 / 5))
    assert found["f1"] == pytest.approx(2 / 11)
    assert found["f1_partial"] == pytest.approx(2 * (2 + 0.5 * 2) / 11)
    assert found["f1_type"] == pytest.approx(2 * 2 / 11)
    assert found["token_accuracy"] == pytest.approx(17 / 24)
    rows = {row["label"]: row for row in report.per_class()}
    assert (rows["LOC"]["missed"], rows["LOC"]["wrong_boundary"], rows["ORG"]["wrong_type"]) == (1, 1, 1)
    assert (rows["ORG"]["spurious"], rows["PER"]["spurious"], rows["PER"]["wrong_both"]) == (1, 1, 1)
    assert report.confusion().tolist() == [[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0]]


def test_a_long_span_is_paired_once_and_equal_borders_go_first() -> None:
    gold = Spans.of([[(0, 3, "PER"), (3, 10, "PER")]], LABELS)
    one = pair_up(gold, Spans.of([[(2, 10, "PER")]], LABELS))
    assert (one.gold.tolist(), one.predicted.tolist()) == ([1], [0])  # 7 places in common against 1
    two = pair_up(gold, Spans.of([[(0, 3, "ORG"), (3, 4, "ORG")]], LABELS))
    assert sorted(zip(two.gold.tolist(), two.predicted.tolist(), strict=True)) == [(0, 0), (1, 1)]
    shared = pair_up(Spans.of([[(0, 9, "PER")]], LABELS), Spans.of([[(0, 2, "PER"), (4, 8, "PER")]], LABELS))
    assert (shared.gold.tolist(), shared.predicted.tolist()) == ([0], [1])


def test_batches_and_their_order_change_nothing() -> None:
    tag_set = TagSet(LABELS)
    gold, cu_units = random_tags(tag_set, 60, 5)
    predicted = mixed(gold, random_tags(tag_set, 60, 5)[0].roll(3), 0.8, 5)
    whole = report_of(tag_set, predicted, gold, cu_units).compute()
    report, table, cut = SpanReport(LABELS), TagTable.of(tag_set), cu_units.tolist()
    for i in reversed(range(60)):
        part = slice(cut[i], cut[i + 1])
        borders = torch.tensor([0, cut[i + 1] - cut[i]])
        spans = [spans_of(tags[part], borders, table, strict=True) for tags in (predicted, gold)]
        report.update(*spans, borders[1:], (predicted[part] == gold[part]).sum()[None], torch.tensor([i]))
    assert report.compute() == whole


def test_nothing_found_and_nothing_there() -> None:
    report = SpanReport(LABELS)
    with pytest.raises(DataError, match="no rows"):
        report.compute()
    report = SpanReport(LABELS)
    nothing = Spans.of([[]], LABELS)
    report.update(nothing, Spans.of([[(0, 1, "PER")]], LABELS), torch.tensor([3]), torch.tensor([2]), torch.tensor([0]))
    found = report.compute()
    assert (found["f1"], found["precision"], found["recall"], found["missed"]) == (0.0, 0.0, 0.0, 1)
    assert found["f1/ORG"] is None


def test_faster_than_seqeval_by_twenty() -> None:
    """What seqeval gives, from tags to F1: the intervals, which it has not, are beside the comparison."""
    tag_set = TagSet(LABELS)
    gold, cu_units = random_tags(tag_set, 3000, 1)
    gold[torch.rand(len(gold), generator=torch.Generator().manual_seed(1)) < 0.7] = 0  # as many O as real text has
    predicted = mixed(gold, gold.roll(11), 0.8, 1)
    pair = as_lists(tag_set, gold, cu_units), as_lists(tag_set, predicted, cu_units)
    report, table = SpanReport(LABELS), TagTable.of(tag_set)

    def ours() -> float:
        spans = [spans_of(tags, cu_units, table, strict=True) for tags in (predicted, gold)]
        lengths = cu_units.diff()
        counts = report.sentence_counts(*spans, pair_up(spans[1], spans[0]), lengths, lengths)
        return float(measures(counts.sum(0).numpy(), len(LABELS))["f1"])

    spent = {}
    for name, score in {"ours": ours, "seqeval": lambda: f1_score(*pair, mode="strict", scheme=IOB2)}.items():
        times = []
        for _ in range(5):  # the fastest of five: a shared machine stalls now and then
            started = time.perf_counter()
            value = score()
            times.append(time.perf_counter() - started)
        spent[name] = (min(times), value)
    assert spent["ours"][1] == pytest.approx(spent["seqeval"][1], abs=1e-9)
    ratio = spent["seqeval"][0] / spent["ours"][0]
    print(f"{1000 * spent['ours'][0]:.0f} ms, seqeval {1000 * spent['seqeval'][0]:.0f} ms: {ratio:.0f} times")
    assert ratio > 20
