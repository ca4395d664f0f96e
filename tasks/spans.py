"""Spans of many sentences as flat tensors: from tags, and one set of spans laid over another.

U units (words, as a rule), B sentences, S spans, L labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.data.entities.tags import TagSet

PREFIXES = "OBIES"
O, B, I, E, S = range(5)  # noqa: E741 (the letters of the scheme)


@dataclass(frozen=True)
class Spans:
    """S spans in order of `row` and `start`, those of one row without overlap; each field is (S,) int64.

    `row` is the sentence's position in its batch, `start` and `end` (exclusive) are characters or any other places
    of it, `label` the number of the label.
    """

    row: Tensor
    start: Tensor
    end: Tensor
    label: Tensor

    def __len__(self) -> int:
        return len(self.row)

    def to(self, device: torch.device | str) -> Spans:
        """The same spans on another device."""
        return Spans(*(part.to(device) for part in (self.row, self.start, self.end, self.label)))

    @classmethod
    def of(cls, rows: Iterable[Iterable[tuple[int, int, str]]], labels: Sequence[str]) -> Spans:
        """From the (start, end, label) of each sentence, sorted as a Table has them."""
        number = {label: i for i, label in enumerate(labels)}
        flat = [(row, a, b, number[label]) for row, spans in enumerate(rows) for a, b, label in spans]
        return cls(*torch.tensor(flat, dtype=torch.int64).reshape(-1, 4).unbind(1))


@dataclass(frozen=True)
class TagTable:
    """What each tag of a TagSet says: its prefix (a position in PREFIXES) and the number of its label, -1 for O."""

    prefix: Tensor  # (tags,)
    label: Tensor  # (tags,)
    closes: bool  # an entity ends with E- or S-, not where the next one begins

    @classmethod
    def of(cls, tags: TagSet) -> TagTable:
        number = {label: i for i, label in enumerate(tags.labels)}
        prefix = [PREFIXES.index(name[0]) for name in tags.names]
        label = [number.get(name[2:], -1) for name in tags.names]
        return cls(torch.tensor(prefix), torch.tensor(label), tags.scheme == "BIOES")


def spans_of(tags: Tensor, cu_units: Tensor, table: TagTable, strict: bool = False) -> Spans:
    """The entities that tags (U,) spell, with `start` and `end` as units counted over the whole batch.

    A run without its B- counts from its first unit, as `TagSet.decode` reads it; with `strict` a run that breaks
    the scheme is no entity, as in seqeval's strict mode.

    Args:
        cu_units: (B+1,) borders of the sentences.
    """
    prefix, label = table.prefix.to(tags.device)[tags], table.label.to(tags.device)[tags]
    row = torch.repeat_interleave(torch.arange(len(cu_units) - 1, device=tags.device), cu_units.diff().long())
    goes_on = torch.zeros(len(tags) + 1, dtype=torch.bool, device=tags.device)  # (U+1,) a unit continues the one before
    inside, opened = (prefix == I) | (prefix == E), (prefix == B) | (prefix == I)
    goes_on[1:-1] = inside[1:] & opened[:-1] & (label[1:] == label[:-1]) & (row[1:] == row[:-1])
    entity = prefix != O
    start = (entity & ~goes_on[:-1]).nonzero().squeeze(1)
    last = (entity & ~goes_on[1:]).nonzero().squeeze(1)
    if strict:
        whole = (prefix[start] == B) | (prefix[start] == S)
        if table.closes:
            whole &= (prefix[last] == E) | (prefix[last] == S)
        start, last = start[whole], last[whole]
    return Spans(row[start], start, last + 1, label[start])


@dataclass(frozen=True)
class Pairs:
    """Gold and predicted spans that belong together, each in one pair at most; all fields (pairs,)."""

    gold: Tensor  # positions in the gold spans
    predicted: Tensor
    same_bounds: Tensor
    same_label: Tensor

    @property
    def exact(self) -> Tensor:
        return self.same_bounds & self.same_label


def pair_up(gold: Spans, predicted: Spans) -> Pairs:
    """Pairs of overlapping spans: equal ones first, then those with equal borders, then with an equal label, then
    with the most places in common.
    """
    # Places of all sentences on one line, so that the spans of each side lie in order without overlap.
    length = 1 + max((int(spans.end.max()) for spans in (gold, predicted) if len(spans)), default=0)
    gold_start, gold_end = gold.row * length + gold.start, gold.row * length + gold.end
    start, end = predicted.row * length + predicted.start, predicted.row * length + predicted.end
    low = torch.searchsorted(gold_end, start, right=True)
    count = (torch.searchsorted(gold_start, end) - low).clamp_min(0)  # gold spans that a predicted one touches
    p = torch.repeat_interleave(torch.arange(len(predicted), device=start.device), count)
    behind = torch.arange(len(p), device=start.device) - (count.cumsum(0) - count)[p]
    g = low[p] + behind
    bounds = (gold_start[g] == start[p]) & (gold_end[g] == end[p])
    label = gold.label[g] == predicted.label[p]
    common = torch.minimum(gold_end[g], end[p]) - torch.maximum(gold_start[g], start[p])
    worth = (2 * bounds.long() + label.long()) * length + common
    order = worth.argsort(descending=True, stable=True)
    chosen = order[one_to_one(g[order], p[order], len(gold), len(predicted))]
    return Pairs(g[chosen], p[chosen], bounds[chosen], label[chosen])


def one_to_one(first: Tensor, second: Tensor, firsts: int, seconds: int) -> Tensor:
    """Positions of the pairs that a greedy choice takes: the best first, no member twice."""
    rank = torch.arange(len(first), device=first.device)
    taken = [rank[:0]]
    while len(rank):
        best_first = rank.new_full((firsts,), len(first)).scatter_reduce(0, first[rank], rank, "amin")
        best_second = rank.new_full((seconds,), len(first)).scatter_reduce(0, second[rank], rank, "amin")
        won = rank[(best_first[first[rank]] == rank) & (best_second[second[rank]] == rank)]
        taken.append(won)
        free = ~(torch.isin(first[rank], first[won]) | torch.isin(second[rank], second[won]))
        rank = rank[free]
    return torch.cat(taken)
