"""Sub-words and their words, with the real tokenizers: ids as transformers sees them, places in the given text."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast, pipeline

from modernbert.errors import DataError
from modernbert.weights import resolve
from tasks.data.entities import (
    TagSet,
    WordTokens,
    decode_tags,
    encode_tags,
    encode_words,
    read_entities,
    special_tokens,
    trim_offsets,
    word_spans,
)
from tasks.data.entities.tagged import layout
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
TRICKY = [
    "Hanna's U.S. visit (in 2024).",
    f"cafe\u0301 naïve {FAMILY} \u2764\ufe0f ok",
    "فارسی می\u200cخواهم \u2067שלום\u2069 ירושלים!",
    "我在Graz吃饭。 สวัสดี मुंबई",
    "two  spaces\tand a\nline\u00a0break ",
    "\u200b",
    "",
    "ﬁne İstanbul STRASSE ẞ x\u00adyz a\u0001b",
    "Berlin\U0001f600\U0001f600 €20 19:30 can't!!! ...",
]


@pytest.fixture(scope="module")
def wordpiece() -> PreTrainedTokenizerFast:
    return load_tokenizer(resolve("minilm"))


@pytest.fixture(scope="module")
def bpe(shared: Path) -> PreTrainedTokenizerFast:
    return load_tokenizer(shared / "tokenizers" / "modernbert")


@pytest.fixture(params=["wordpiece", "bpe"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return request.getfixturevalue(request.param)


def plain_ids(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def ids_of(tokens: WordTokens, text: int) -> list[int]:
    return tokens.input_ids[tokens.offsets[text] : tokens.offsets[text + 1]].tolist()


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[tuple[str, int]]:
    """(sub-word, number of its word) of one text."""
    tokens = encode_words(tokenizer, [text], [word_spans(text)])
    return list(zip(tokenizer.convert_ids_to_tokens(tokens.input_ids.tolist()), tokens.words.tolist(), strict=True))


def test_the_space_is_in_the_first_sub_word_and_not_in_the_word(bpe: PreTrainedTokenizerFast) -> None:
    assert pieces(bpe, "Hello world, Szewczyk") == [
        ("Hello", 0), ("Ġworld", 1), (",", 2), ("ĠSz", 3), ("ew", 3), ("c", 3), ("zyk", 3),
    ]  # fmt: skip


def test_sub_words_of_two_words_are_parted(bpe: PreTrainedTokenizerFast) -> None:
    assert ")." in bpe.get_vocab()
    assert pieces(bpe, "(Graz). (a).") == [
        ("(", 0), ("G", 1), ("raz", 1), (")", 2), (".", 3), ("Ġ(", 4), ("a", 5), (")", 6), (".", 7),
    ]  # fmt: skip
    assert pieces(bpe, "can't") == [("can", 0), ("'", 1), ("t", 2)]


def test_wordpiece_drops_what_it_does_not_see(wordpiece: PreTrainedTokenizerFast) -> None:
    text, words = layout(["TV", "\x96", "\ufe0f", "Wok", "\x96"])
    tokens = encode_words(wordpiece, [text], [words])
    assert tokens.words.tolist() == [0, 3, 3]
    assert tokens.word_tokens.tolist() == [0, -1, -1, 1, -1]
    assert tokens.dropped == 3


def test_an_entity_runs_over_a_dropped_word_but_cannot_end_there(wordpiece: PreTrainedTokenizerFast) -> None:
    text, words = layout(["TV", "\x96", "Wok", "\x96", "\x96", "us"])
    tokens = encode_words(wordpiece, [text], [words])
    tags = TagSet(("A",))
    whole, ended, unseen = (0, 8, "A"), (0, 10, "A"), (9, 12, "A")
    assert text[whole[0] : whole[1]] == "TV \x96 Wok"
    ids, lost = encode_tags(tags, tokens, [words], [[whole]])
    assert [tags.names[i] for i in ids] == ["B-A", "O", "I-A", "O", "O", "O"]
    assert lost == []
    assert decode_tags(tags, tokens, [words], ids) == [[whole]]
    ids, lost = encode_tags(tags, tokens, [words], [[ended]])
    assert lost == [(0, ended)]
    assert decode_tags(tags, tokens, [words], ids) == [[whole]]
    ids, lost = encode_tags(tags, tokens, [words], [[unseen]])
    assert lost == [(0, unseen)]
    assert not ids.any()


@pytest.mark.parametrize("text", TRICKY)
def test_each_word_has_its_sub_words_in_order(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Sub-words follow the words, and are made of the letters of their own word."""
    words = word_spans(text)
    tokens = encode_words(tokenizer, [text], [words])
    owned = tokens.words[tokens.words >= 0]
    assert (np.diff(owned) >= 0).all()
    first = {int(word): position for position, word in reversed(list(enumerate(tokens.words))) if word >= 0}
    assert tokens.word_tokens.tolist() == [first.get(word, -1) for word in range(len(words))]
    known = tokenizer.unk_token_id not in tokens.input_ids
    if known and text.isascii():
        for number, (start, end) in enumerate(words):
            decoded = tokenizer.decode(tokens.input_ids[tokens.words == number].tolist()).strip()
            assert decoded.replace(" ", "") in (text[start:end], text[start:end].lower())


@pytest.mark.parametrize("text", TRICKY)
def test_ids_are_those_of_the_plain_text_unless_a_sub_word_spans_words(
    tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    words = word_spans(text)
    ours = encode_words(tokenizer, [text], [words])
    at_word = {place: number for number, (start, end) in enumerate(words) for place in range(start, end)}
    spans = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    touched = [{at_word[place] for place in range(start, end) if place in at_word} for start, end in spans]
    if all(len(numbers) <= 1 for numbers in touched):
        assert ids_of(ours, 0) == plain_ids(tokenizer, text)
        assert ours.words.tolist() == [min(numbers, default=-1) for numbers in touched]
    else:
        assert ids_of(ours, 0) != plain_ids(tokenizer, text)


def test_texts_do_not_change_each_other(tokenizer: PreTrainedTokenizerFast) -> None:
    words = [word_spans(text) for text in TRICKY]
    together = encode_words(tokenizer, TRICKY, words)
    for number, text in enumerate(TRICKY):
        alone = encode_words(tokenizer, [text], [words[number]])
        here = slice(together.offsets[number], together.offsets[number + 1])
        assert ids_of(together, number) == ids_of(alone, 0)
        assert together.words[here].tolist() == alone.words.tolist()


def test_entities_of_any_text_come_back_or_are_told(tokenizer: PreTrainedTokenizerFast) -> None:
    draw = random.Random(3)
    ranges = [(1, 0x600), (0x900, 0x980), (0x2000, 0x2070), (0x3040, 0x3100), (0x1F3F0, 0x1F4A0), (0x4E00, 0x4E20)]
    pool = [chr(code) for start, stop in ranges for code in range(start, stop)]
    plain = list("abcXYZ .,!?()'\"-_ \t\n:;5%&19  ")
    texts = [
        "".join(draw.choice(pool if draw.random() < 0.4 else plain) for _ in range(draw.randint(0, 60)))
        for _ in range(600)
    ]
    words = [word_spans(text) for text in texts]
    entities = []
    for spans in words:
        cuts = sorted({0, len(spans), *(draw.randint(0, len(spans)) for _ in range(8))})
        pieces_of = [(a, b) for a, b in pairwise(cuts) if draw.random() < 0.6]
        entities.append([(spans[a][0], spans[b - 1][1], draw.choice("AB")) for a, b in pieces_of])
    tags = TagSet(("A", "B"))
    tokens = encode_words(tokenizer, texts, words)
    ids, lost = encode_tags(tags, tokens, words, entities)
    told = {text for text, _ in lost}
    back = decode_tags(tags, tokens, words, ids)
    assert [i for i in range(len(texts)) if back[i] != entities[i] and i not in told] == []
    assert len(told) < 60
    assert (tokens.dropped == 0) == (lost == [])


def test_the_project_s_example_is_encoded_as_plain_text(root: Path, wordpiece: PreTrainedTokenizerFast) -> None:
    texts = read_entities(str(root / "examples" / "support_ner.jsonl"), report=Report()).columns["text"]
    tokens = encode_words(wordpiece, texts, [word_spans(text) for text in texts])
    before, after = special_tokens(wordpiece)
    assert [before + ids_of(tokens, i) + after for i in range(len(texts))] == wordpiece(texts)["input_ids"]


def test_pipeline_finds_the_same_spans_in_plain_text(root: Path, wordpiece: PreTrainedTokenizerFast) -> None:
    """A random model: its tags are as odd as can be, B-, I- and O in any order."""
    texts = read_entities(str(root / "examples" / "support_ner.jsonl"), report=Report()).columns["text"]
    tags = TagSet(("A", "B"))
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    names = dict(enumerate(tags.names))
    config = BertConfig(vocab_size=len(wordpiece), initializer_range=0.2, **sizes, id2label=names)
    model = BertForTokenClassification(config).eval()
    tagger = pipeline("token-classification", model=model, tokenizer=wordpiece, aggregation_strategy="first")
    words = [word_spans(text) for text in texts]
    tokens = encode_words(wordpiece, texts, words)
    before, after = special_tokens(wordpiece)
    ids = np.zeros(len(tokens.word_tokens), dtype=np.int64)
    with torch.no_grad():
        for i in range(len(texts)):
            logits = model(torch.tensor([before + ids_of(tokens, i) + after])).logits[0].numpy()
            here = slice(tokens.word_offsets[i], tokens.word_offsets[i + 1])
            ids[here] = logits.argmax(1)[tokens.word_tokens[here] - tokens.offsets[i] + len(before)]
    ours = decode_tags(tags, tokens, words, ids)
    theirs = [[(e["start"], e["end"], e["entity_group"]) for e in found] for found in tagger(texts)]
    assert sum(map(len, ours)) > 500, "too few to tell"
    assert ours == theirs


def test_a_saved_tokenizer_leaves_the_space_out_of_its_offsets(shared: Path, tmp_path: Path) -> None:
    text = "Hanna flew  to caf\u00e9 Graz"
    tokenizer = load_tokenizer(shared / "tokenizers" / "modernbert")
    before = tokenizer(text, return_offsets_mapping=True)
    assert any(text[start:end].startswith(" ") for start, end in before["offset_mapping"])
    for _ in range(2):  # a second time changes nothing
        trim_offsets(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    after = load_tokenizer(tmp_path)(text, return_offsets_mapping=True)
    assert after["input_ids"] == before["input_ids"]
    assert not any(text[start:end].startswith(" ") for start, end in after["offset_mapping"])
    assert special_tokens(tokenizer) == ([tokenizer.cls_token_id], [tokenizer.sep_token_id])
    plain = encode_words(load_tokenizer(shared / "tokenizers" / "modernbert"), [text], [word_spans(text)])
    trimmed = encode_words(tokenizer, [text], [word_spans(text)])
    assert trimmed.input_ids.tolist() == plain.input_ids.tolist()
    assert trimmed.words.tolist() == plain.words.tolist()


def test_offsets_of_wordpiece_need_no_trimming(wordpiece: PreTrainedTokenizerFast) -> None:
    before = wordpiece.backend_tokenizer.to_str()
    trim_offsets(wordpiece)
    assert wordpiece.backend_tokenizer.to_str() == before


def test_words_must_be_in_order_and_inside_the_text(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match=r"^text 1 \(counting from 0\): the word \(3, 9\) is empty, outside"):
        encode_words(tokenizer, ["a", "Hanna"], [[(0, 1)], [(0, 2), (3, 9)]])
    with pytest.raises(DataError, match=r"the word \(1, 3\) is empty, outside the text of 5 characters or before"):
        encode_words(tokenizer, ["Hanna"], [[(0, 2), (1, 3)]])
    with pytest.raises(DataError, match=r"one of the texts 0 to 0 .* holds half a character"):
        encode_words(tokenizer, ["a \ud800"], [[(0, 1)]])
    with pytest.raises(DataError, match="1 texts but 0 lists of words"):
        encode_words(tokenizer, ["a"], [])
    assert len(encode_words(tokenizer, [], [])) == 0
