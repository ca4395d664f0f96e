"""Malformed CoNLL files, each with the exact words it must give."""

from __future__ import annotations

from pathlib import Path

import pytest

from modernbert.errors import ModernBertError
from tasks.data.entities import read_entities
from tasks.data.schema import Report

TAGS = "O, or B-, I- (with E-, S- or L-, U-) before the label, such as B-PERSON"
LINE = "Each line must be a word and its tag with a tab or spaces between, sentences apart by a blank line"

# name, content, message: of the error that stops reading, or of each finding in the report
MALFORMED: list[tuple[str, str | bytes, str]] = [
    (
        "empty.conll",
        "",
        "empty.conll is empty",
    ),
    (
        "blank.conll",
        "\n \n\n",
        "blank.conll has no sentence. " + LINE,
    ),
    (
        "comments.conll",
        "# nothing\n\n",
        "comments.conll has no sentence. " + LINE,
    ),
    (
        "words.conll",
        "Hanna\nflew\n",
        "words.conll has one column: it needs a tag beside each word. " + LINE,
    ),
    (
        "few.conll",
        "Hanna\tB-PER\nflew\n\nto\tO\nGraz\tB-LOC\n",
        "few.conll: 1 row cannot be read\n  line 2: 1 column, expected 2: 'flew'\n" + LINE + ".",
    ),
    (
        "many.conll",
        "Hanna NNP B-PER\nflew VBD O\nto the O O\n",
        "many.conll: 1 row cannot be read\n  line 3: 4 columns, expected 3: 'to the O O'\n" + LINE + ".",
    ),
    (
        "no_tag.conll",
        "Hanna\tB-PER\nflew\t\n",
        "no_tag.conll: 1 row cannot be read\n"
        "  line 2: the tag is missing (allowed: " + TAGS + "): 'flew\\t'\n" + LINE + ".",
    ),
    (
        "no_word.conll",
        "Hanna\tB-PER\n\tO\n",
        "no_word.conll: 1 row cannot be read\n  line 2: the word is missing: '\\tO'\n" + LINE + ".",
    ),
    (
        "latin.conll",
        b"Z\xfcrich\tB-LOC\nhe\xc3\xbc\tO\ng\xc3\xbct\tO\n",
        "latin.conll: line 1 is not valid UTF-8, though 2 other lines with non-ASCII characters are: "
        "two encodings are mixed, or the file is damaged. Mend it, or save all as UTF-8",
    ),
    (
        "nul.conll",
        b"Hanna\tB-PER\nfl\x00ew\tO\n",
        "nul.conll: line 2 has a NUL byte: the file is damaged or not text",
    ),
    (
        "orphan.conll",
        "Hanna\tB-PER\nflew\tO\nto\tI-LOC\nGraz\tI-LOC\n\nGraz\tB-LOC\n",
        "warning orphan.conll:3: invalid tags: I-LOC follows O: read as one LOC of 2 words. Begin each entity with B-",
    ),
    (
        "change.conll",
        "Hanna\tB-PER\nGraz\tI-LOC\nX\tB-LOC\n",
        "warning change.conll:2: invalid tags: I-LOC follows B-PER: read as one LOC of 1 word. Begin "
        "each entity with B-",
    ),
    (
        "open.conll",
        "Hanna\tB-PER\nflew\tO\nGraz\tS-LOC\n",
        "warning open.conll:1: invalid tags: B-PER is not followed by E-PER: read as one PER of 1 "
        "word. Tag each entity B-, I-, E- or S-",
    ),
    (
        "end.conll",
        "Hanna\tS-PER\nflew\tE-PER\n",
        "warning end.conll:2: invalid tags: E-PER follows S-PER: read as one PER of 1 word. Tag each "
        "entity B-, I-, E- or S-",
    ),
    (
        "unknown.conll",
        "Hanna\tB-PER\nflew\t0\nGraz\tLOC\n",
        "error unknown.conll:2: '0' (word 2, 'flew') is not a tag. Allowed: " + TAGS + "\n"
        "error unknown.conll:3: 'LOC' (word 3, 'Graz') is not a tag. Allowed: " + TAGS,
    ),
    (
        "bytag.conll",
        "Hanna\t1\nflew\t0\n",
        "bytag.conll: the tags are numbers ('0', '1'); write their names: " + TAGS,
    ),
    (
        "vocabulary.conll",
        "".join(f"a\tword{i}\n" for i in range(201)),
        "vocabulary.conll: 201 different tags without a prefix ('word0', 'word1', 'word10' …): is "
        "this the column of tags? Allowed: " + TAGS + ", or bare labels, 200 at most",
    ),
]


@pytest.mark.parametrize(("name", "content", "message"), MALFORMED, ids=[name for name, _, _ in MALFORMED])
def test_malformed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str | bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    report = Report()
    try:
        read_entities(name, report=report)
        said = "\n".join(f"{p.level} {p.place}: {p.what}. {p.mend}" for p in report.problems)
    except ModernBertError as error:
        said = str(error)
    assert said == message
