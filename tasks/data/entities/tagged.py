"""Sentences of words and tags: to a text, the places of its words, and entities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modernbert.errors import DataError
from tasks.data.entities.spans import Checker
from tasks.data.entities.tags import ALLOWED_TAGS, Entity, detect_scheme, is_tag, runs
from tasks.data.entities.words import Span

# More labels without B- and I- are words of another column: entity schemes have some 20, fine ones about 100.
BARE_LABELS = 200


@dataclass
class Tagged:
    """One sentence. `rows` says where a person finds each word; `spaces` whether a space follows each."""

    row: int
    words: Sequence[str]
    tags: Sequence[str]
    rows: Sequence[int] | None = None
    spaces: Sequence[bool] | None = None

    def row_of(self, word: int) -> int:
        return self.row if self.rows is None else self.rows[word]


def layout(words: Sequence[str], spaces: Sequence[bool] | None = None) -> tuple[str, list[Span]]:
    """The words with one space between (none where `spaces` says so), and where each of them is."""
    parts: list[str] = []
    places: list[Span] = []
    at = 0
    for number, word in enumerate(words):
        places.append((at, at + len(word)))
        gap = " " if number + 1 < len(words) and (spaces is None or spaces[number]) else ""
        parts.append(word + gap)
        at += len(word) + len(gap)
    return "".join(parts), places


def tagged_entities(
    sentences: Sequence[Tagged], places: Sequence[Sequence[Span]], checker: Checker
) -> tuple[list[list[Entity]], str]:
    """The entities of each sentence, and the scheme that the source uses.

    Raises:
        DataError: the tags are of no known scheme.
    """
    scheme = detect_scheme(sentence.tags for sentence in sentences)
    if scheme == "IO":
        _check_labels(checker.source, {tag for sentence in sentences for tag in sentence.tags} - {"O"})
    found = []
    for sentence, spans in zip(sentences, places, strict=True):
        tags = sentence.tags
        if scheme != "IO":
            tags = [_known(checker, sentence, number, tag) for number, tag in enumerate(tags)]
        entities = []
        for run in runs(tags, scheme):
            what = f"invalid tags: {run.fault}"
            how = f"read as one {run.label} of {run.stop - run.start} word{'s' * (run.stop - run.start > 1)}"
            mend = "Begin each entity with B-" if scheme == "BIO" else "Tag each entity B-, I-, E- or S-"
            row = sentence.row_of(run.start)
            if run.fault is None or checker.fault("tag-sequence", row, what, how, mend):
                entities.append((spans[run.start][0], spans[run.stop - 1][1], run.label))
        found.append(entities)
    return found, scheme


def _check_labels(source: str, names: set[str]) -> None:
    """Refuse what is no set of labels: numbers, or the words of another column."""
    shown = ", ".join(sorted(map(repr, names))[:3]) + (" …" if len(names) > 3 else "")
    if any(name.isdigit() for name in names):
        raise DataError(f"{source}: the tags are numbers ({shown}); write their names: {ALLOWED_TAGS}")
    if len(names) > BARE_LABELS:
        raise DataError(
            f"{source}: {len(names):,} different tags without a prefix ({shown}): is this the column of tags? "
            f"Allowed: {ALLOWED_TAGS}, or bare labels, {BARE_LABELS} at most"
        )


def _known(checker: Checker, sentence: Tagged, number: int, tag: str) -> str:
    """The tag, or O and an error for one without a prefix among tags that have one."""
    if is_tag(tag):
        return tag
    what = f"{tag!r} (word {number + 1}, {sentence.words[number]!r}) is not a tag"
    checker.error("tag-unknown", sentence.row_of(number), what, f"Allowed: {ALLOWED_TAGS}")
    return "O"
