"""The pre-split of plain text, tag schemes, and tags to entities and back."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from modernbert.errors import ConfigError, DataError
from tasks.data.entities import TagSet, word_spans
from tasks.data.entities.tags import detect_scheme, runs

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"

SPLITS = [
    ("Hanna's U.S.), 5kg", ["Hanna", "'", "s", "U", ".", "S", ".", ")", ",", "5kg"]),
    ("café cafe\u0301 naïve", ["café", "cafe\u0301", "naïve"]),
    (f"hi{FAMILY}there \u2764\ufe0f!", ["hi", FAMILY, "there", "\u2764\ufe0f", "!"]),
    ("\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", ["\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"]),
    ("\U0001f44d\U0001f3fd\U0001f44d", ["\U0001f44d\U0001f3fd", "\U0001f44d"]),
    ("a \u200b b\u200b", ["a", "b"]),
    ("x\u200by \u2067שלום\u2069", ["x\u200by", "שלום"]),
    ("اَلسَّلَام می\u200cخواهم", ["اَلسَّلَام", "می\u200cخواهم"]),
    ("मुंबई", ["मुंबई"]),
    ("我在Graz。", ["我", "在", "Graz", "。"]),
    ("สวัสดี", ["ส", "วั", "ส", "ดี"]),
    ("a_b\u00a0#c\n@d €20", ["a", "_", "b", "#", "c", "@", "d", "€", "20"]),
    ("\u200b \n", []),
    ("", []),
]


@pytest.mark.parametrize(("text", "words"), SPLITS)
def test_word_spans(text: str, words: list[str]) -> None:
    assert [text[start:end] for start, end in word_spans(text)] == words


def test_words_are_in_order_and_cover_what_shows() -> None:
    draw = random.Random(0)
    pool = [chr(c) for c in (*range(0x20, 0x250), 0x301, 0x200B, 0x200D, 0xFE0F, *range(0x1F600, 0x1F650), 0x4E2D)]
    for _ in range(300):
        text = "".join(draw.choices(pool, k=40))
        spans = word_spans(text)
        assert all(a < b for a, b in spans)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        covered = {i for start, end in spans for i in range(start, end)}
        assert all(i in covered for i, c in enumerate(text) if c.isalnum() or "!" <= c <= "~")


SCHEMES = [
    ("BIO", [["O", "B-A", "I-A", "O"], ["B-B"]]),
    ("IOB1", [["I-A", "I-A", "B-A", "O"], ["O", "I-B"]]),
    ("BIOES", [["B-A", "E-A", "O"], ["S-A"]]),
    ("BIOES", [["B-A", "L-A", "O"], ["U-A"]]),
    ("BIOES", [["B-A", "M-A", "E-A"]]),
    ("IO", [["A", "A", "O"], ["B"]]),
    ("BIO", [["O", "O"]]),
]


@pytest.mark.parametrize(("scheme", "sentences"), SCHEMES)
def test_detect_scheme(scheme: str, sentences: list[list[str]]) -> None:
    assert detect_scheme(sentences) == scheme


READ = [
    ("BIO", ["B-A", "I-A", "B-A", "O", "B-x-y"], [(0, 2, "A"), (2, 3, "A"), (4, 5, "x-y")]),
    ("IOB1", ["I-A", "I-A", "B-A", "I-B"], [(0, 2, "A"), (2, 3, "A"), (3, 4, "B")]),
    ("BIOES", ["B-A", "I-A", "E-A", "S-A", "S-A"], [(0, 3, "A"), (3, 4, "A"), (4, 5, "A")]),
    ("BIOES", ["B-A", "L-A", "U-A"], [(0, 2, "A"), (2, 3, "A")]),
    ("IO", ["A", "A", "O", "B"], [(0, 2, "A"), (3, 4, "B")]),
]


@pytest.mark.parametrize(("scheme", "tags", "expected"), READ)
def test_runs(scheme: str, tags: list[str], expected: list[tuple[int, int, str]]) -> None:
    found = runs(tags, scheme)
    assert [(run.start, run.stop, run.label) for run in found] == expected
    assert not any(run.fault for run in found)


def test_faults_of_runs_name_both_tags() -> None:
    assert [run.fault for run in runs(["O", "I-A", "I-B"], "BIO")] == ["I-A follows O", "I-B follows I-A"]
    assert [run.fault for run in runs(["I-A"], "BIO")] == ["I-A follows the start of the sentence"]
    assert [run.fault for run in runs(["B-A", "O", "S-A"], "BIOES")] == ["B-A is not followed by E-A", None]


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_entities_to_tags_and_back(scheme: str) -> None:
    text = "Hanna Maria Virtanen met Bo Bo in New York"
    words = word_spans(text)
    entities = [(0, 20, "PER"), (25, 27, "PER"), (28, 30, "PER"), (34, 42, "LOC")]
    tags = TagSet(("LOC", "PER"), scheme)
    ids = tags.encode(entities, words)
    names = [tags.names[i] for i in ids]
    expected = {
        "BIO": "B-PER I-PER I-PER O B-PER B-PER O B-LOC I-LOC",
        "BIOES": "B-PER I-PER E-PER O S-PER S-PER O B-LOC E-LOC",
    }
    assert " ".join(names) == expected[scheme]
    assert tags.decode(ids, words) == entities


def test_seqeval_agrees_on_random_tags() -> None:
    seqeval = pytest.importorskip("seqeval.metrics.sequence_labeling")
    draw = random.Random(1)
    tags = TagSet(("A", "B"))
    for _ in range(300):
        names = draw.choices(tags.names, k=12)
        words = [(2 * i, 2 * i + 1) for i in range(12)]
        ours = [(s // 2, e // 2, label) for s, e, label in tags.decode([tags.ids[n] for n in names], words)]
        assert ours == [(start, end, label) for label, start, end in seqeval.get_entities(names)]


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
def test_transitions_allow_valid_sequences_only(scheme: str) -> None:
    tags = TagSet(("A", "B"), scheme)
    table = tags.transitions()
    draw = random.Random(2)
    valid = 0
    for _ in range(2000):
        names = draw.choices(tags.names, k=4)
        path = [-1, *[tags.ids[name] for name in names], len(tags.names)]
        allowed = all(table[a, b] for a, b in pairwise(path))
        assert allowed == (not any(run.fault for run in runs(names, scheme)))
        valid += allowed
    assert 20 < valid < 1500


def test_tag_sets_and_entities_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"task.scheme=IOB1: allowed are BIO and BIOES"):
        TagSet(("A",), "IOB1")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="each must be there once"):
        TagSet(("A", "A"))
    words = word_spans("Hanna flew home")
    with pytest.raises(DataError, match="does not begin and end with a word"):
        TagSet(("A",)).encode([(0, 3, "A")], words)
    with pytest.raises(DataError, match="overlaps another"):
        TagSet(("A",)).encode([(0, 10, "A"), (6, 10, "A")], words)
    with pytest.raises(DataError, match="not among A"):
        TagSet(("A",)).encode([(0, 5, "B")], words)
    with pytest.raises(DataError, match="2 tags for 3 words"):
        TagSet(("A",)).decode([0, 0], words)
