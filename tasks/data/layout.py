"""Where tokens go: special tokens and texts laid out end to end as one array.

Dimensions: N examples, T tokens, K texts an example (1 or 2).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from modernbert.errors import EncoderError

IntArray = npt.NDArray[np.int64]

# Tokens laid out at once: bounds the index arrays at 32 MB.
LAYOUT_TOKENS = 1 << 21


@dataclass(frozen=True)
class Template:
    """What the tokenizer puts around K texts: K + 1 pieces of special tokens, with the segments of it all."""

    specials: list[list[int]]
    special_segments: list[list[int]]
    text_segments: list[int]

    @property
    def added(self) -> int:
        return sum(map(len, self.specials))

    @property
    def has_segments(self) -> bool:
        return any(self.text_segments) or any(map(any, self.special_segments))


def read_template(backend: Tokenizer, texts: int, uses_segments: bool) -> Template:
    """Read the special tokens off an encoding of one-letter texts.

    Raises:
        EncoderError: the texts do not come out in order, each in one run.
    """
    encoding = backend.encode("a", "a" if texts == 2 else None)
    runs = [
        (owner, [position for position, _ in run])
        for owner, run in groupby(enumerate(encoding.sequence_ids), key=lambda item: item[1])
    ]
    if [owner for owner, _ in runs if owner is not None] != list(range(texts)):
        raise EncoderError(
            f"this tokenizer lays {texts} text(s) out as {encoding.tokens}, which is not supported: texts "
            "must follow one another between special tokens"
        )
    specials: list[list[int]] = [[]]
    special_segments: list[list[int]] = [[]]
    text_segments: list[int] = []
    for owner, positions in runs:
        types = [encoding.type_ids[position] if uses_segments else 0 for position in positions]
        if owner is None:
            specials[-1] = [encoding.ids[position] for position in positions]
            special_segments[-1] = types
        else:
            text_segments.append(types[0])
            specials.append([])
            special_segments.append([])
    return Template(specials, special_segments, text_segments)


def lay_out(
    ids: npt.NDArray[np.int32], starts: IntArray, kept: IntArray, offsets: IntArray, template: Template
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8] | None]:
    """Copy each example's texts (`starts`, `kept`: (K, N)) between the special tokens to its place."""
    total = int(offsets[-1])
    out = np.empty(total, dtype=np.int32)
    segments = np.zeros(total, dtype=np.uint8) if template.has_segments else None
    count = len(offsets) - 1
    first = 0
    while first < count:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + LAYOUT_TOKENS, side="right")) - 1)
        at = offsets[first:last].copy()  # where the next piece of each example goes
        for number, (piece, piece_segments) in enumerate(
            zip(template.specials, template.special_segments, strict=True)
        ):
            for token, segment in zip(piece, piece_segments, strict=True):
                out[at] = token
                if segments is not None:
                    segments[at] = segment
                at += 1
            if number < len(kept):
                lengths = kept[number, first:last]
                target = ranges(at, lengths)
                out[target] = ids[ranges(starts[number, first:last], lengths)]
                if segments is not None:
                    segments[target] = template.text_segments[number]
                at += lengths
        first = last
    return out, segments


def ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """start, start + 1 … for each start, end to end."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)
