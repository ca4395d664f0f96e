"""Tagged texts as `Examples` of a trainer: windows of sub-words, each with its targets.

Dimensions: N texts, T sub-words of all texts, W words, n windows, B windows of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from modernbert.errors import ConfigError, DataError
from modernbert.packing import pack
from tasks.data.entities.align import IntArray, WordTokens
from tasks.data.examples import Batch, Indices

IGNORED = -100  # target of a sub-word that does not count; torch's own default


@dataclass(frozen=True)
class Windows:
    """Ranges of sub-words that fit the encoder: one for a short text, overlapping ones for a long.

    The `own` ranges part each text: a sub-word in an overlap belongs to the window that sees more around it.
    """

    text: IntArray  # (n,) which text
    start: IntArray  # (n,) into the sub-words of all texts
    stop: IntArray  # (n,)
    own_start: IntArray  # (n,)
    own_stop: IntArray  # (n,)

    def __len__(self) -> int:
        return len(self.text)


def make_windows(tokens: WordTokens, room: int, overlap: int) -> Windows:
    """Windows of at most `room` sub-words, neighbours sharing `overlap` or more.

    Each begins with a word, but in the middle of one that is longer than a window's step.

    Raises:
        ConfigError: an overlap that is negative or not below `room`.
    """
    if not 0 <= overlap < room:
        raise ConfigError(
            f"task.overlap={overlap}: allowed is 0 to {room - 1}, less than the {room} sub-words of a window"
        )
    lengths = np.diff(tokens.offsets)
    rows: list[tuple[int, int, int, int, int]] = []
    first = tokens.first
    for text, (begin, length) in enumerate(zip(tokens.offsets[:-1].tolist(), lengths.tolist(), strict=True)):
        end = begin + length
        if length <= room:
            rows.append((text, begin, end, begin, end))
            continue
        starts = [begin]
        while starts[-1] + room < end:
            latest = min(starts[-1] + room - overlap, end - room)
            heads = np.flatnonzero(first[starts[-1] + 1 : latest + 1])
            starts.append(starts[-1] + 1 + int(heads[-1]) if len(heads) else latest)
        own = begin
        for number, start in enumerate(starts):
            stop = min(start + room, end)
            own_stop = end if number + 1 == len(starts) else (starts[number + 1] + stop + 1) // 2
            rows.append((text, start, stop, own, own_stop))
            own = own_stop
    columns = np.array(rows, dtype=np.int64).reshape(-1, 5).T
    return Windows(*columns)


def token_targets(tokens: WordTokens, tags: Sequence[int] | IntArray, inside: Sequence[int] | None = None) -> IntArray:
    """(T,) targets of (W,) word tags: on first sub-words only, IGNORED on all others.

    With `inside`, (L,) the tag that continues each tag (I-X of B-X, as `TagSet.inside`), the further
    sub-words of a word count too.

    Raises:
        DataError: another number of tags than of words.
    """
    tag_of = np.asarray(tags, dtype=np.int64)
    if len(tag_of) != len(tokens.word_tokens):
        raise DataError(f"{len(tag_of)} tags for {len(tokens.word_tokens)} words: give one for each")
    targets = np.full(len(tokens.input_ids), IGNORED, dtype=np.int64)
    if inside is not None:
        owned = np.flatnonzero(tokens.words >= 0)
        before = np.repeat(tokens.word_offsets[:-1], np.diff(tokens.offsets))
        targets[owned] = np.asarray(inside, dtype=np.int64)[tag_of[before[owned] + tokens.words[owned]]]
    there = tokens.word_tokens >= 0
    targets[tokens.word_tokens[there]] = tag_of[there]
    return targets


class TokenExamples:
    """The windows of tagged texts; example i is window i, and a text of no sub-word is one of special tokens.

    Args:
        tokens: of N texts.
        specials: ids before and after a window, from `special_tokens`.
        max_length: most tokens of a window, special ones included.
        overlap: fewest sub-words that neighbouring windows of a long text share.
        targets: (T,) from `token_targets`, or None for prediction.

    Raises:
        ConfigError: no room for a window, or an overlap that is too large.
        DataError: another number of targets than of sub-words.
    """

    def __init__(
        self,
        tokens: WordTokens,
        specials: tuple[Sequence[int], Sequence[int]],
        max_length: int,
        overlap: int,
        targets: IntArray | None = None,
    ) -> None:
        before, after = specials
        room = max_length - len(before) - len(after)
        if room < 1:
            raise ConfigError(
                f"data.max_length={max_length} leaves no room for text beside {len(before) + len(after)} "
                f"special tokens: give at least {len(before) + len(after) + 1}"
            )
        if targets is not None and len(targets) != len(tokens.input_ids):
            raise DataError(f"{len(targets)} targets for {len(tokens.input_ids)} sub-words: give one for each")
        self.tokens, self.targets = tokens, targets
        self.windows = make_windows(tokens, room, overlap)
        self._before, self._after = (np.asarray(ids, dtype=np.int32) for ids in specials)

        added = len(before) + len(after)
        self.lengths = (self.windows.stop - self.windows.start + added).astype(np.int32)

    @property
    def lead(self) -> int:
        """Special tokens before the first sub-word of a window."""
        return len(self._before)

    def __len__(self) -> int:
        return len(self.windows)

    def collate(self, indices: Indices) -> Batch:
        """The windows at `indices`; `targets` (T of the pack,) are IGNORED on special tokens and not-own ones."""
        index = np.asarray(indices, dtype=np.int64)
        starts, stops = self.windows.start[index], self.windows.stop[index]
        sequences = [
            np.concatenate([self._before, self.tokens.input_ids[start:stop], self._after])
            for start, stop in zip(starts, stops, strict=True)
        ]
        targets = None if self.targets is None else torch.from_numpy(self._targets(self.targets, index))
        return Batch(pack(sequences), targets, torch.from_numpy(index))

    def _targets(self, all_targets: IntArray, index: IntArray) -> IntArray:
        windows = self.windows
        parts = []
        for i, length in zip(index.tolist(), self.lengths[index].tolist(), strict=True):
            part = np.full(length, IGNORED, dtype=np.int64)
            begin, end = int(windows.own_start[i]), int(windows.own_stop[i])
            at = self.lead + begin - int(windows.start[i])
            part[at : at + end - begin] = all_targets[begin:end]
            parts.append(part)
        return np.concatenate(parts)
