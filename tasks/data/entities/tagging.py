"""From the entities of texts to the tag of each word, and back, where the tokenizer may drop words.

A word without a sub-word (a lone control character, a lone variation selector in WordPiece) can get no
prediction. It is O, and an entity that runs over it does not end there. Dimensions: N texts, W words of all.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import numpy as np

from modernbert.errors import DataError
from tasks.data.entities.align import IntArray, WordTokens
from tasks.data.entities.tags import Entity, TagSet
from tasks.data.entities.words import Span

WordLists = Sequence[Sequence[Span]]


def encode_tags(
    tags: TagSet, tokens: WordTokens, words: WordLists, entities: Sequence[Sequence[Entity]]
) -> tuple[IntArray, list[tuple[int, Entity]]]:
    """(W,) tag ids, and (text, entity) of those that no prediction can give back.

    These begin or end with a word that the tokenizer drops; the words that it reads are tagged nevertheless.

    Raises:
        DataError: an entity that does not begin and end with a word, overlaps another, or whose label is unknown.
    """
    _check(tokens, words)
    ids = np.zeros(len(tokens.word_tokens), dtype=np.int64)
    lost: list[tuple[int, Entity]] = []
    for text, (spans, found) in enumerate(zip(words, entities, strict=True)):
        if not found:
            continue
        here = slice(tokens.word_offsets[text], tokens.word_offsets[text + 1])
        is_read = tokens.word_tokens[here] >= 0
        if is_read.all():
            ids[here] = tags.encode(found, spans)
            continue
        tags.encode(found, spans)  # its checks
        read = [span for span, there in zip(spans, is_read, strict=True) if there]
        seen = [(entity, _read_part(entity, read)) for entity in found]
        ids[here][is_read] = tags.encode([part for _, part in seen if part], read)
        lost += [(text, entity) for entity, part in seen if part != entity]
    return ids, lost


def decode_tags(tags: TagSet, tokens: WordTokens, words: WordLists, ids: IntArray) -> list[list[Entity]]:
    """The entities of each text from (W,) tag ids; those of words without a sub-word do not count.

    Raises:
        DataError: another number of ids or of texts than `tokens` has.
    """
    _check(tokens, words)
    if len(ids) != len(tokens.word_tokens):
        raise DataError(f"{len(ids)} tags for {len(tokens.word_tokens)} words: give one for each")
    found: list[list[Entity]] = []
    for text, spans in enumerate(words):
        here = slice(tokens.word_offsets[text], tokens.word_offsets[text + 1])
        is_read = tokens.word_tokens[here] >= 0
        mine = ids[here][is_read]
        read = spans if is_read.all() else [s for s, there in zip(spans, is_read, strict=True) if there]
        found.append(tags.decode(mine.tolist(), read) if mine.any() else [])
    return found


def _read_part(entity: Entity, read: Sequence[Span]) -> Entity | None:
    """The entity from its first to its last word that has a sub-word."""
    start = bisect_left(read, entity[0], key=lambda word: word[0])
    stop = bisect_right(read, entity[1], key=lambda word: word[1])
    return (read[start][0], read[stop - 1][1], entity[2]) if start < stop else None


def _check(tokens: WordTokens, words: WordLists) -> None:
    if len(words) != len(tokens):
        raise DataError(f"{len(words)} lists of words for {len(tokens)} texts: give one for each")
