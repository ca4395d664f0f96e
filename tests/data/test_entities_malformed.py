"""Malformed files of spans and of token lists, each with the exact words it must give."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modernbert.errors import ModernBertError
from tasks.data.entities import read_entities
from tasks.data.schema import Report

COUNT = "Count characters from 0; the end is the place after the last character"
SPAN = 'Write spans as [start, end, "LABEL"] or {"start": …, "end": …, "label": …}, and [] for none'

# name, content, message: of the error that stops reading, or of each finding in the report
MALFORMED: list[tuple[str, str | bytes, str]] = [
    (
        "one_word.csv",
        "Sentence,Word,Tag\n1,Hanna,B-PER\n1,flew,O\n",
        "one_word.csv: each row of 'Word' is a single word. Put the words of a sentence in one row "
        "as a JSON list, and its tags likewise; or save it as .conll: a word and its tag a line, a "
        "blank line between sentences",
    ),
    (
        "not_json.jsonl",
        '{"text": "Hanna", "entities": []}\n{"text": \n',
        "not_json.jsonl: 1 row cannot be read\n"
        "  line 2: not valid JSON: Expecting value at character 9\n"
        'Each line must be one JSON object of column names and values, such as {"text": "…", '
        '"label": "…"}.',
    ),
    (
        "no_text.jsonl",
        '{"id": 1, "entities": []}\n',
        "no_text.jsonl: no column is clearly the text (what to read); its columns: 'id', 'entities'. "
        "Set data.columns.text=<column>",
    ),
    (
        "no_entities.jsonl",
        '{"text": "Hanna flew to Graz.", "id": 1}\n',
        "no_entities.jsonl: no column is clearly the entities (spans as [[start, end, label], …]); "
        "its columns: 'text', 'id'. Set data.columns.entities=<column>",
    ),
    (
        "missing.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": null}\n',
        "warning missing.jsonl:1: no spans are given: read as a text without entities. " + SPAN,
    ),
    (
        "past_end.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[14, 25, "PLACE"]]}\n',
        "warning past_end.jsonl:1: span 1 (14, 25, 'PLACE') ends after the text of 19 characters: "
        "cut to (14, 19). " + COUNT,
    ),
    (
        "outside.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[30, 35, "PLACE"]]}\n',
        "warning outside.jsonl:1: span 1 (30, 35, 'PLACE') lies outside the text of 19 characters: dropped. " + COUNT,
    ),
    (
        "negative.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[-3, 5, "PERSON"]]}\n',
        "warning negative.jsonl:1: span 1 (-3, 5, 'PERSON') lies outside the text of 19 characters: dropped. " + COUNT,
    ),
    (
        "backwards.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[5, 0, "PERSON"]]}\n',
        "warning backwards.jsonl:1: span 1 (5, 0, 'PERSON') ends before it starts: dropped. " + COUNT,
    ),
    (
        "nothing.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[5, 5, "PERSON"]]}\n',
        "warning nothing.jsonl:1: span 1 (5, 5, 'PERSON') is empty: dropped. " + COUNT,
    ),
    (
        "space.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[13, 19, "PLACE"], [5, 6, "PLACE"]]}\n',
        "warning space.jsonl:1: span 1 (13, 19, 'PLACE') has white space around it: ' Graz.': "
        "trimmed to (14, 19). Mark the words without the white space around them\n"
        "warning space.jsonl:1: span 2 (5, 6, 'PLACE') is only white space: dropped. Mark the words "
        "without the white space around them",
    ),
    (
        "cuts.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[0, 4, "PERSON"]]}\n',
        "warning cuts.jsonl:1: span 1 (0, 4, 'PERSON') cuts a word: 'Hann': set to (0, 5), 'Hanna'. Mark whole words",
    ),
    (
        "overlap.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[0, 5, "PERSON"], [0, 10, "EVENT"]]}\n',
        "warning overlap.jsonl:1: span 1 (0, 5, 'PERSON') overlaps span 2: dropped. Keep one of "
        "them: a word has one label here",
    ),
    (
        "twice.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[0, 5, "PERSON"], [0, 5, "PERSON"]]}\n',
        "warning twice.jsonl:1: span 2 (0, 5, 'PERSON') is given twice, as span 1: dropped. Remove one",
    ),
    (
        "text_moved.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [{"start": 0, "end": 4, "label": "PERSON", "text": "Hanna"}]}\n',
        "warning text_moved.jsonl:1: span 1 (0, 4, 'PERSON') is 'Hann' but its own text says "
        "'Hanna': moved to (0, 5). " + COUNT,
    ),
    (
        "text_other.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [{"start": 0, "end": 5, "label": "PERSON", "text": "Anna B"}]}\n',
        "warning text_other.jsonl:1: span 1 (0, 5, 'PERSON') is 'Hanna' but its own text says 'Anna "
        "B': dropped. " + COUNT,
    ),
    (
        "invisible.jsonl",
        '{"text": "a \u200b b", "entities": [[2, 3, "X"]]}\n',
        "warning invisible.jsonl:1: span 1 (2, 3, 'X') has no word: '\\u200b': dropped. Mark whole words",
    ),
    (
        "no_label.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[0, 5]]}\n',
        'error no_label.jsonl:1: span 1 is [0, 5], not [start, end, "LABEL"] or {"start": …, "end": '
        '…, "label": …}. ' + SPAN,
    ),
    (
        "empty_label.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[0, 5, " "]]}\n',
        'error empty_label.jsonl:1: span 1 has an empty label: [0, 5, " "]. ' + SPAN,
    ),
    (
        "fraction.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": [[0.5, 5, "PERSON"]]}\n',
        'error fraction.jsonl:1: span 1 is [0.5, 5, "PERSON"], not [start, end, "LABEL"] or '
        '{"start": …, "end": …, "label": …}. ' + SPAN,
    ),
    (
        "no_list.jsonl",
        '{"text": "Hanna flew to Graz.", "entities": {"PERSON": "Hanna"}}\n',
        'error no_list.jsonl:1: spans: {"PERSON": "Hanna"}, not a list such as [[0, 5, "PERSON"]]. ' + SPAN,
    ),
    (
        "cell.csv",
        'text,entities\nHanna flew,"[[0, 5, PERSON]"\n',
        "error cell.csv:2: spans: '[[0, 5, PERSON]', not a list such as [[0, 5, \"PERSON\"]]. " + SPAN,
    ),
    (
        "numpy.csv",
        "tokens,tags\n\"['Hanna' 'flew']\",\"['B-PER' 'O']\"\n",
        "error numpy.csv:2: words: \"['Hanna' 'flew']\" without commas, not a list such as [\"Hanna\", "
        '"lives", "here"]. Write a JSON list of texts\n'
        "error numpy.csv:2: tags: \"['B-PER' 'O']\" without commas, not a list such as [\"Hanna\", "
        '"lives", "here"]. Write a JSON list of texts',
    ),
    (
        "count.jsonl",
        '{"tokens": ["Hanna", "flew"], "tags": ["B-PER"]}\n',
        "error count.jsonl:1: the number of words is 2, of tags 1. Give one tag for each word",
    ),
    (
        "numbers.jsonl",
        '{"tokens": ["Hanna", "flew"], "ner_tags": [1, 0]}\n',
        "error numbers.jsonl:1: tags: item 1 is 1, not a text. Write the names of the tags, such as "
        "B-PERSON, not their numbers",
    ),
    (
        "null_word.jsonl",
        '{"tokens": ["Hanna", null], "tags": ["B-PER", "O"]}\n',
        "error null_word.jsonl:1: words: item 2 is null, not a text. Write a JSON list of texts",
    ),
    (
        "several.json",
        '[{"data": {"text": "Hanna flew to Graz."}, "annotations": [{"result": []}, {"result": []}]}]',
        "warning several.json:1: 2 annotations of one task: the first is used. Export one annotation a task",
    ),
    (
        "old.json",
        '[{"id": 0, "paragraphs": [{"raw": "x"}]}]',
        "old.json: document 1 is not paragraphs of sentences of tokens with 'orth' and 'ner', as "
        "spaCy 2 wrote them: export it again, or as JSONL of text and entities",
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


def test_docbin_without_spacy_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "spacy", None)  # what Python has where it is not installed
    Path("corpus.spacy").write_bytes(b"\x78\x9c")
    with pytest.raises(ModernBertError) as caught:
        read_entities("corpus.spacy", report=Report())
    assert str(caught.value) == (
        "corpus.spacy is a spaCy DocBin, which only spaCy can read, and spaCy is not installed. Install it, or "
        'convert the file where it is and give the .jsonl:\npython -c "\nimport json, spacy\n'
        "from spacy.tokens import DocBin\n"
        "for doc in DocBin().from_disk('corpus.spacy').get_docs(spacy.blank('xx').vocab):\n"
        "    spans = [[e.start_char, e.end_char, e.label_] for e in doc.ents]\n"
        "    print(json.dumps({'text': doc.text, 'entities': spans}))\n"
        '" > corpus.jsonl'
    )


@pytest.mark.parametrize(("repair", "level", "left"), [("drop", "warning", []), ("error", "error", [])])
def test_faulty_spans_are_dropped_or_errors_where_asked(
    tmp_path: Path, repair: str, level: str, left: list[object]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "Hanna flew to Graz.", "entities": [[13, 18, "PLACE"]]}\n', encoding="utf-8")
    report = Report()
    table = read_entities(str(path), report=report, repair=repair)  # type: ignore[arg-type]
    (problem,) = report.problems
    assert (problem.level, problem.code, problem.row, problem.column) == (level, "span-white-space", 1, "entities")
    assert problem.what.endswith(": dropped") == (repair == "drop")
    assert table.columns["entities"] == [left]
