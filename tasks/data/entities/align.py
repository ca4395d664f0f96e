"""Sub-words and the words they belong to, with offsets that always index the given text.

Texts are encoded as they are, not word by word: the ids are those of `tokenizer(text)` (and so of
`transformers.pipeline` on a saved run), with the space before a word inside its first sub-word where the
tokenizer has it so; ModernBERT is worse without. A sub-word belongs to the word that holds its first
character. The one exception is a sub-word that spans two words (`).` of ModernBERT, where an entity may end
between): the words it touches are encoded one by one instead, each with the space before it.

Dimensions: N texts, T sub-words, W words of all texts, C characters of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, processors
from transformers import PreTrainedTokenizerFast

from modernbert.errors import DataError
from tasks.data.entities.words import Span
from tasks.data.tokenise import Progress

IntArray = npt.NDArray[np.int64]

CHUNK_TEXTS = 1_000  # one call into the tokenizer; encodings with offsets take about 500 bytes a sub-word


@dataclass(frozen=True)
class WordTokens:
    """Sub-words of N texts end to end, nothing cut, no special tokens: text i is `offsets[i]:offsets[i + 1]`."""

    input_ids: npt.NDArray[np.int32]  # (T,)
    offsets: IntArray  # (N+1,)
    words: npt.NDArray[np.int32]  # (T,) number of the word in its text; -1 for none (a run of spaces)
    word_offsets: IntArray  # (N+1,) text i has the words word_offsets[i]:word_offsets[i + 1]
    word_tokens: IntArray  # (W,) position of each word's first sub-word; -1 where the tokenizer drops the word

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def first(self) -> npt.NDArray[np.bool_]:
        """(T,) whether a sub-word is the first of its word."""
        first = np.zeros(len(self.input_ids), dtype=bool)
        first[self.word_tokens[self.word_tokens >= 0]] = True
        return first

    @property
    def dropped(self) -> int:
        """How many words have no sub-word (a lone zero-width space …): they can only be tagged O."""
        return int((self.word_tokens < 0).sum())


@dataclass
class _Chunk:
    """Some texts end to end: characters and words are counted from the start of the chunk."""

    characters: str  # (C,)
    word_starts: IntArray  # (W,)
    word_ends: IntArray  # (W,)
    ids: npt.NDArray[np.int32]  # (T,)
    starts: IntArray  # (T,)
    ends: IntArray  # (T,)
    text: IntArray  # (T,) which text
    owner: IntArray  # (T,) the first word that a sub-word touches, or -1
    last: IntArray  # (T,) the last


def encode_words(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    words: Sequence[Sequence[Span]],
    progress: Progress | None = None,
) -> WordTokens:
    """Encode N texts whose words are known, in order and apart from each other.

    Raises:
        DataError: another number of word lists than of texts; a text that is none or not Unicode; a word
            outside its text or out of order.
    """
    if len(texts) != len(words):
        raise DataError(f"{len(texts)} texts but {len(words)} lists of words: give one for each")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    counts = np.array([len(spans) for spans in words], dtype=np.int64)
    word_offsets = np.concatenate([[0], np.cumsum(counts)])
    ids, owners, lengths = [], [], []
    alone: dict[str, list[int]] = {}
    for start in range(0, len(texts), CHUNK_TEXTS):
        stop = min(start + CHUNK_TEXTS, len(texts))
        chunk = _encode(backend, texts[start:stop], words[start:stop], start)
        _part_words(backend, chunk, alone)
        ids.append(chunk.ids)
        owners.append(np.where(chunk.owner < 0, -1, chunk.owner + word_offsets[start]))
        lengths.append(np.bincount(chunk.text, minlength=stop - start))
        if progress is not None:
            progress(stop, len(texts))
    owner = np.concatenate([np.zeros(0, np.int64), *owners])
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([np.zeros(0, np.int64), *lengths]))])
    word_tokens = np.full(int(word_offsets[-1]), -1, dtype=np.int64)
    owned = np.flatnonzero(owner >= 0)[::-1]  # backwards: of several writes to a word its first sub-word's stays
    word_tokens[owner[owned]] = owned
    before = np.repeat(word_offsets[:-1], np.diff(offsets))  # words of the texts before
    in_text = np.where(owner < 0, -1, owner - before).astype(np.int32)
    return WordTokens(np.concatenate([np.zeros(0, np.int32), *ids]), offsets, in_text, word_offsets, word_tokens)


def special_tokens(tokenizer: PreTrainedTokenizerFast) -> tuple[list[int], list[int]]:
    """The ids that the tokenizer puts before and after one text."""
    encoding = tokenizer.backend_tokenizer.encode("a")
    inside = [position for position, owner in enumerate(encoding.sequence_ids) if owner is not None]
    return encoding.ids[: inside[0]], encoding.ids[inside[-1] + 1 :]


def trim_offsets(tokenizer: PreTrainedTokenizerFast) -> None:
    """Let a byte-level tokenizer leave the space before a word out of its offsets; ids stay as they are.

    For the tokenizer of a saved run: ModernBERT's lacks this step, and `transformers.pipeline` then starts each
    span at the space (transformers#16321). Nothing happens to a tokenizer that has it, or needs none.
    """
    backend = tokenizer.backend_tokenizer
    start = backend.encode("a b", add_special_tokens=False).offsets[-1][0]
    if start == 1 and "ByteLevel" in repr(backend.pre_tokenizer):
        trim = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
        last = backend.post_processor
        backend.post_processor = trim if last is None else processors.Sequence([trim, last])


def _encode(backend: Tokenizer, texts: Sequence[str], words: Sequence[Sequence[Span]], number: int) -> _Chunk:
    try:
        encodings = backend.encode_batch(list(texts), add_special_tokens=False)
    except TypeError as error:
        raise DataError(
            f"one of the texts {number} to {number + len(texts) - 1} (counting from 0) is no text, or holds half a "
            "character (a lone surrogate): `modernbert check` names the row"
        ) from error
    sizes = np.array([len(encoding) for encoding in encodings], dtype=np.int64)
    bases = np.concatenate([[0], np.cumsum([len(text) for text in texts])])  # first character of each text
    text = np.repeat(np.arange(len(texts)), sizes)
    ids = _flat((encoding.ids for encoding in encodings), int(sizes.sum())).astype(np.int32)
    spans = _flat((chain.from_iterable(e.offsets) for e in encodings), 2 * int(sizes.sum())).reshape(-1, 2)
    counts = np.array([len(spans) for spans in words], dtype=np.int64)
    bounds = _flat((chain.from_iterable(spans) for spans in words), 2 * int(counts.sum())).reshape(-1, 2)
    word_text = np.repeat(np.arange(len(texts)), counts)
    bounds = bounds + bases[word_text][:, None]
    _check_words(texts, bounds, bases, word_text, number)
    starts, ends = (spans + bases[text][:, None]).T
    characters = "".join(texts)
    owner, last = _owners(len(characters), bounds, starts, ends)
    return _Chunk(characters, bounds[:, 0], bounds[:, 1], ids, starts, ends, text, owner, last)


def _owners(characters: int, words: IntArray, starts: IntArray, ends: IntArray) -> tuple[IntArray, IntArray]:
    """(T,), (T,) the first and the last word that has a character in [start, end); -1 where none has."""
    word_at = np.full(characters + 1, -1, dtype=np.int64)
    lengths = words[:, 1] - words[:, 0]
    before = np.cumsum(lengths) - lengths
    word_at[np.arange(int(lengths.sum())) + np.repeat(words[:, 0] - before, lengths)] = np.repeat(
        np.arange(len(words)), lengths
    )
    at_word = word_at >= 0
    places = np.arange(characters + 1)
    following = np.minimum.accumulate(np.where(at_word, places, characters)[::-1])[::-1]
    preceding = np.maximum.accumulate(np.where(at_word, places, -1))
    inside = (following[starts] < ends) & (ends > starts)
    owner = np.where(inside, word_at[following[starts]], -1)
    last = np.where(inside, word_at[preceding[np.maximum(ends - 1, 0)]], -1)
    return owner, last


def _part_words(backend: Tokenizer, chunk: _Chunk, alone: dict[str, list[int]]) -> None:
    """Where a sub-word spans several words, encode these one by one in its place."""
    spanning = np.flatnonzero(chunk.last > chunk.owner)
    if not len(spanning):
        return
    known = np.maximum.accumulate(chunk.owner)  # (T,) ascending; a sub-word of no word counts to the one before
    keep = np.ones(len(chunk.ids), dtype=bool)
    places: list[int] = []
    ids: list[int] = []
    owners: list[int] = []
    for first, last in _groups(chunk.owner[spanning], chunk.last[spanning]):
        left = int(np.searchsorted(known, first, side="left"))
        right = int(np.searchsorted(known, last, side="right"))
        while chunk.owner[right - 1] < 0:
            right -= 1
        keep[left:right] = False
        start = int(chunk.starts[left])
        for word in range(first, last + 1):
            end = int(chunk.word_ends[word])
            piece = chunk.characters[start:end]
            if piece not in alone:
                alone[piece] = backend.encode(piece, add_special_tokens=False).ids
            places += [left] * len(alone[piece])
            ids += alone[piece]
            owners += [word] * len(alone[piece])
            start = end
    kept = np.insert(keep, places, True)
    text = np.insert(chunk.text, places, chunk.text[places])
    chunk.ids = np.insert(chunk.ids, places, np.asarray(ids, dtype=np.int32))[kept]
    chunk.owner = np.insert(chunk.owner, places, owners)[kept]
    chunk.text = text[kept]


def _groups(first: IntArray, last: IntArray) -> Iterator[tuple[int, int]]:
    """Ranges of words that sub-words tie together, one after the other."""
    begin, end = int(first[0]), int(last[0])
    for next_first, next_last in zip(first.tolist(), last.tolist(), strict=True):
        if next_first > end:
            yield begin, end
            begin = next_first
        end = max(end, next_last)
    yield begin, end


def _check_words(texts: Sequence[str], words: IntArray, bases: IntArray, word_text: IntArray, number: int) -> None:
    """Words lie in their text, have a character, and follow one another."""
    starts, ends = words[:, 0], words[:, 1]
    wrong = (ends <= starts) | (starts < bases[word_text]) | (ends > bases[word_text + 1])
    wrong[1:] |= starts[1:] < ends[:-1]
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        text = int(word_text[at])
        span = (int(starts[at] - bases[text]), int(ends[at] - bases[text]))
        raise DataError(
            f"text {number + text} (counting from 0): the word {span} is empty, outside the text of "
            f"{len(texts[text])} characters or before the end of the last: give words in order and apart"
        )


def _flat(values: Iterator[Sequence[int]] | Iterator[Iterator[int]], count: int) -> IntArray:
    return np.fromiter(chain.from_iterable(values), dtype=np.int64, count=count)
