"""Label Studio and spaCy exports, as rows with a text and spans."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from modernbert.errors import DataError
from tasks.data.readers.table import Table
from tasks.data.schema import Problem, Report

TO_JSONL = """python -c "
import json, spacy
from spacy.tokens import DocBin
for doc in DocBin().from_disk('{name}').get_docs(spacy.blank('xx').vocab):
    spans = [[e.start_char, e.end_char, e.label_] for e in doc.ents]
    print(json.dumps({{'text': doc.text, 'entities': spans}}))
" > {stem}.jsonl"""


def docbin(source: str, path: Path) -> Table:
    """The documents of a .spacy file, by spaCy: words are hashes there that only its symbol table can turn back.

    Raises:
        DataError: spaCy is not installed (the message has the command that converts the file), or it refuses.
    """
    try:
        import spacy
        from spacy.tokens import DocBin
    except ImportError as error:
        raise DataError(
            f"{source} is a spaCy DocBin, which only spaCy can read, and spaCy is not installed. Install it, or "
            f"convert the file where it is and give the .jsonl:\n{TO_JSONL.format(name=source, stem=path.stem)}"
        ) from error
    try:
        documents = list(DocBin().from_disk(path).get_docs(spacy.blank("xx").vocab))
    except (ValueError, KeyError, TypeError, zlib.error) as error:
        raise DataError(f"{source}: damaged, or of another spaCy: {error}. Convert it to JSONL there") from error
    spans = [[(ent.start_char, ent.end_char, ent.label_) for ent in doc.ents] for doc in documents]
    columns = {"text": [doc.text for doc in documents], "entities": spans}
    return Table(source, columns, list(range(1, len(documents) + 1)), ["format: spaCy DocBin"])


def is_label_studio(table: Table) -> bool:
    """A full export: tasks with `data` and `annotations` (in old versions `completions`)."""
    data = table.columns.get("data", [])
    return any(isinstance(item, dict) for item in data) and _answers(table) is not None


def label_studio(table: Table, text_key: str | None, report: Report) -> Table:
    """The tasks as rows with `text` and `entities`; of several annotations of a task the first counts.

    Raises:
        DataError: no or several texts in a task's `data`.
    """
    answers = table.columns[_answers(table) or ""]
    texts, entities = [], []
    for row, data, answer in zip(table.rows, table.columns["data"], answers, strict=True):
        texts.append(_task_text(table.source, row, data, text_key))
        done = [a for a in answer or () if isinstance(a, dict) and not a.get("was_cancelled")]
        if len(done) > 1:
            what = f"{len(done)} annotations of one task: the first is used"
            mend = "Export one annotation a task"
            report.add(Problem("warning", "annotations-several", table.source, row, "annotations", what, mend))
        entities.append(_results(done[0]) if done else None)
    columns = {name: values for name, values in table.columns.items() if name not in ("text", "entities")}
    columns |= {"text": texts, "entities": entities}
    return Table(table.source, columns, table.rows, [*table.notes, "format: Label Studio export"])


def is_spacy_pairs(value: Any) -> bool:
    """`[[text, {"entities": [...]}], ...]`, the training data of spaCy's examples."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(i, list) and len(i) == 2 and isinstance(i[1], dict) for i in value)
    )


def spacy_pairs(source: str, value: list[Any]) -> Table:
    """Such pairs as rows."""
    texts = [text for text, _ in value]
    entities = [annotations.get("entities") for _, annotations in value]
    columns = {"text": texts, "entities": entities}
    return Table(source, columns, list(range(1, len(value) + 1)), ["format: spaCy training data"])


def is_spacy_v2(table: Table) -> bool:
    """spaCy 2's JSON: documents of paragraphs of sentences of tokens."""
    return "paragraphs" in table.columns


def spacy_v2(table: Table) -> Table:
    """Each sentence as a row of tokens and tags; a token without a tag (`-` or none) is O.

    Raises:
        DataError: a document that is not nested so.
    """
    tokens, tags, rows = [], [], []
    for row, paragraphs in zip(table.rows, table.columns["paragraphs"], strict=True):
        try:
            sentences = [s["tokens"] for paragraph in paragraphs for s in paragraph["sentences"]]
            for sentence in sentences:
                tokens.append([token["orth"] for token in sentence])
                tags.append(["O" if token.get("ner") in (None, "-", "") else token["ner"] for token in sentence])
                rows.append(row)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{table.source}: document {row} is not paragraphs of sentences of tokens with 'orth' and 'ner', "
                "as spaCy 2 wrote them: export it again, or as JSONL of text and entities"
            ) from error
    return Table(table.source, {"tokens": tokens, "tags": tags}, rows, [*table.notes, "format: spaCy 2 JSON"])


def _answers(table: Table) -> str | None:
    return next((name for name in ("annotations", "completions") if name in table.columns), None)


def _task_text(source: str, row: int, data: Any, key: str | None) -> str:
    texts = {k: v for k, v in data.items() if isinstance(v, str)} if isinstance(data, dict) else {}
    for name in (key, "text"):
        if name is not None and name in texts:
            return texts[name]
    if len(texts) == 1 and key is None:
        return next(iter(texts.values()))
    given = f"data.columns.text={key}: " if key else ""
    raise DataError(
        f"{given}{source}: task {row} has the texts {', '.join(map(repr, texts)) or 'none'} in its 'data': "
        "name the one that was annotated by data.columns.text=<key>"
    )


def _results(annotation: dict[str, Any]) -> list[Any]:
    """The labelled spans of an annotation; choices, relations and the like are none."""
    results = annotation.get("result") or []
    values = [result.get("value") for result in results if isinstance(result, dict)]
    return [value for value in values if isinstance(value, dict) and "start" in value]


def tag_names(path: Path, column: str) -> list[str] | None:
    """The names behind numbered tags, which `datasets` keeps in a Parquet file's schema; None if it did not."""
    metadata = pq.read_schema(path).metadata or {}
    try:
        feature = json.loads(metadata[b"huggingface"])["info"]["features"][column]
        names = (feature.get("feature") or feature)["names"]
    except (KeyError, TypeError, ValueError, AttributeError):  # no such metadata, or no class labels
        return None
    return names if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
