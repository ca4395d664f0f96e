"""Reading raw text, tokenizers of new encoders, and the stream that steps are cut from."""

from __future__ import annotations

import gzip
import json
import lzma
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer

from modernbert.errors import ConfigError, DataError
from tasks.pretraining.stream import Cursor, Stream, hold_out
from tasks.pretraining.text import Document, find_files, read_documents, sentences
from tasks.pretraining.tokenizer import SPECIALS, prune_tokenizer, train_tokenizer

ARTICLES = "First Title\n\nOne line.\nAnother line.\n\f\nSecond Title\n\nOnly this.\n"
EXPECTED = [Document("First Title", ("One line.", "Another line.")), Document("Second Title", ("Only this.",))]


@pytest.mark.parametrize("suffix", ["", ".gz", ".xz"])
def test_form_feeds_part_documents_compressed_or_not(tmp_path: Path, suffix: str) -> None:
    opener = {"": open, ".gz": gzip.open, ".xz": lzma.open}[suffix]
    path = tmp_path / f"wiki.txt{suffix}"
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(ARTICLES)
    assert list(read_documents([path])) == EXPECTED


def test_a_file_without_form_feed_is_one_document_without_title(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("\ufefffirst note\nsecond note\r\n\nthird\n", encoding="utf-8")
    assert list(read_documents([path])) == [Document("", ("first note", "second note", "third"))]


def test_a_line_of_jsonl_is_a_document(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a\\n\\nb"}\n\n{"title": "T", "text": "c", "id": 3}\n{"text": ""}\n')
    assert list(read_documents([path])) == [Document("", ("a", "b")), Document("T", ("c",))]


@pytest.mark.parametrize("line", ["[1]", '{"text": 3}', "{broken", '{"texts": "a"}'])
def test_a_bad_line_of_jsonl_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"rows.jsonl, line 2"):
        list(read_documents([path]))


def test_damaged_and_foreign_files_are_refused_by_name(tmp_path: Path) -> None:
    torn = tmp_path / "torn.txt.xz"
    torn.write_bytes(lzma.compress(ARTICLES.encode() * 50)[:-20])
    with pytest.raises(DataError, match=r"torn\.txt\.xz is damaged"):
        list(read_documents([torn]))
    latin = tmp_path / "latin.txt"
    latin.write_bytes("Stra\u00dfe\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"latin\.txt is not UTF-8"):
        list(read_documents([latin]))


def test_a_folder_stands_for_its_text_files_in_order(tmp_path: Path) -> None:
    for name in ("b/two.txt", "a.jsonl", "b/one.md", "picture.png", "c.txt.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert [p.relative_to(tmp_path).as_posix() for p in find_files(str(tmp_path))] == [
        "a.jsonl", "b/one.md", "b/two.txt", "c.txt.gz",
    ]  # fmt: skip
    assert find_files([str(tmp_path / "a.jsonl")]) == [tmp_path / "a.jsonl"]
    for wrong in ("nowhere.txt", [], [str(tmp_path / "b" / "empty")]):
        with pytest.raises(DataError, match=r"data\.text"):
            find_files(wrong)


def test_sentences_end_before_capitals_and_figures_only() -> None:
    paragraph = 'Born in 1902. He met Dr. smith; e.g. twice. "Well!" he said. 30 came.'
    assert sentences(paragraph) == ["Born in 1902.", "He met Dr. smith; e.g. twice.", '"Well!" he said.', "30 came."]


def test_trained_tokenizer_is_lossless_and_reads_in_transformers(tmp_path: Path) -> None:
    texts = ["the parcel has not come yet", "the parcel came broken", "Straße und Öl"] * 20
    ours = train_tokenizer(texts, 300, tmp_path, 8192)
    assert ours.get_vocab_size() == 300
    assert [ours.token_to_id(name) for name in SPECIALS] == [0, 1, 2, 3, 4]
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.model_max_length == 8192
    for text in ("the parcel", "Zürich 漢字 🙂", "two  spaces\tand a tab"):
        assert theirs(text)["input_ids"] == ours.encode(text).ids
        assert ours.decode(ours.encode(text).ids).strip() == text
    # A word has one token wherever it stands.
    assert (
        ours.encode("parcel", add_special_tokens=False).ids
        == ours.encode("the parcel", add_special_tokens=False).ids[1:]
    )
    assert theirs("a", "b")["input_ids"][0] == theirs.cls_token_id
    with pytest.raises(ConfigError, match="vocab_size=200"):
        train_tokenizer(texts, 200, tmp_path, 512)


def wordpiece(words: list[str]) -> Tokenizer:
    """BERT's tokenizer with single letters and `words`."""
    letters = [chr(c) for c in range(33, 127) if not chr(c).isupper()]
    entries = [
        "[PAD]",
        "[unused0]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *letters,
        *("##" + c for c in letters),
        *words,
    ]
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    return tokenizer


def test_a_pruned_tokenizer_keeps_what_the_text_needs(tmp_path: Path) -> None:
    words = [f"word{i}" for i in range(200)] + ["parcel", "money", "##s"]
    old = wordpiece(words)
    new = prune_tokenizer(old, ["parcels money parcel", "word7"], 262, tmp_path, 128)
    assert new.get_vocab_size() == 262
    assert [new.token_to_id(name) for name in SPECIALS] == [0, 1, 2, 3, 4]
    assert new.encode("Parcels money!").tokens == ["[CLS]", "parcel", "##s", "money", "!", "[SEP]"]
    assert new.encode("Parcels").ids[0] == 2
    # A word that went is spelled, not unknown.
    gone = next(word for word in words if new.token_to_id(word) is None)
    assert "[UNK]" not in new.encode(gone).tokens
    assert new.encode(gone).tokens != old.encode(gone).tokens
    assert AutoTokenizer.from_pretrained(tmp_path)("parcels")["input_ids"] == new.encode("parcels").ids
    with pytest.raises(ConfigError, match="vocab_size=900"):
        prune_tokenizer(old, ["x"], 900, tmp_path, 128)
    bpe = train_tokenizer(["some text"], 263, tmp_path / "bpe", 128)
    with pytest.raises(ConfigError, match="WordPiece"):
        prune_tokenizer(bpe, ["x"], 262, tmp_path, 128)


@pytest.fixture
def numbered(tmp_path: Path) -> Path:
    """60 documents, the i-th of which is i + 1 letters long."""
    path = tmp_path / "many.txt"
    path.write_text("\n\f\n".join("x" * (i + 1) for i in range(60)))
    return path


def stream_of(path: Path, batch_tokens: int = 100, held_out: int = 0, seed: int = 0) -> Stream[str]:
    def make(documents: list[Document], random: np.random.Generator) -> list[str]:
        return [document.text for document in documents]

    return Stream([path], make, batch_tokens, 80, seed, held_out)


def test_an_epoch_has_every_example_once(numbered: Path) -> None:
    seen: list[int] = []
    steps = stream_of(numbered).steps(Cursor())
    for step in steps:
        if step.after.epoch:
            break
        for batch in step.batches:
            assert sum(map(len, batch)) <= 80
            seen += map(len, batch)
    assert sorted(seen) == list(range(1, 61))


def test_steps_hold_about_the_tokens_asked_for(numbered: Path) -> None:
    tokens = [step.tokens for step in islice(stream_of(numbered).steps(Cursor()), 18)]
    assert len(tokens) == 18
    assert all(40 <= count <= 260 for count in tokens)


@pytest.mark.parametrize("buffer", [2_000, 25])
def test_a_cursor_goes_on_as_if_there_had_been_no_stop(
    numbered: Path, buffer: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.pretraining.stream.BUFFER", buffer)
    whole = list(islice(stream_of(numbered, held_out=3).steps(Cursor()), 45))
    for at in (0, 7, 17, 30, 44):
        rest = list(islice(stream_of(numbered, held_out=3).steps(whole[at].after), 45 - at - 1))
        assert [step.batches for step in rest] == [step.batches for step in whole[at + 1 :]]


def test_order_follows_the_seed_and_changes_by_epoch(numbered: Path) -> None:
    first = next(iter(stream_of(numbered).steps(Cursor())))
    other = next(iter(stream_of(numbered, seed=1).steps(Cursor())))
    later = next(iter(stream_of(numbered).steps(Cursor(1))))
    assert first.batches != other.batches
    assert first.batches != later.batches


def test_held_out_documents_are_the_first_and_never_trained_on(numbered: Path) -> None:
    held = hold_out([numbered], 5)
    assert [len(document.text) for document in held] == [1, 2, 3, 4, 5]
    lengths = set()
    for step in stream_of(numbered, held_out=len(held)).steps(Cursor()):
        if step.after.epoch == 2:
            break
        lengths |= {len(text) for batch in step.batches for text in batch}
    assert lengths == set(range(6, 61))


def test_a_text_without_any_example_is_refused_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("\n\n")
    with pytest.raises(DataError, match="no text"):
        next(iter(stream_of(path).steps(Cursor())))
    assert hold_out([path], 5) == []


def test_settings_of_a_tokenizer_are_plain_json(tmp_path: Path) -> None:
    train_tokenizer(["abc"], 263, tmp_path, 64)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (settings["mask_token"], settings["model_max_length"]) == ("[MASK]", 64)
