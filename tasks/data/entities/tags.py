"""Tag schemes: which one a file uses, tags to entities and back.

IOB1, BIO (IOB2), BIOES and its spellings BILOU and BMES, and IO (bare labels). Dimensions: W words, L tags.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from modernbert.errors import ConfigError, DataError
from tasks.data.entities.words import Span

Entity = tuple[int, int, str]  # characters [start, end) of the text, label
Scheme = Literal["IO", "IOB1", "BIO", "BIOES"]
SCHEMES = ("BIO", "BIOES")
TAG = re.compile(r"([BIESLUM])-(.+)")
PLAIN = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
ALLOWED_TAGS = "O, or B-, I- (with E-, S- or L-, U-) before the label, such as B-PERSON"


@dataclass(frozen=True)
class Run:
    """Words [start, stop) that tags call one entity; `fault` is why they break the scheme, if they do."""

    start: int
    stop: int
    label: str
    fault: str | None = None


@dataclass(frozen=True)
class TagSet:
    """The tags of a model: O, then for each label those of the scheme, in a fixed order.

    Raises:
        ConfigError: an unknown scheme; a label that is empty or given twice.
    """

    labels: tuple[str, ...]
    scheme: Literal["BIO", "BIOES"] = "BIO"

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise ConfigError(f"task.scheme={self.scheme}: allowed are {' and '.join(SCHEMES)}")
        if not all(self.labels) or len(set(self.labels)) != len(self.labels):
            raise ConfigError(f"entity labels {list(self.labels)}: each must be there once and not be empty")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """(L,) the tag of each id, `id2label` of the checkpoint."""
        prefixes = "BI" if self.scheme == "BIO" else "BIES"
        return ("O", *(f"{prefix}-{label}" for label in self.labels for prefix in prefixes))

    @cached_property
    def ids(self) -> dict[str, int]:
        """The id of each tag."""
        return {name: number for number, name in enumerate(self.names)}

    @cached_property
    def inside(self) -> tuple[int, ...]:
        """(L,) the tag of the further sub-words of a word: I-X after B-X, else its own."""
        return tuple(self.ids[f"I-{name[2:]}"] if name[:2] == "B-" else i for i, name in enumerate(self.names))

    def encode(self, entities: Iterable[Entity], words: Sequence[Span]) -> npt.NDArray[np.int64]:
        """(W,) tag ids of entities that begin and end with a word.

        Raises:
            DataError: an entity that does not, that overlaps another, or has an unknown label.
        """
        tags = np.zeros(len(words), dtype=np.int64)
        for entity in entities:
            found = words_of(entity, words)
            if found is None:
                raise DataError(f"entity {entity} does not begin and end with a word: read it by read_entities")
            if entity[2] not in self.labels:
                raise DataError(f"entity {entity} has a label that is not among {', '.join(self.labels)}")
            start, stop = found
            if tags[start:stop].any():
                raise DataError(f"entity {entity} overlaps another: read it by read_entities")
            tags[start:stop] = [self.ids[tag] for tag in run_tags(stop - start, entity[2], self.scheme)]
        return tags

    def decode(self, ids: Iterable[int], words: Sequence[Span]) -> list[Entity]:
        """Entities of (W,) tag ids; a run without its B- counts from its first word, as in conlleval."""
        tags = [self.names[number] for number in ids]
        if len(tags) != len(words):
            raise DataError(f"{len(tags)} tags for {len(words)} words: give one for each")
        return [(words[run.start][0], words[run.stop - 1][1], run.label) for run in runs(tags, self.scheme)]

    def transitions(self) -> npt.NDArray[np.bool_]:
        """(L + 1, L + 1) which tag may follow which; the last row is the start, the last column the end."""
        heads = [_split(name) for name in self.names]
        closed = [prefix in "OSE" or (prefix in "BI" and self.scheme == "BIO") for prefix, _ in heads]
        table = np.zeros((len(heads) + 1, len(heads) + 1), dtype=bool)
        for j, (prefix, label) in enumerate(heads):
            inside = prefix in "IE"
            table[-1, j] = not inside
            for i, (before, label_before) in enumerate(heads):
                table[i, j] = (before in "BI" and label_before == label) if inside else closed[i]
        table[:-1, -1] = closed
        return table


def words_of(entity: Entity, words: Sequence[Span]) -> tuple[int, int] | None:
    """The words [start, stop) that an entity is made of; None where a word is cut or it has none."""
    start = bisect_left(words, entity[0], key=lambda word: word[0])
    stop = bisect_left(words, entity[1], key=lambda word: word[1]) + 1
    if start >= stop or stop > len(words) or (words[start][0], words[stop - 1][1]) != entity[:2]:
        return None
    return start, stop


def run_tags(length: int, label: str, scheme: Literal["BIO", "BIOES"]) -> list[str]:
    """The tags of an entity of `length` words."""
    if scheme == "BIO":
        return [f"B-{label}"] + [f"I-{label}"] * (length - 1)
    if length == 1:
        return [f"S-{label}"]
    return [f"B-{label}", *[f"I-{label}"] * (length - 2), f"E-{label}"]


def detect_scheme(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme of a whole file; O and nothing else counts as BIO.

    IOB1 and BIO differ in how an entity begins that does not follow one of its own label: the majority of
    these decides, and the others are then faults (in BIO) or harmless (in IOB1).
    """
    begins = {"B": 0, "I": 0}
    bare = tagged = False
    for tags in sentences:
        before = ""
        for tag in tags:
            prefix, label = _split(tag)
            if prefix in ("E", "S"):
                return "BIOES"
            tagged = tagged or TAG.fullmatch(tag) is not None
            bare = bare or (tag != "O" and TAG.fullmatch(tag) is None)
            if prefix in begins and label != before:
                begins[prefix] += 1
            before = label
    if bare and not tagged:
        return "IO"
    return "IOB1" if begins["I"] > begins["B"] else "BIO"


def runs(tags: Sequence[str], scheme: Scheme) -> list[Run]:
    """The entities of a sentence, faulty ones too: each read as the longest run of one label."""
    found: list[Run] = []
    start, label, fault = 0, "", None  # of the open entity; none is open while label is empty

    def close(stop: int, complete: bool) -> None:
        nonlocal label
        if label:
            unclosed = None if complete or scheme != "BIOES" else f"{tags[stop - 1]} is not followed by E-{label}"
            found.append(Run(start, stop, label, fault or unclosed))
        label = ""

    for position, tag in enumerate(tags):
        prefix, new = _split(tag)
        continues = prefix in ("I", "E") and new == label
        if not continues:
            close(position, complete=False)
            if prefix == "O":
                continue
            before = tags[position - 1] if position else "the start of the sentence"
            orphan = prefix in ("I", "E") and scheme in ("BIO", "BIOES")
            start, label, fault = position, new, f"{tag} follows {before}" if orphan else None
        if prefix in ("E", "S"):
            close(position + 1, complete=True)
    close(len(tags), complete=False)
    return found


def is_tag(tag: str) -> bool:
    """O, or a prefix and a label."""
    return tag == "O" or TAG.fullmatch(tag) is not None


def _split(tag: str) -> tuple[str, str]:
    """("B", "PERSON") of B-PERSON; L, U, M in the letters of BIOES; a bare label is I-."""
    if tag == "O":
        return "O", ""
    match = TAG.fullmatch(tag)
    return (PLAIN[match[1]], match[2]) if match else ("I", tag)
