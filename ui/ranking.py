"""How documents look that a run put in order: rank, score, the passage that matches, warm words, a place before."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from tasks.search.heat import Heat
from ui.markup import escape, percent, table

#: Characters shown around a matching passage, and of a text without one; the whole text unfolds.
AROUND, SHOWN = 160, 300


@dataclass(frozen=True)
class Ranked:
    """A document in its place.

    Args:
        passage: where in `text` the part is that answers the query best.
        before: its rank in the ranking that this one was made of; 0 where it was not in sight.
    """

    id: str
    text: str
    score: float
    passage: tuple[int, int] | None = None
    heat: Heat | None = None
    before: int | None = None
    cut: bool = False


def ranking(rows: Sequence[Ranked], label: str, probability: bool = False) -> str:
    """A numbered list of documents.

    Args:
        label: what a screen reader calls it.
        probability: whether scores are shares, to be drawn as bars.
    """
    if not rows:
        return '<p class="quiet">Nothing was found.</p>'
    items = "".join(item(rank, row, probability) for rank, row in enumerate(rows, start=1))
    return f'<ol class="hits" aria-label="{escape(label)}">{items}</ol>'


def item(rank: int, row: Ranked, probability: bool) -> str:
    score = percent(row.score) if probability else f"{row.score:.3f}"
    bar = ""
    if probability:
        bar = (
            f'<span class="track" role="meter" aria-label="score" aria-valuemin="0" aria-valuemax="1" '
            f'aria-valuenow="{row.score:.6f}"><span class="fill" style="width: {100 * row.score:.2f}%"></span></span>'
        )
    cut = '<p class="quiet">Longer than this run reads: its end was left out.</p>' if row.cut else ""
    return (
        f'<li><div class="head"><span class="rank">{rank}</span><span class="name">{escape(row.id)}</span>'
        f'{moved(rank, row.before)}<span class="share">{score}</span></div>{bar}{body(row)}{cut}</li>'
    )


def moved(rank: int, before: int | None) -> str:
    """Where a document stood before."""
    if before is None:
        return ""
    if not before:
        return '<span class="moved up">▲ new</span>'
    arrow, way = ("▲", "up") if before > rank else ("▼", "down") if before < rank else ("=", "same")
    return f'<span class="moved {way}">{arrow} was {before}</span>'


def body(row: Ranked) -> str:
    """The passage with what is around it, the whole text to unfold, and which words met."""
    text = row.text
    start, end = row.passage or (0, 0)
    low = word_border(text, start - AROUND)[1]
    high = word_border(text, end + AROUND if row.passage else SHOWN)[0]
    pieces = [warm(row, low, start), warm(row, start, end), warm(row, end, high)]
    if row.passage:
        pieces[1] = f'<mark class="passage">{pieces[1]}</mark>'
    shown = f"{'… ' if low else ''}{''.join(pieces)}{' …' if high < len(text) else ''}"
    whole = ""
    if low or high < len(text):
        whole = f"<details><summary>Whole text</summary><p>{warm(row, 0, len(text))}</p></details>"
    return f'<p class="found">{shown}</p>{whole}{meetings(row.heat)}'


def word_border(text: str, place: int) -> tuple[int, int]:
    """The next white space from here on: where it begins and ends."""
    found = re.compile(r"\s+|$").search(text, place) if place > 0 else None
    return found.span() if found else (0, 0)


def warm(row: Ranked, low: int, high: int) -> str:
    """Characters [low, high) of a document as HTML, its words tinted by how near a word of the query comes."""
    if row.heat is None:
        return escape(row.text[low:high])
    scores = [score for token, _, score in row.heat.warm if not token.special]
    coldest, range_ = min(scores, default=0.0), (max(scores, default=0.0) - min(scores, default=0.0)) or 1.0
    parts, at = [], low
    for token, asked, score in row.heat.warm:
        if token.special or token.start < at or token.end > high:
            continue
        parts.append(escape(row.text[at : token.start]))
        # Squared: cosines lie close together, and only the nearest words mean something.
        strength = ((score - coldest) / range_) ** 2
        parts.append(
            f'<span class="warm" style="--strength: {strength:.2f}" title="{escape(asked.text)} {score:.2f}">'
            f"{escape(token.text)}</span>"
        )
        at = token.end
    return "".join([*parts, escape(row.text[at:high])])


def meetings(heat: Heat | None) -> str:
    """Which word of the document each word of the query met."""
    if heat is None:
        return ""
    rows = [(asked.text, met.text, f"{score:.2f}") for asked, met, score in heat.met]
    drawn = table("Which words met", ["query", "document", "cosine"], rows)
    return f"<details><summary>Which words met</summary>{drawn}</details>"


def place_of(text: str, passage: str) -> tuple[int, int] | None:
    """Where a passage stands in its text, whose white space may differ (`tasks.search.passage`); None of a short text
    that is one passage."""
    words = passage.removeprefix("… ").removesuffix(" …").split()
    found = re.search(r"\s+".join(map(re.escape, words)), text) if words else None
    return found.span() if found and found.end() - found.start() < len(text.strip()) else None


def sides(columns: Sequence[tuple[str, str]]) -> str:
    """HTML side by side where there is room, each under its heading."""
    inside = "".join(f"<section><h3>{escape(title)}</h3>{content}</section>" for title, content in columns)
    return f'<div class="sides">{inside}</div>'
