"""Texts to token ids, once: flat arrays with their lengths known, cached on disk.

Each distinct text is encoded once, without special tokens and without truncation, so that its full length is
known; cutting and special tokens are then array work, and give exactly the ids of transformers'
`tokenizer(text, pair, truncation=True, max_length=...)`.

Dimensions: N examples, T tokens, U distinct texts, K texts an example (1 or 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modernbert.errors import ConfigError, DataError, EncoderError
from tasks.data.tokens import Tokens, cache_key, load_tokens, save_tokens

__all__ = ["Progress", "Tokens", "load_tokenizer", "tokenise"]

IntArray = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]  # (distinct texts encoded so far, of how many)

# One call into the tokenizer: enough to keep its threads busy, little enough for a lively progress bar and
# for memory (encodings take about 100 bytes a token until their ids are copied). Larger is not faster.
CHUNK_TEXTS = 1_000
CHUNK_CHARACTERS = 1_000_000
# Tokens laid out at once: bounds the index arrays at 32 MB.
LAYOUT_TOKENS = 1 << 21


@dataclass(frozen=True)
class _Template:
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


@dataclass(frozen=True)
class _Encoded:
    """U distinct texts without special tokens, each cut to what any example could use of it."""

    ids: npt.NDArray[np.int32]
    offsets: IntArray  # (U+1,)
    full: IntArray  # (U,) tokens before the cut


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a checkpoint folder, without the truncation and padding stored in its file.

    (tokenizer.json of all-MiniLM-L6-v2 cuts at 128 tokens; here `max_length` alone decides.)

    Raises:
        EncoderError: no tokenizer there, or only a slow one.
    """
    if not Path(folder).is_dir():
        raise EncoderError(f"no tokenizer in {folder}: give a folder that holds tokenizer.json")
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # transformers and tokenizers raise OSError, ValueError … and bare Exception
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"no tokenizer in {folder} that transformers can read: copy tokenizer.json and "
            f"tokenizer_config.json of the checkpoint there (transformers says: {reason})"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise EncoderError(
            f"{folder} has only the slow tokenizer {type(tokenizer).__name__}: put the tokenizer.json of a "
            "fast one there, or choose another encoder"
        )
    _backend(tokenizer)
    return tokenizer


def tokenise(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Tokens:
    """Encode N texts, or N pairs of texts, cut to `max_length` tokens with special tokens included.

    A pair is cut "longest first" and on the tokenizer's truncation side, as transformers does. With
    `cache_dir` the result is kept there as an Arrow file, found again by tokenizer, texts and `max_length`.

    Args:
        progress: called with (distinct texts encoded, distinct texts) after each chunk.

    Raises:
        DataError: a value is not text or not Unicode (the message has its index), or the numbers differ.
        ConfigError: `max_length` has no room for a token of text.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(pairs)} second texts: give one for each")
    columns = [texts] if pairs is None else [texts, pairs]
    for name, column in zip(("text", "second text"), columns, strict=False):
        _check_texts(name, column)
    backend = _backend(tokenizer)
    template = _template(backend, len(columns), "token_type_ids" in tokenizer.model_input_names)
    if max_length <= template.added:
        raise ConfigError(
            f"data.max_length={max_length} leaves no room for text beside {template.added} special tokens: "
            f"give at least {template.added + 1}"
        )
    left = tokenizer.truncation_side == "left"
    if cache_dir is None:
        return _tokenise(backend, columns, template, max_length, left, progress)
    settings = [tokenizers.__version__, max_length, left, template.has_segments]
    key = cache_key(backend.to_str(), columns, settings)
    tokens = load_tokens(Path(cache_dir), key)
    if tokens is None:
        tokens = _tokenise(backend, columns, template, max_length, left, progress)
        save_tokens(Path(cache_dir), key, tokens)
    return tokens


def _tokenise(
    backend: Tokenizer,
    columns: Sequence[Sequence[str]],
    template: _Template,
    max_length: int,
    left: bool,
    progress: Progress | None,
) -> Tokens:
    room = max_length - template.added
    number: dict[str, int] = {}  # of each distinct text, in order of first appearance
    numbers = [[number.setdefault(text, len(number)) for text in column] for column in columns]
    which = np.array(numbers, dtype=np.int64)  # (K, N)
    encoded = _encode(backend, list(number), room, left, progress)
    full = encoded.full[which]  # (K, N)
    kept = np.minimum(full, room) if len(columns) == 1 else _longest_first(full, room)
    offsets = np.concatenate([[0], np.cumsum(kept.sum(0) + template.added)])
    starts = encoded.offsets[which]
    if left:
        starts = encoded.offsets[which + 1] - kept
    ids, segments = _lay_out(encoded.ids, starts, kept, offsets, template)
    full_lengths = (full.sum(0) + template.added).astype(np.int32)
    _check_not_empty(offsets)
    return Tokens(ids, offsets, segments, full_lengths)


def _encode(
    backend: Tokenizer, texts: list[str], room: int, left: bool, progress: Progress | None
) -> _Encoded:
    pieces: list[npt.NDArray[np.int32]] = []
    full = np.zeros(len(texts), dtype=np.int64)
    part = slice(-room, None) if left else slice(room)
    for start, stop in _chunks(texts):
        encodings = backend.encode_batch_fast(texts[start:stop], add_special_tokens=False)
        lengths = [len(encoding) for encoding in encodings]
        full[start:stop] = lengths
        ids = chain.from_iterable(encoding.ids[part] for encoding in encodings)
        pieces.append(np.fromiter(ids, dtype=np.int32, count=sum(min(length, room) for length in lengths)))
        if progress is not None:
            progress(stop, len(texts))
    offsets = np.concatenate([[0], np.cumsum(np.minimum(full, room))])
    return _Encoded(np.concatenate([np.zeros(0, np.int32), *pieces]), offsets, full)


def _chunks(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    start, characters = 0, 0
    for position, text in enumerate(texts):
        if position > start and (
            position - start == CHUNK_TEXTS or characters + len(text) > CHUNK_CHARACTERS
        ):
            yield start, position
            start, characters = position, 0
        characters += len(text)
    if start < len(texts):
        yield start, len(texts)


def _longest_first(full: IntArray, room: int) -> IntArray:
    """(2, N) tokens kept of each pair: first the longer text is cut, then both (tokenizers' LongestFirst)."""
    short, long = full.min(0), full.max(0)
    long_kept = np.minimum(long, np.maximum(short, room - short))
    both = short + long_kept > room
    short_kept = np.where(both, room // 2, short)
    long_kept = np.where(both, room - room // 2, long_kept)
    first_is_long = full[0] > full[1]
    return np.stack(
        [np.where(first_is_long, long_kept, short_kept), np.where(first_is_long, short_kept, long_kept)]
    )


def _lay_out(
    ids: npt.NDArray[np.int32], starts: IntArray, kept: IntArray, offsets: IntArray, template: _Template
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
                target = _ranges(at, lengths)
                out[target] = ids[_ranges(starts[number, first:last], lengths)]
                if segments is not None:
                    segments[target] = template.text_segments[number]
                at += lengths
        first = last
    return out, segments


def _ranges(starts: IntArray, lengths: IntArray) -> IntArray:
    """start, start + 1 … for each start, end to end."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def _template(backend: Tokenizer, texts: int, uses_segments: bool) -> _Template:
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
    return _Template(specials, special_segments, text_segments)


def _backend(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The Rust tokenizer without truncation and padding (transformers sets its own at each call)."""
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    return backend


def _check_texts(name: str, column: Sequence[str]) -> None:
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


def _check_not_empty(offsets: IntArray) -> None:
    """Only a tokenizer that adds no special tokens gives nothing for an empty text."""
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if len(empty):
        raise DataError(
            f"text {int(empty[0])} (counting from 0) has no token, {len(empty)} in all: leave empty rows out"
        )
