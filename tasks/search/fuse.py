"""One ranking of several: reciprocal rank fusion (Cormack, Clarke and Büttcher 2009)."""

from __future__ import annotations

from collections.abc import Sequence

#: The paper's constant: how little the very first ranks weigh above the next.
CONSTANT = 60

#: Document ids with their scores, the best first.
Ranking = list[tuple[str, float]]


def fuse(rankings: Sequence[Ranking], k: int) -> Ranking:
    """The k best by the sum of 1 / (60 + rank) over the rankings that name a document.

    Scores of the rankings are not looked at: they may be on any scale. Equal sums are ordered by the best rank, then
    by id.
    """
    sums: dict[str, float] = {}
    best: dict[str, int] = {}
    for ranking in rankings:
        for rank, (name, _) in enumerate(ranking, start=1):
            sums[name] = sums.get(name, 0.0) + 1 / (CONSTANT + rank)
            best[name] = min(best.get(name, rank), rank)
    ordered = sorted(sums, key=lambda name: (-sums[name], best[name], name))
    return [(name, sums[name]) for name in ordered[:k]]
