"""Character spans as people's files have them, made true: trimmed, repaired or dropped, and told."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from modernbert.errors import ConfigError
from tasks.data.entities.tags import Entity, words_of
from tasks.data.entities.words import Span
from tasks.data.schema import Problem, Report

Repair = Literal["repair", "drop", "error"]
REPAIRS = ("repair", "drop", "error")
COUNTING = "Count characters from 0; the end is the place after the last character"


@dataclass(frozen=True)
class RawSpan:
    """A span of a file: `number` from 1 within its row; `said` is the text that the file gives for it, if any."""

    number: int
    start: int
    end: int
    label: str
    said: str | None = None

    def __str__(self) -> str:
        return f"span {self.number} ({self.start}, {self.end}, {self.label!r})"


class Checker:
    """Turns raw spans of one source into entities; what it changes or leaves out goes into the report.

    With `repair`, what can be mended is and the rest is dropped; with `drop`, each faulty span is dropped;
    with `error`, each is an error that stops training.

    Raises:
        ConfigError: another word for `repair`.
    """

    def __init__(self, source: str, column: str, report: Report, repair: Repair) -> None:
        if repair not in REPAIRS:
            raise ConfigError(f"data.repair={repair}: allowed are {', '.join(REPAIRS)}")
        self.source, self.column, self.report, self.repair = source, column, report, repair

    def fault(self, code: str, row: int, what: str, repaired: str | None, mend: str, dropped: str = "dropped") -> bool:
        """Report a fault; `repaired` says how it can be mended. True if it is to be mended so."""
        if self.repair == "error":
            self.report.add(Problem("error", code, self.source, row, self.column, what, mend))
            return False
        mending = self.repair == "repair" and repaired is not None
        what = f"{what}: {repaired if mending else dropped}"
        self.report.add(Problem("warning", code, self.source, row, self.column, what, mend))
        return mending

    def error(self, code: str, row: int, what: str, mend: str) -> None:
        """Report what no setting makes good."""
        self.report.add(Problem("error", code, self.source, row, self.column, what, mend))

    def entities(self, row: int, text: str, raw: Sequence[RawSpan], words: Sequence[Span]) -> list[Entity]:
        """Entities of a text: sorted, within it, none empty or overlapping, each of whole words."""
        found: list[tuple[RawSpan, Entity]] = []
        for span in raw:
            entity = self._inside(row, text, span)
            entity = entity and self._said(row, text, span, entity)
            entity = entity and self._trimmed(row, text, span, entity)
            entity = entity and self._whole_words(row, text, span, entity, words)
            if entity:
                found.append((span, entity))
        return self._apart(row, text, found)

    def _inside(self, row: int, text: str, span: RawSpan) -> Entity | None:
        """Within the text and not empty."""
        start, end, size = span.start, span.end, len(text)
        if 0 <= start < end <= size:
            return start, end, span.label
        if start == end:
            self.fault("span-empty", row, f"{span} is empty", None, COUNTING)
        elif start > end:
            self.fault("span-out-of-text", row, f"{span} ends before it starts", None, COUNTING)
        elif start < 0 or start >= size:
            what = f"{span} lies outside the text of {size} characters"
            self.fault("span-out-of-text", row, what, None, COUNTING)
        else:
            what = f"{span} ends after the text of {size} characters"
            if self.fault("span-out-of-text", row, what, f"cut to ({start}, {size})", COUNTING):
                return start, size, span.label
        return None

    def _said(self, row: int, text: str, span: RawSpan, entity: Entity) -> Entity | None:
        """At the text that the file gives for the span, where it gives one."""
        start, end, label = entity
        said = span.said
        if said is None or text[start:end] == said or text[start:end].strip() == said.strip():
            return entity
        what = f"{span} is {_quoted(text[start:end])} but its own text says {_quoted(said)}"
        places = [match.start() for match in re.finditer(f"(?={re.escape(said)})", text)] if said else []
        at = min(places, key=lambda place: abs(place - start), default=None)
        if at is None:
            self.fault("span-other-text", row, what, None, COUNTING)
            return None
        if self.fault("span-other-text", row, what, f"moved to ({at}, {at + len(said)})", COUNTING):
            return at, at + len(said), label
        return None

    def _trimmed(self, row: int, text: str, span: RawSpan, entity: Entity) -> Entity | None:
        """Without white space at its ends."""
        start, end, label = entity
        inner = text[start:end]
        begin = start + len(inner) - len(inner.lstrip())
        stop = end - len(inner) + len(inner.rstrip())
        if (begin, stop) == (start, end):
            return entity
        mend = "Mark the words without the white space around them"
        if begin >= stop:
            self.fault("span-empty", row, f"{span} is only white space", None, mend)
            return None
        what = f"{span} has white space around it: {_quoted(inner)}"
        if self.fault("span-white-space", row, what, f"trimmed to ({begin}, {stop})", mend):
            return begin, stop, label
        return None

    def _whole_words(self, row: int, text: str, span: RawSpan, entity: Entity, words: Sequence[Span]) -> Entity | None:
        """From the start of a word to the end of one: words are what is tagged."""
        if words_of(entity, words) is not None:
            return entity
        start, end, label = entity
        first = bisect_right(words, start, key=lambda word: word[1])
        stop = bisect_left(words, end, key=lambda word: word[0])
        mend = "Mark whole words"
        if first >= stop:
            what = f"{span} has no word: {_quoted(text[start:end])}"
            self.fault("span-empty", row, what, None, mend)
            return None
        begin, finish = words[first][0], words[stop - 1][1]
        what = f"{span} cuts a word: {_quoted(text[start:end])}"
        how = f"set to ({begin}, {finish}), {_quoted(text[begin:finish])}"
        if self.fault("span-cuts-word", row, what, how, mend):
            return begin, finish, label
        return None

    def _apart(self, row: int, text: str, found: list[tuple[RawSpan, Entity]]) -> list[Entity]:
        """Of spans that overlap the longest stays, of equal ones the first."""
        kept: list[tuple[RawSpan, Entity]] = []
        for span, entity in sorted(found, key=lambda item: item[1][0] - item[1][1]):
            rival = next((r for r, other in kept if entity[0] < other[1] and other[0] < entity[1]), None)
            if rival is None:
                kept.append((span, entity))
                continue
            same = (span.start, span.end, span.label) == (rival.start, rival.end, rival.label)
            code, verb = ("span-twice", "is given twice, as") if same else ("span-overlap", "overlaps")
            mend = "Remove one" if same else "Keep one of them: a word has one label here"
            self.fault(code, row, f"{span} {verb} span {rival.number}", None, mend)
        return sorted(entity for _, entity in kept)


def _quoted(text: str, length: int = 40) -> str:
    return repr(text if len(text) <= length else text[: length - 1] + "…")
