"""Windows, targets and batches of tagged texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modernbert.errors import ConfigError, DataError
from tasks.data.entities import IGNORED, TokenExamples, WordTokens, token_targets
from tasks.data.entities.examples import make_windows

SPECIALS = ([101], [102])


def tokens(*texts: list[int]) -> WordTokens:
    """Texts given as the word of each sub-word; ids count from 1000."""
    words = np.array([word for text in texts for word in text], dtype=np.int32)
    offsets = np.concatenate([[0], np.cumsum([len(text) for text in texts])]).astype(np.int64)
    counts = [max(text, default=-1) + 1 for text in texts]
    word_offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    places = np.full(int(word_offsets[-1]), -1, dtype=np.int64)
    for i, text in enumerate(texts):
        for j, word in reversed(list(enumerate(text))):
            if word >= 0:
                places[word_offsets[i] + word] = offsets[i] + j
    return WordTokens(1000 + np.arange(len(words), dtype=np.int32), offsets, words, word_offsets, places)


def test_targets_are_on_first_sub_words_or_on_all() -> None:
    encoded = tokens([0, 0, -1, 1, 3], [0])  # word 2 has no sub-word
    tags = [1, 2, 0, 0, 3]
    assert token_targets(encoded, tags).tolist() == [1, IGNORED, IGNORED, 2, 0, 3]
    assert token_targets(encoded, tags, inside=(0, 2, 2, 4, 4)).tolist() == [1, 2, IGNORED, 2, 0, 3]
    with pytest.raises(DataError, match="2 tags for 5 words"):
        token_targets(encoded, [0, 0])


def test_a_batch_of_short_texts() -> None:
    encoded = tokens([0, 1, 1], [0], [])
    targets = token_targets(encoded, [5, 6, 7])
    examples = TokenExamples(encoded, SPECIALS, max_length=8, overlap=2, targets=targets)
    assert len(examples) == 3
    assert examples.lengths.tolist() == [5, 3, 2]
    batch = examples.collate([1, 0, 2])
    assert batch.packed.input_ids.tolist() == [101, 1003, 102, 101, 1000, 1001, 1002, 102, 101, 102]
    assert batch.packed.cu_seqlens.tolist() == [0, 3, 8, 10]
    assert batch.targets is not None
    assert batch.targets.tolist() == [-100, 7, -100, -100, 5, 6, -100, -100, -100, -100]
    assert batch.targets.dtype == torch.int64
    assert batch.index.tolist() == [1, 0, 2]
    assert TokenExamples(encoded, SPECIALS, 8, 2).collate([0]).targets is None


def test_windows_of_a_long_text_begin_with_words_and_share_the_overlap() -> None:
    windows = make_windows(tokens([0], [0, 1, 1, 2, 3, 3, 4, 5, 6, 6]), room=6, overlap=2)
    assert windows.text.tolist() == [0, 1, 1]
    assert windows.start.tolist() == [0, 1, 5]
    assert windows.stop.tolist() == [1, 7, 11]
    assert windows.own_start.tolist() == [0, 1, 6]
    assert windows.own_stop.tolist() == [1, 6, 11]
    inside_a_word = make_windows(tokens([0] * 10), room=6, overlap=2)
    assert inside_a_word.start.tolist() == [0, 4]


@pytest.mark.parametrize("seed", range(20))
def test_windows_cover_each_sub_word_and_own_it_once(seed: int) -> None:
    draw = np.random.default_rng(seed)
    texts = [np.sort(draw.integers(0, max(1, size // 2), size)).tolist() for size in draw.integers(0, 90, 30)]
    texts = [np.unique(text, return_inverse=True)[1].tolist() for text in texts]
    encoded = tokens(*texts)
    room = int(draw.integers(2, 30))
    overlap = int(draw.integers(0, room))
    windows = make_windows(encoded, room, overlap)
    assert (windows.stop - windows.start <= room).all()
    owner = np.concatenate([np.arange(a, b) for a, b in zip(windows.own_start, windows.own_stop, strict=True)])
    assert owner.tolist() == list(range(len(encoded.input_ids)))
    assert (windows.own_start >= windows.start).all()
    assert (windows.own_stop <= windows.stop).all()
    same = windows.text[1:] == windows.text[:-1]
    assert (windows.stop[:-1] - windows.start[1:] >= overlap)[same].all()
    assert (windows.start[1:] > windows.start[:-1])[same].all()
    assert np.unique(windows.text).tolist() == list(range(len(texts)))


def test_each_target_counts_once_over_the_windows_of_a_text() -> None:
    encoded = tokens(list(range(50)))
    targets = token_targets(encoded, np.arange(50))
    examples = TokenExamples(encoded, SPECIALS, max_length=12, overlap=4, targets=targets)
    batch = examples.collate(range(len(examples)))
    assert batch.targets is not None
    counted = batch.targets[batch.targets != IGNORED]
    assert sorted(counted.tolist()) == list(range(50))
    assert (batch.packed.input_ids[batch.targets != IGNORED] - 1000).tolist() == counted.tolist()


def test_sizes_that_do_not_fit_are_refused() -> None:
    encoded = tokens([0, 1, 2])
    with pytest.raises(
        ConfigError, match=r"data.max_length=2 leaves no room for text beside 2 special tokens: give at"
    ):
        TokenExamples(encoded, SPECIALS, 2, 0)
    with pytest.raises(ConfigError, match=r"task.overlap=4: allowed is 0 to 3, less than the 4 sub-words"):
        TokenExamples(encoded, SPECIALS, 6, 4)
    with pytest.raises(DataError, match="1 targets for 3 sub-words"):
        TokenExamples(encoded, SPECIALS, 8, 0, np.zeros(1, dtype=np.int64))
