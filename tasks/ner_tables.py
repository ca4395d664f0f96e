"""What a person reads of named entities: predictions beside the right answers, and errors in their context."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tasks.answers import Span
from tasks.data.readers import Table
from tasks.metrics import WorstErrors
from tasks.spans import Pairs, Spans
from tasks.tagged import TaggedBatch

if TYPE_CHECKING:
    from tasks.ner import Reading

#: Characters of context on each side of an error.
CONTEXT = 50
NOTHING: tuple[()] = ()


def mean_over(values: Tensor, starts: Tensor, ends: Tensor) -> Tensor:
    """Mean (S,) of values (W,) over each range [start, end)."""
    sums = torch.cat([values.new_zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    return ((sums[ends] - sums[starts]) / (ends - starts)).float()


def add_errors(worst: WorstErrors, reading: Reading, batch: TaggedBatch, pairs: Pairs, labels: Sequence[str]) -> None:
    """Every wrong, invented and missed entity of a batch, by how sure the model was of it.

    How sure is the mean probability of the predicted tags: over the predicted entity, or over the missed one.
    """
    gold, found = batch.gold, reading.found
    assert gold is not None
    sure = mean_over(reading.sure, reading.words.start, reading.words.end).tolist()
    golds, founds, rows = as_tuples(gold, labels), as_tuples(found, labels), batch.index.tolist()
    gold_rows, found_rows = gold.row.tolist(), found.row.tolist()
    wrong = ~pairs.exact
    for g, p in zip(pairs.gold[wrong].tolist(), pairs.predicted[wrong].tolist(), strict=True):
        worst.add(sure[p], founds[p], golds[g], rows[gold_rows[g]])
    for p in set(range(len(founds))) - set(pairs.predicted.tolist()):
        worst.add(sure[p], founds[p], NOTHING, rows[found_rows[p]])
    missed = sorted(set(range(len(golds))) - set(pairs.gold.tolist()))
    if missed:
        places = word_ranges(gold, missed, batch)
        for g, (start, end) in zip(missed, places, strict=True):
            certain = float(reading.sure[start:end].mean()) if end > start else 0.0
            worst.add(certain, NOTHING, golds[g], rows[gold_rows[g]])


def word_ranges(spans: Spans, chosen: Sequence[int], batch: TaggedBatch) -> list[tuple[int, int]]:
    """The words [start, end) of the batch that lie in each of the chosen spans of characters."""
    cu_words, bounds = (part.tolist() for part in batch.words())
    found = []
    for i in chosen:
        row, start, end = int(spans.row[i]), int(spans.start[i]), int(spans.end[i])
        inside = [w for w in range(cu_words[row], cu_words[row + 1]) if start <= bounds[w][0] and bounds[w][1] <= end]
        found.append((inside[0], inside[-1] + 1) if inside else (0, 0))
    return found


def as_tuples(spans: Spans, labels: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, label) of each span."""
    columns = (spans.start.tolist(), spans.end.tolist(), spans.label.tolist())
    return [(start, end, labels[label]) for start, end, label in zip(*columns, strict=True)]


def error_columns(errors: Sequence[Mapping[str, Any]], table: Table) -> dict[str, list[Any]]:
    """worst_errors.csv: what kind of error, what is right, what was predicted, and the text around it."""
    texts = table.columns["text"]
    return {
        "row": table.rows,
        "sure": [round(error["loss"], 4) for error in errors],
        "error": [kind(error["gold"], error["predicted"]) for error in errors],
        "right": [said(text, error["gold"]) for text, error in zip(texts, errors, strict=True)],
        "predicted": [said(text, error["predicted"]) for text, error in zip(texts, errors, strict=True)],
        "context": [context(t, e["gold"] or e["predicted"]) for t, e in zip(texts, errors, strict=True)],
    }


def kind(gold: Sequence[Any], predicted: Sequence[Any]) -> str:
    """The error in words."""
    if not predicted:
        return "missed"
    if not gold:
        return "spurious"
    if gold[:2] == predicted[:2]:
        return "wrong type"
    return "wrong boundary" if gold[2] == predicted[2] else "wrong type and boundary"


def said(text: str, span: Sequence[Any]) -> str:
    """A span as `Hanna Virtanen (PERSON)`."""
    return f"{text[span[0] : span[1]]} ({span[2]})" if span else ""


def context(text: str, span: Sequence[Any]) -> str:
    """The text around a span, which stands in brackets; in one line."""
    start, end = span[0], span[1]
    before = ("…" if start > CONTEXT else "") + text[max(0, start - CONTEXT) : start]
    after = text[end : end + CONTEXT] + ("…" if end + CONTEXT < len(text) else "")
    return " ".join(f"{before}[{text[start:end]}]{after}".split())


def readable(table: Table, outputs: Sequence[Sequence[Span]]) -> Table:
    """The rows for predictions.csv, with `row`, `right`, `predicted` and whether these are `equal`.

    Their text and entities can be read again as labelled rows.
    """
    texts = table.columns["text"]
    golds = [[tuple(span) for span in spans] for spans in table.columns["entities"]]
    found = [places(spans) for spans in outputs]
    columns = {name: values for name, values in table.columns.items() if name != "words"} | {
        "row": table.rows,
        "right": [listed(text, spans) for text, spans in zip(texts, golds, strict=True)],
        "predicted": [listed(text, spans) for text, spans in zip(texts, found, strict=True)],
        "equal": [gold == spans for gold, spans in zip(golds, found, strict=True)],
    }
    return Table(table.source, columns, table.rows, table.notes)


def places(spans: Iterable[Span]) -> list[tuple[int, int, str]]:
    """(start, end, label) of each span."""
    return [(span.start, span.end, span.label) for span in spans]


def listed(text: str, spans: Iterable[Sequence[Any]]) -> str:
    """Spans as a person reads them."""
    return "; ".join(said(text, span) for span in spans)
