"""The rows that peers are trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.bench import ner_peer
from modernbert.sources import resolve
from tasks.data.entities import TagSet, read_entities
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer


def test_a_word_is_tagged_at_its_first_subword(tmp_path: Path) -> None:
    file = tmp_path / "a.conll"
    file.write_text("Zyxvania\tB-LOC\nis\tO\nfar\tO\n\nno\tO\nnames\tO\n", encoding="utf-8")
    table = read_entities(str(file), {}, report=Report())
    tags = TagSet(("LOC",), "BIO")
    first, second = ner_peer.token_rows(table, tags, load_tokenizer(resolve("minilm")), 64)
    pieces = first["words"].count(0)
    assert pieces > 1
    begin = tags.names.index("B-LOC")
    outside = tags.names.index("O")
    assert first["labels"] == [-100, begin, *[-100] * (pieces - 1), outside, outside, -100]
    assert second["labels"] == [-100, outside, outside, -100]


def test_first_subwords_of_words() -> None:
    assert list(ner_peer.first_subwords([None, 0, 0, 2, 2, None])) == [(1, 0), (3, 2)]


def test_quality_is_that_of_whole_spans() -> None:
    pytest.importorskip("seqeval")
    gold = [["B-LOC", "I-LOC", "O", "B-PER"]]
    found = [["B-LOC", "O", "O", "B-PER"]]
    assert ner_peer.quality(gold, found) == {"f1": 0.5, "precision": 0.5, "recall": 0.5}
