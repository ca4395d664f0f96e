"""Reading, tokenising and decoding whole real sets gives every gold span back, with both kinds of tokenizer."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from modernbert.weights import resolve
from tasks.data.entities import (
    IGNORED,
    TagSet,
    TokenExamples,
    WordTokens,
    decode_tags,
    encode_tags,
    encode_words,
    read_entities,
    special_tokens,
    token_targets,
)
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer

ENTITIES = {
    "wnut17/train": 1975, "wnut17/validation": 836, "wnut17/test": 1079,
    "germeval2014/train": 29076, "germeval2014/validation": 2673, "germeval2014/test": 6176,
}  # fmt: skip
FILES = [pytest.param(n, marks=pytest.mark.slow) if n == "germeval2014/train" else n for n in ENTITIES]


@pytest.fixture(scope="module", params=["wordpiece", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    if request.param == "wordpiece":
        return load_tokenizer(resolve("minilm"))
    return load_tokenizer(request.getfixturevalue("shared") / "tokenizers" / "modernbert")


@pytest.fixture(scope="module", params=FILES)
def table(request: pytest.FixtureRequest, shared: Path) -> Table:
    report = Report()
    table = read_entities(str(shared / "data" / "ner" / f"{request.param}.conll"), report=report)
    assert report.problems == []
    assert sum(map(len, table.columns["entities"])) == ENTITIES[request.param]
    return table


@pytest.fixture(scope="module")
def encoded(tokenizer: PreTrainedTokenizerFast, table: Table) -> WordTokens:
    return encode_words(tokenizer, table.columns["text"], table.columns["words"])


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_gold_spans_come_back(
    tokenizer: PreTrainedTokenizerFast, table: Table, encoded: WordTokens, scheme: str
) -> None:
    """Through the targets of every window, as a perfect model would predict them."""
    words, entities = table.columns["words"], table.columns["entities"]
    tags = TagSet(tuple(sorted({label for found in entities for _, _, label in found})), scheme)  # type: ignore[arg-type]
    ids, lost = encode_tags(tags, encoded, words, entities)
    assert lost == []
    targets = token_targets(encoded, ids)
    examples = TokenExamples(encoded, special_tokens(tokenizer), max_length=32, overlap=8, targets=targets)
    predicted = np.zeros(len(encoded.input_ids), dtype=np.int64)
    batch = examples.collate(range(len(examples)))
    assert batch.targets is not None
    for number, (start, stop) in enumerate(pairwise(batch.packed.cu_seqlens.tolist())):
        window = batch.targets[start + examples.lead : stop - 1].numpy()
        here = predicted[examples.windows.start[number] : examples.windows.stop[number]]
        here[window != IGNORED] = window[window != IGNORED]
    read = encoded.word_tokens >= 0
    back = np.zeros_like(ids)
    back[read] = predicted[encoded.word_tokens[read]]
    assert decode_tags(tags, encoded, words, back) == entities


def test_ids_are_those_of_the_words_one_by_one_and_of_the_plain_text(
    tokenizer: PreTrainedTokenizerFast, table: Table, encoded: WordTokens
) -> None:
    """Each given word with the space before it, encoded as pre-tokenised input; and `tokenizer(text)`."""
    split = [
        [text[end_before:end] for end_before, (_, end) in zip([0, *(e for _, e in spans)], spans, strict=False)]
        for text, spans in zip(table.columns["text"], table.columns["words"], strict=True)
    ]
    backend = tokenizer.backend_tokenizer
    by_word = backend.encode_batch(split, is_pretokenized=True, add_special_tokens=False)
    plain = backend.encode_batch_fast(table.columns["text"], add_special_tokens=False)
    same_words = 0
    for number, (one, other) in enumerate(zip(by_word, plain, strict=True)):
        here = slice(encoded.offsets[number], encoded.offsets[number + 1])
        ids, words = encoded.input_ids[here].tolist(), encoded.words[here]
        assert ids == one.ids == other.ids
        # ModernBERT parts the space from a rare word ("Ġ", "ive"): it is of no word here, as it holds no letter.
        expected = np.array(one.word_ids)
        assert (words == expected)[words >= 0].all()
        assert all(one.tokens[i] == "Ġ" for i in np.flatnonzero(words < 0))
        same_words += words.tolist() == one.word_ids
    assert same_words / len(plain) > 0.95
