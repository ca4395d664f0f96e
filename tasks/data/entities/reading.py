"""Any file of named entities to one table: texts, character spans and, where the file has them, words."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from modernbert.errors import ConfigError, DataError
from tasks.data import readers
from tasks.data.entities import conll, exports
from tasks.data.entities.cells import SPANS, UnreadableError, parse_list, parse_span, parse_words
from tasks.data.entities.spans import Checker, RawSpan, Repair
from tasks.data.entities.tagged import Tagged, layout, tagged_entities
from tasks.data.entities.tags import Entity
from tasks.data.entities.words import word_spans
from tasks.data.readers.encoding import detect_encoding, open_text, readable
from tasks.data.readers.source import File, HubSet, locate
from tasks.data.readers.table import Table
from tasks.data.schema import Report, Role, map_columns, plain_name

Format = Literal["auto", "conll", "table"]
FORMATS = ("auto", "conll", "table")
CONLL_SUFFIXES = (".conll", ".conllu", ".iob", ".iob2", ".bio", ".bioes", ".bilou", ".txt")
SNIFFED = 200  # lines of a .tsv or .csv: enough to tell tags from a header

TEXT = Role("text", ("text", "data", "sentence", "content", "body", "message", "document"), True, True, "what to read")
ENTITIES = Role(
    "entities", ("entities", "spans", "label", "labels", "ents", "annotations"), True, False,
    "spans as [[start, end, label], …]",
)  # fmt: skip
TOKENS = Role("tokens", ("tokens", "words", "token", "word"), True, True, "the words of each text")
TAGS = Role("tags", ("tags", "ner_tags", "ner", "labels", "label", "bio_tags", "tag"), True, False, "a tag a word")
SPAN_MEND = 'Write spans as [start, end, "LABEL"] or {"start": …, "end": …, "label": …}, and [] for none'
LIST_MEND = "Write a JSON list of texts"


def read_entities(
    source: str,
    columns: Mapping[str, Any] | None = None,
    *,
    report: Report,
    format: Format = "auto",
    repair: Repair = "repair",
    predict: bool = False,
) -> Table:
    """A file as a table with `text`, `entities` and, for formats of given words, `words`.

    `entities` are (start, end, label), characters of `text`, sorted, apart from each other, each of whole
    words (`words`, else `word_spans`). Columns of the file are kept beside them. `rows` are the lines on which
    a sentence or record starts. With `predict` answers are neither needed nor read.

    Args:
        columns: roles `text`, `entities`, `tokens`, `tags` to column names, for CoNLL to numbers from 1.
        report: takes in every span or tag that is not as it should be, and what was done about it.
        repair: mend what can be ("repair"), leave faulty spans out ("drop"), or make them errors ("error").

    Raises:
        DataError: a file that cannot be read, is empty, or has no sentence.
        ConfigError: a column that is not there, or an unknown format.
    """
    if format not in FORMATS:
        raise ConfigError(f"data.format={format}: allowed are {', '.join(FORMATS)}")
    given = dict(columns or {})
    path = Path(source).expanduser()
    file = _conll_file(source, path, format)
    if file is not None:
        return _read_conll(file, given, report, repair, predict)
    table = _read_rows(source, path)
    if exports.is_label_studio(table):
        table = exports.label_studio(table, given.pop("text", None), report)
        given = {}
    elif exports.is_spacy_v2(table):
        table, given = exports.spacy_v2(table), {}
    if _has_tokens(table, given):
        return _read_tokens(table, given, report, repair, predict)
    return _read_spans(table, given, report, repair, predict)


def _conll_file(source: str, path: Path, format: Format) -> File | None:
    """The file, if it is one of a word a line; told by its name, by its content, or by the user."""
    if format == "table" or not path.is_file():
        return None
    names = [suffix.lower() for suffix in path.suffixes]
    compressed = names[-1:] == [".gz"]
    suffix = (names[-2:-1] if compressed else names[-1:]) or [""]
    file = File(source, path, "conll", compressed)
    if path.stat().st_size == 0:
        raise DataError(f"{source} is empty")
    if format == "conll" or suffix[0] in CONLL_SUFFIXES:
        return file
    if suffix[0] not in (".tsv", ".csv"):
        return None
    encoding, _ = detect_encoding(file)
    with readable(file), open_text(file, encoding) as stream:
        return file if conll.looks_like_conll(itertools.islice(stream, SNIFFED)) else None


def _read_conll(file: File, given: Mapping[str, Any], report: Report, repair: Repair, predict: bool) -> Table:
    sentences, notes = conll.read_sentences(file, given, need_tags=not predict)
    tagged = [Tagged(s.line, s.words, s.tags, s.lines, s.space_after) for s in sentences]
    return _tagged_table(Table(file.source, {}, [s.line for s in sentences], notes), tagged, report, repair, predict)


def _tagged_table(
    table: Table, sentences: list[Tagged], report: Report, repair: Repair, predict: bool, column: str = "tags"
) -> Table:
    """The table with `text`, `words` and `entities` of its sentences."""
    laid = [layout(sentence.words, sentence.spaces) for sentence in sentences]
    columns = _with_texts(table, [text for text, _ in laid]) | {"words": [words for _, words in laid]}
    notes = list(table.notes)
    if not predict:
        checker = Checker(table.source, column, report, repair)
        columns["entities"], scheme = tagged_entities(sentences, columns["words"], checker)
        notes.append(f"tag scheme: {scheme}")
    return Table(table.source, columns, table.rows, notes)


def _read_rows(source: str, path: Path) -> Table:
    """Rows of a table or of JSON, whose arrays need not hold objects here."""
    if path.suffix == ".spacy" and path.is_file():
        return exports.docbin(source, path)
    file = locate(source)
    if isinstance(file, HubSet) or file.format != "json":
        return readers.read(source)
    encoding, _ = detect_encoding(file)
    with readable(file), open_text(file, encoding) as stream:
        text = stream.read()
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return readers.read(source)  # says where
    if isinstance(value, dict) and ("text" in value or "paragraphs" in value):  # one document
        return Table(source, {name: [item] for name, item in value.items()}, [1])
    return exports.spacy_pairs(source, value) if exports.is_spacy_pairs(value) else readers.read(source)


def _has_tokens(table: Table, given: Mapping[str, Any]) -> bool:
    """Whether rows are lists of words: the user says so, or there is such a column and no text with spans."""
    if given.get("tokens") is not None or given.get("tags") is not None:
        return True
    if given.get("text") is not None or given.get("entities") is not None:
        return False
    names = {plain_name(name) for name in table.columns}
    tagged = names & {plain_name(guess) for guess in TAGS.guesses}
    spans = "text" in names and names & {"entities", "spans", "ents"}
    return bool(names & set(TOKENS.guesses)) and (bool(tagged) or "text" not in names) and not spans


def _read_tokens(table: Table, given: Mapping[str, Any], report: Report, repair: Repair, predict: bool) -> Table:
    """Rows with a list of words and a list of tags."""
    mapping, guessed = map_columns(table, (TOKENS, TAGS), given, predict)
    checker = Checker(table.source, str(mapping["tokens" if predict else "tags"]), report, repair)
    sentences = []
    tokens_column = table.columns[mapping["tokens"]]
    if len(table) > 1 and all(isinstance(cell, str) and _is_one_word(cell) for cell in tokens_column):
        raise DataError(
            f"{table.source}: each row of {mapping['tokens']!r} is a single word. Put the words of a sentence in "
            "one row as a JSON list, and its tags likewise; or save it as .conll: a word and its tag a line, a "
            "blank line between sentences"
        )
    tags_column = [None] * len(table) if predict else _named(table, mapping["tags"])
    for row, words_cell, tags_cell in zip(table.rows, tokens_column, tags_column, strict=True):
        words = _words(checker, row, words_cell, "words")
        tags = [] if predict else _words(checker, row, tags_cell, "tags")
        if words is not None and tags is not None and not predict and len(words) != len(tags):
            what = f"the number of words is {len(words)}, of tags {len(tags)}"
            checker.error("tags-count", row, what, "Give one tag for each word")
            tags = None
        words = words or []
        sentences.append(Tagged(row, words, ["O"] * len(words) if tags is None else tags[: len(words)]))
    table = Table(table.source, table.columns, table.rows, [*table.notes, *guessed])
    return _tagged_table(table, sentences, report, repair, predict, checker.column)


def _is_one_word(cell: str) -> bool:
    return not cell.lstrip().startswith(("[", "(")) and len(cell.split()) == 1


def _named(table: Table, column: str) -> list[Any]:
    """The tags of a column; numbers become names where a Parquet file of `datasets` has these in its schema."""
    cells = table.columns[column]
    if not table.source.endswith(".parquet"):
        return cells
    names = exports.tag_names(Path(table.source).expanduser(), column)
    if names is None:
        return cells
    return [
        [names[tag] if isinstance(tag, int) and 0 <= tag < len(names) else tag for tag in cell]
        if isinstance(cell, list)
        else cell
        for cell in cells
    ]


def _words(checker: Checker, row: int, cell: Any, what: str) -> list[str] | None:
    """The words or tags of a cell; None, and an error in the report, where it has none."""
    try:
        if cell is None:
            raise UnreadableError("missing")
        return parse_words(cell)
    except UnreadableError as error:
        mend = LIST_MEND
        if what == "tags" and isinstance(cell, (list, str)) and "not a text" in str(error):
            mend = "Write the names of the tags, such as B-PERSON, not their numbers"
        checker.error(f"{what}-unreadable", row, f"{what}: {error}", mend)
        return None


def _read_spans(table: Table, given: Mapping[str, Any], report: Report, repair: Repair, predict: bool) -> Table:
    """Rows with a text and a list of character spans."""
    mapping, guessed = map_columns(table, (TEXT, ENTITIES), given, predict)
    texts = table.columns[mapping["text"]]
    columns = _with_texts(table, texts)
    if not predict:
        checker = Checker(table.source, mapping["entities"], report, repair)
        cells = table.columns[mapping["entities"]]
        columns["entities"] = [
            _row_entities(checker, row, text, cell) for row, text, cell in zip(table.rows, texts, cells, strict=True)
        ]
    return Table(table.source, columns, table.rows, [*table.notes, *guessed])


def _with_texts(table: Table, texts: list[Any]) -> dict[str, list[Any]]:
    """The columns with what is read as `text`; another column of that name is kept with "_given" behind it."""
    columns, own = dict(table.columns) | {"text": texts}, table.columns.get("text", texts)
    if own != texts:
        free = "text_given"
        while free in columns:
            free += "_given"
        columns[free] = own
    return columns


def _row_entities(checker: Checker, row: int, text: Any, cell: Any) -> list[Entity]:
    """The entities of one row; a row without a text has none, and the doctor says so elsewhere."""
    if not isinstance(text, str):
        return []
    if cell is None:
        how = "read as a text without entities"
        checker.fault("entities-missing", row, "no spans are given", how, SPAN_MEND, dropped=how)
        return []
    raw: list[RawSpan] = []
    try:
        values = parse_list(cell, SPANS)
    except UnreadableError as error:
        checker.error("spans-unreadable", row, f"spans: {error}", SPAN_MEND)
        return []
    for number, value in enumerate(values, start=1):
        try:
            raw += parse_span(number, value)
        except UnreadableError as error:
            checker.error("spans-unreadable", row, str(error), SPAN_MEND)
    return checker.entities(row, text, raw, word_spans(text)) if raw else []
