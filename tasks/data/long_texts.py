"""One very long text to token ids in parts: an encoding takes some 500 bytes a token until its ids are read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

#: Characters of a part; a cell of 50 MB then costs what one of 1 MB does.
PART = 1 << 20
#: Most characters without a space that stay one part; cutting what is longer changes a few ids around the cut. A part
#: of that size takes some 300 MB where a token has many characters, and 1.2 GB where each is a token (Chinese).
STRETCH = 4 * PART


def encode_long(backend: Tokenizer, text: str) -> npt.NDArray[np.int32]:
    """(T,) the ids of a text without special tokens, those of `backend.encode(text)` (but see `STRETCH`)."""
    encoded = (backend.encode_batch_fast([part], add_special_tokens=False)[0].ids for part in parts(text))
    return np.concatenate([np.array(ids, dtype=np.int32) for ids in encoded])


def parts(text: str, most: int = PART, stretch: int = STRETCH) -> Iterator[str]:
    """The text in parts of about `most` characters, cut before a single space between two words.

    There the usual tokenizers cut too, whatever stands around (WordPiece, byte-level BPE, Metaspace). A stretch
    without such a space is one part, and is cut anywhere after `stretch` characters: one word of 50 MB would take
    gigabytes.
    """
    start = 0
    while len(text) - start > most:
        end = start + stretch
        cut = _space(text, start, start + most) or _space_after(text, start + most, end)
        if cut is None and len(text) <= end:
            break
        cut = cut or end
        yield text[start:cut]
        start = cut
    yield text[start:]


def _space(text: str, start: int, stop: int) -> int | None:
    """The last single space between words in text[start + 1 : stop]."""
    at = text.rfind(" ", start + 1, stop)
    while at > start and not _is_single(text, at):
        at = text.rfind(" ", start + 1, at)
    return at if at > start else None


def _space_after(text: str, start: int, stop: int) -> int | None:
    """The first single space between words in text[start:stop]."""
    at = text.find(" ", start, stop)
    while at >= 0 and not _is_single(text, at):
        at = text.find(" ", at + 1, stop)
    return at if at >= 0 else None


def _is_single(text: str, at: int) -> bool:
    return at + 1 < len(text) and not text[at - 1].isspace() and not text[at + 1].isspace()
