"""Texts to token ids, once: flat arrays with their lengths known, cached on disk.

Each distinct text is encoded once, without special tokens and without truncation, so that its full length is
known; cutting and special tokens are then array work, and give exactly the ids of transformers'
`tokenizer(text, pair, truncation=True, max_length=...)`.

Dimensions: N examples, T tokens, U distinct texts, K texts an example (1 or 2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from modernbert.errors import ConfigError, DataError, EncoderError
from tasks.data.encode import Encoded, Keep, Progress, check_texts, encode_distinct, plain_backend
from tasks.data.layout import IntArray, Template, lay_out, read_template
from tasks.data.tokens import Tokens, cache_key, load_tokens, save_tokens

__all__ = [
    "Keep", "Progress", "Tokens", "load_tokenizer", "tokenise", "tokenise_pair_windows", "tokenise_windows",
    "window_overlap", "window_places",
]  # fmt: skip

#: Tokens that neighbouring windows share, unless task.overlap says otherwise; a quarter of a short window.
OVERLAP = 64


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The fast tokenizer of a checkpoint folder, without the truncation and padding stored in its file.

    (tokenizer.json of all-MiniLM-L6-v2 cuts at 128 tokens; here `max_length` alone decides.)

    Raises:
        EncoderError: no tokenizer there, or only a slow one.
    """
    if not Path(folder).is_dir():
        raise EncoderError(f"no tokenizer in {folder}: give a folder that holds tokenizer.json")
    try:
        # Without the last word transformers would ask a person whether to run code of the folder.
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
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
    plain_backend(tokenizer)
    return tokenizer


def tokenise(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
    keep: Keep | None = None,
) -> Tokens:
    """Encode N texts, or N pairs of texts, cut to `max_length` tokens with special tokens included.

    A pair is cut "longest first", as transformers does. With `cache_dir` the result is kept there as an Arrow
    file, found again by tokenizer, texts and settings.

    Args:
        progress: called with (distinct texts encoded, distinct texts) after each chunk.
        keep: the part of a long text that stays; None is the tokenizer's own side, as in transformers.

    Raises:
        DataError: a value is not text or not Unicode (the message has its index), or the numbers differ.
        ConfigError: `max_length` has no room for a token of text; both ends of a pair are asked for.
    """
    if pairs is not None and len(pairs) != len(texts):
        raise DataError(f"{len(texts)} texts but {len(pairs)} second texts: give one for each")
    if pairs is not None and keep == "head+tail":
        raise ConfigError("data.long=head+tail is for single texts: allowed with pairs is head, tail or error.")
    columns = [texts] if pairs is None else [texts, pairs]
    template = _prepare(tokenizer, columns, max_length)
    side: Keep = keep or ("tail" if tokenizer.truncation_side == "left" else "head")
    backend = tokenizer.backend_tokenizer

    def make() -> Tokens:
        return _tokenise(backend, columns, template, max_length, side, progress)

    return _cached(make, cache_dir, backend, columns, [max_length, side, template.has_segments])


def tokenise_windows(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    max_length: int,
    overlap: int,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> tuple[Tokens, IntArray]:
    """Encode N texts whole: those of more than `max_length` tokens as windows that share at least `overlap`.

    The windows of a text are spread evenly, the first at its beginning, the last at its end.

    Returns:
        The tokens of all windows (`full_lengths` are those of their texts), and (N+1,) where each text's begin.

    Raises:
        DataError, ConfigError: as `tokenise`; an overlap that leaves a window nothing of its own.
    """
    template = _prepare(tokenizer, [texts], max_length)
    room = max_length - template.added
    if not 0 <= overlap < room:
        raise ConfigError(f"task.overlap={overlap}: allowed is 0 to {room - 1}, less than a window of {room} tokens.")
    backend = tokenizer.backend_tokenizer

    def make() -> Tokens:
        which, encoded = encode_distinct(backend, [texts], None, "head", progress)
        full = encoded.full[which[0]]
        counts = _window_counts(full, room, overlap)
        text, skip = _spread(full, counts, np.full(len(texts), room))
        starts = encoded.offsets[which[0][text]] + skip
        return _laid_out(encoded, starts[None], np.minimum(full[text], room)[None], full[text][None], template)

    tokens = _cached(make, cache_dir, backend, [texts], [max_length, "window", overlap, template.has_segments])
    return tokens, _window_starts(tokens.full_lengths.astype(np.int64) - template.added, room, overlap)


def tokenise_pair_windows(
    tokenizer: PreTrainedTokenizerFast,
    queries: Sequence[str],
    documents: Sequence[str],
    max_length: int,
    overlap: int,
    progress: Progress | None = None,
) -> tuple[Tokens, IntArray, npt.NDArray[np.bool_]]:
    """Encode N pairs whole: each window of a document, as in `tokenise_windows`, behind the whole query.

    A query has at most half of a window; what is longer is cut. Not cached: lengths of both texts would be needed.

    Returns:
        The tokens of all windows (`full_lengths` are those of their pairs), (N+1,) where each pair's begin, and (N,)
        whether a query was cut.

    Raises:
        DataError, ConfigError: as `tokenise_windows`.
    """
    template = _prepare(tokenizer, [queries, documents], max_length)
    most = (max_length - template.added) // 2
    if not 0 <= overlap < most:
        raise ConfigError(f"task.overlap={overlap}: allowed is 0 to {most - 1}, less than half a window.")
    which, encoded = encode_distinct(tokenizer.backend_tokenizer, [queries, documents], None, "head", progress)
    query, document = encoded.full[which]  # (N,) each
    kept = np.minimum(query, most)
    room = max_length - template.added - kept
    counts = _window_counts(document, room, overlap)
    pair, skip = _spread(document, counts, room)
    starts = np.stack([encoded.offsets[which[0][pair]], encoded.offsets[which[1][pair]] + skip])
    lengths = np.stack([kept[pair], np.minimum(document, room)[pair]])
    tokens = _laid_out(encoded, starts, lengths, np.stack([query, document])[:, pair], template)
    return tokens, np.concatenate([[0], np.cumsum(counts)]), query > most


def _spread(full: IntArray, counts: IntArray, room: IntArray) -> tuple[IntArray, IntArray]:
    """Of each window (W,) its text and the place there at which it begins: evenly from the first token to the last."""
    text = np.repeat(np.arange(len(full)), counts)
    within = np.arange(len(text)) - np.repeat(np.cumsum(counts) - counts, counts)
    return text, within * (full - room).clip(min=0)[text] // (counts[text] - 1).clip(min=1)


def window_places(full: int, room: int, overlap: int) -> list[int]:
    """The first token of each window of a text of `full` tokens, as `tokenise_windows` spreads them."""
    lengths = np.array([full])
    return _spread(lengths, _window_counts(lengths, room, overlap), np.array([room]))[1].tolist()


def window_overlap(asked: Any, max_length: int) -> int:
    """Least tokens that neighbouring windows share, of task.overlap.

    Raises:
        ConfigError: neither "auto" nor a whole number.
    """
    if asked == "auto":
        return min(OVERLAP, max_length // 4)
    if isinstance(asked, bool) or not isinstance(asked, int):
        raise ConfigError(f"task.overlap={asked}: allowed is auto or a number of tokens, such as {OVERLAP}.")
    return asked


def _window_counts(full: IntArray, room: int | IntArray, overlap: int) -> IntArray:
    """How many windows a text of `full` tokens takes."""
    return np.where(full <= room, 1, -((overlap - full) // (room - overlap)))


def _window_starts(full: IntArray, room: int, overlap: int) -> IntArray:
    """(N+1,) borders of the texts in windows, from the full length that each window knows of its text."""
    counts, starts = _window_counts(full, room, overlap).tolist(), [0]
    while starts[-1] < len(counts):
        starts.append(starts[-1] + counts[starts[-1]])
    return np.array(starts, dtype=np.int64)


def _prepare(tokenizer: PreTrainedTokenizerFast, columns: Sequence[Sequence[str]], max_length: int) -> Template:
    """Check the texts; what the tokenizer puts around them."""
    for name, column in zip(("text", "second text"), columns, strict=False):
        check_texts(name, column)
    template = read_template(plain_backend(tokenizer), len(columns), "token_type_ids" in tokenizer.model_input_names)
    if max_length <= template.added:
        raise ConfigError(
            f"data.max_length={max_length} leaves no room for text beside {template.added} special tokens: "
            f"give at least {template.added + 1}"
        )
    return template


def _cached(
    make: Callable[[], Tokens],
    cache_dir: Path | None,
    backend: Tokenizer,
    columns: Sequence[Sequence[str]],
    settings: list[object],
) -> Tokens:
    """What `make` gives, kept in `cache_dir` where there is one."""
    if cache_dir is None:
        return make()
    key = cache_key(backend.to_str(), columns, [tokenizers.__version__, *settings])
    tokens = load_tokens(Path(cache_dir), key)
    if tokens is None:
        tokens = make()
        save_tokens(Path(cache_dir), key, tokens)
    return tokens


def _tokenise(
    backend: Tokenizer,
    columns: Sequence[Sequence[str]],
    template: Template,
    max_length: int,
    keep: Keep,
    progress: Progress | None,
) -> Tokens:
    room = max_length - template.added
    which, encoded = encode_distinct(backend, columns, room, keep, progress)
    full = encoded.full[which]  # (K, N)
    kept = np.minimum(full, room) if len(columns) == 1 else _longest_first(full, room)
    starts = encoded.offsets[which + 1] - kept if keep == "tail" else encoded.offsets[which]
    return _laid_out(encoded, starts, kept, full, template)


def _laid_out(encoded: Encoded, starts: IntArray, kept: IntArray, full: IntArray, template: Template) -> Tokens:
    """Examples from the places (K, N) of their texts among the encoded ones."""
    offsets = np.concatenate([[0], np.cumsum(kept.sum(0) + template.added)])
    _check_not_empty(offsets)
    ids, segments = lay_out(encoded.ids, starts, kept, offsets, template)
    return Tokens(ids, offsets, segments, (full.sum(0) + template.added).astype(np.int32))


def _longest_first(full: IntArray, room: int) -> IntArray:
    """(2, N) tokens kept of each pair: first the longer text is cut, then both (tokenizers' LongestFirst)."""
    short, long = full.min(0), full.max(0)
    long_kept = np.minimum(long, np.maximum(short, room - short))
    both = short + long_kept > room
    short_kept = np.where(both, room // 2, short)
    long_kept = np.where(both, room - room // 2, long_kept)
    first_is_long = full[0] > full[1]
    return np.stack([np.where(first_is_long, long_kept, short_kept), np.where(first_is_long, short_kept, long_kept)])


def _check_not_empty(offsets: IntArray) -> None:
    """Only a tokenizer that adds no special tokens gives nothing for an empty text."""
    empty = np.flatnonzero(np.diff(offsets) == 0)
    if len(empty):
        raise DataError(
            f"text {int(empty[0])} (counting from 0) has no token, {len(empty)} in all: leave empty rows out"
        )
