"""JSONL, CSV, Parquet, Doccano, Label Studio and spaCy files give the same texts and entities."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modernbert.errors import ConfigError
from tasks.data.entities import read_entities, word_spans
from tasks.data.readers import Table
from tasks.data.schema import Report

TEXT = "Hanna Virtanen flew to Graz ."
SPANS = [(0, 14, "PER"), (23, 27, "LOC")]
TOKENS = TEXT.split()
TAGS = ["B-PER", "I-PER", "O", "O", "B-LOC", "O"]
LISTS = [list(span) for span in SPANS]


def keyed(start: str, end: str, label: str) -> list[dict[str, Any]]:
    return [{start: s, end: e, label: name} for s, e, name in SPANS]


RESULTS = [
    {"type": "labels", "from_name": "label", "to_name": "text",
     "value": {"start": s, "end": e, "text": TEXT[s:e], "labels": [name]}}
    for s, e, name in SPANS
] + [{"type": "choices", "value": {"choices": ["good"]}}]  # fmt: skip
CANCELLED = {"was_cancelled": True, "result": []}
STUDIO = {"id": 7, "data": {"message": TEXT}, "annotations": [CANCELLED, {"result": RESULTS}]}
V2_TOKENS = [{"orth": word, "ner": tag} for word, tag in zip(TOKENS, TAGS, strict=True)]
V2 = {"id": 0, "paragraphs": [{"raw": TEXT, "sentences": [{"tokens": V2_TOKENS}]}]}

FILES = {
    "lists.jsonl": {"text": TEXT, "entities": LISTS},
    "dicts.jsonl": {"text": TEXT, "spans": keyed("start", "end", "label")},
    "doccano.jsonl": {"id": 1, "text": TEXT, "label": LISTS},
    "doccano_relations.jsonl": {
        "id": 1,
        "text": TEXT,
        "entities": [dict(s, id=n) for n, s in enumerate(keyed("start_offset", "end_offset", "label"))],
        "relations": [],
        "Comments": [],
    },
    "prodigy.jsonl": {
        "text": TEXT,
        "tokens": [{"text": "Hanna", "start": 0, "end": 5, "id": 0}],
        "spans": [dict(s, token_start=0) for s in keyed("start", "end", "label")],
    },
    "pipeline.jsonl": {"text": TEXT, "entities": keyed("start", "end", "entity_group")},
    "studio_min.json": [{"id": 7, "text": TEXT, "label": [r["value"] for r in RESULTS[:2]]}],
    "studio.json": [STUDIO],
    "studio_old.json": [{"data": {"text": TEXT, "lang": "en"}, "completions": [{"result": RESULTS}]}],
    "spacy_doc.json": {"text": TEXT, "ents": keyed("start", "end", "label"), "tokens": [{"id": 0}]},
    "spacy_pairs.json": [[TEXT, {"entities": LISTS}]],
    "spacy_v2.json": [V2],
    "tokens.jsonl": {"id": "0", "tokens": TOKENS, "ner_tags": TAGS},
    "array.json": [{"tokens": TOKENS, "tags": TAGS}],
}  # fmt: skip
PRE_TOKENISED = ("spacy_v2.json", "tokens.jsonl", "array.json")


def read(path: Path, **more: Any) -> tuple[Table, Report]:
    report = Report()
    return read_entities(str(path), report=report, **more), report


def check(table: Table, report: Report, words: bool) -> None:
    assert table.columns["text"] == [TEXT]
    assert table.columns["entities"] == [SPANS]
    assert table.columns.get("words") == ([word_spans(TEXT)] if words else None)
    assert table.rows == [1]
    assert report.problems == []


@pytest.mark.parametrize("name", FILES)
def test_json(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(json.dumps(FILES[name]) + "\n", encoding="utf-8")
    check(*read(tmp_path / name), words=name in PRE_TOKENISED)


CSV_CELLS = {
    "json": (json.dumps(TOKENS), json.dumps(TAGS)),
    "python": (repr(TOKENS), repr(TAGS)),
    "plain": (" ".join(TOKENS), " ".join(TAGS)),
}


@pytest.mark.parametrize("cells", CSV_CELLS)
def test_csv_of_token_lists(tmp_path: Path, cells: str) -> None:
    quoted = ['"' + cell.replace('"', '""') + '"' for cell in CSV_CELLS[cells]]
    (tmp_path / "a.csv").write_text("tokens,ner_tags\n" + ",".join(quoted) + "\n", encoding="utf-8")
    table, report = read(tmp_path / "a.csv")
    assert table.rows == [2]
    table.rows = [1]
    check(table, report, words=True)


@pytest.mark.parametrize("spans", [json.dumps(LISTS), repr(SPANS), json.dumps(keyed("start", "end", "label"))])
def test_csv_of_spans(tmp_path: Path, spans: str) -> None:
    cell = spans.replace('"', '""')
    (tmp_path / "a.csv").write_text(f'id,body,entities\n7,{TEXT},"{cell}"\n', encoding="utf-8")
    table, report = read(tmp_path / "a.csv")
    assert table.columns["id"] == ["7"]
    assert table.columns["entities"] == [SPANS]
    assert report.problems == []


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.table({"tokens": [TOKENS], "tags": [TAGS]}), tmp_path / "a.parquet")
    check(*read(tmp_path / "a.parquet"), words=True)


def test_parquet_of_numbered_tags_with_names_in_its_schema(tmp_path: Path) -> None:
    names = sorted(set(TAGS))
    numbers = [names.index(tag) for tag in TAGS]
    feature = {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "List"}
    metadata = {"huggingface": json.dumps({"info": {"features": {"ner_tags": feature}}})}
    table = pa.table({"tokens": [TOKENS], "ner_tags": [numbers]}).replace_schema_metadata(metadata)
    pq.write_table(table, tmp_path / "a.parquet")
    check(*read(tmp_path / "a.parquet"), words=True)


def test_columns_are_named_and_others_kept(tmp_path: Path) -> None:
    row = {"note": TEXT, "found": LISTS, "entities": "the customer's", "text": "other", "day": 3}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    table, _ = read(tmp_path / "a.jsonl", columns={"text": "note", "entities": "found"})
    assert table.columns["text"] == [TEXT]
    assert table.columns["entities"] == [SPANS]
    assert table.columns["day"] == [3]
    with pytest.raises(ConfigError, match=r"has no such column"):
        read(tmp_path / "a.jsonl", columns={"text": "nothing"})


def test_a_column_whose_name_is_needed_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"id,text,body,text_given\n1,mine,{TEXT},too\n", encoding="utf-8")
    found = read_entities(str(path), {"text": "body"}, report=Report(), predict=True)
    assert {name: cells[0] for name, cells in found.columns.items()} == {
        "id": "1", "text": TEXT, "body": TEXT, "text_given": "too", "text_given_given": "mine",
    }  # fmt: skip


def test_prediction_needs_and_reads_no_answers(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": TEXT, "id": 1}) + "\n", encoding="utf-8")
    table, _ = read(tmp_path / "a.jsonl", predict=True)
    assert table.columns == {"text": [TEXT], "id": [1]}
    (tmp_path / "b.jsonl").write_text(json.dumps({"tokens": TOKENS}) + "\n", encoding="utf-8")
    table, _ = read(tmp_path / "b.jsonl", predict=True)
    assert table.columns["words"] == [word_spans(TEXT)]
    assert "entities" not in table.columns


def test_the_project_s_own_example(root: Path) -> None:
    for name, rows, entities in (("support_ner.jsonl", 180, 318), ("support_ner_test.jsonl", 54, 93)):
        table, report = read(root / "examples" / name)
        assert len(table) == rows
        assert sum(map(len, table.columns["entities"])) == entities
        assert report.problems == []


def test_docbin_by_spacy(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy", reason="spaCy is optional: without it the error has the command")
    doc = spacy.blank("en")(TEXT)
    doc.ents = [doc.char_span(*span[:2], label=span[2]) for span in SPANS]
    spacy.tokens.DocBin(docs=[doc]).to_disk(tmp_path / "a.spacy")
    check(*read(tmp_path / "a.spacy"), words=False)
