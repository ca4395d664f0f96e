"""Distinct texts to token ids, without special tokens: each is encoded once, however often it stands in a file.

Dimensions: N examples, U distinct texts, K texts an example (1 or 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from modernbert.errors import DataError
from tasks.data.layout import IntArray
from tasks.data.long_texts import PART, encode_long

Progress = Callable[[int, int], None]  # (distinct texts encoded so far, of how many)
#: The part of a text that stays where it is too long: of "head+tail" half each (Sun et al. 2019, arXiv:1905.05583).
Keep = Literal["head", "tail", "head+tail"]

# One call into the tokenizer: enough to keep its threads busy, little enough for a lively progress bar and
# for memory (encodings take about 100 bytes a token until their ids are copied). Larger is not faster.
CHUNK_TEXTS = 1_000
CHUNK_CHARACTERS = PART


@dataclass(frozen=True)
class Encoded:
    """U distinct texts without special tokens, each cut to what any example could use of it."""

    ids: npt.NDArray[np.int32]
    offsets: IntArray  # (U+1,)
    full: IntArray  # (U,) tokens before the cut


def encode_distinct(
    backend: Tokenizer,
    columns: Sequence[Sequence[str]],
    room: int | None,
    keep: Keep,
    progress: Progress | None,
) -> tuple[IntArray, Encoded]:
    """(K, N) the number of each text among the distinct ones, and these encoded."""
    number: dict[str, int] = {}  # in order of first appearance
    numbers = [[number.setdefault(text, len(number)) for text in column] for column in columns]
    return np.array(numbers, dtype=np.int64), _encode(backend, list(number), room, keep, progress)


def _encode(
    backend: Tokenizer, texts: list[str], room: int | None, keep: Keep, progress: Progress | None
) -> Encoded:
    """Distinct texts, each with at most `room` of its tokens (None: all)."""
    pieces: list[npt.NDArray[np.int32]] = []
    full = np.zeros(len(texts), dtype=np.int64)
    for start, stop in _chunks(texts):
        if len(texts[start]) > PART:  # such a one is alone
            ids_of = encode_long(backend, texts[start])
            full[start] = len(ids_of)
            pieces.append(_kept(ids_of, room, keep))
            if progress is not None:
                progress(stop, len(texts))
            continue
        encodings = backend.encode_batch_fast(texts[start:stop], add_special_tokens=False)
        full[start:stop] = [len(encoding) for encoding in encodings]
        pieces.append(np.concatenate([_kept(encoding.ids, room, keep) for encoding in encodings]))
        if progress is not None:
            progress(stop, len(texts))
    offsets = np.concatenate([[0], np.cumsum(_at_most(full, room))])
    return Encoded(np.concatenate([np.zeros(0, np.int32), *pieces]), offsets, full)


def _at_most(full: IntArray, room: int | None) -> IntArray:
    return full if room is None else np.minimum(full, room)


def _kept(ids: npt.ArrayLike, room: int | None, keep: Keep) -> npt.NDArray[np.int32]:
    found = np.asarray(ids, dtype=np.int32)
    if room is None or len(found) <= room:
        return found
    if keep == "head+tail":
        return np.concatenate([found[: room - room // 2], found[len(found) - room // 2 :]])
    return found[-room:] if keep == "tail" else found[:room]


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start, characters = 0, 0
    for position, text in enumerate(texts):
        if position > start and (position - start == CHUNK_TEXTS or characters + len(text) > CHUNK_CHARACTERS):
            yield start, position
            start, characters = position, 0
        characters += len(text)
    if start < len(texts):
        yield start, len(texts)


def plain_backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The Rust tokenizer without truncation and padding (transformers sets its own at each call)."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return backend


def check_texts(name: str, column: Sequence[str]) -> None:
    for index, text in enumerate(column):
        if not isinstance(text, str):
            raise DataError(
                f"{name} {index} (counting from 0) is {text!r}, a {type(text).__name__}: give a string, or "
                "leave the row out"
            )
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{name} {index} (counting from 0) holds half a character ({text[error.start]!r} at "
                f"position {error.start}), not Unicode: read the file in its true encoding, or remove it"
            ) from error
