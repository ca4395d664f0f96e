"""CoNLL: a word and its tags a line, a blank line between sentences; 1 to any number of columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from modernbert.errors import ConfigError, DataError
from tasks.data.entities.tags import ALLOWED_TAGS, is_tag
from tasks.data.readers.encoding import detect_encoding, open_text, readable
from tasks.data.readers.malformed import Malformed
from tasks.data.readers.source import File

# Any other white space may be part of a word (a no-break space in "10 000").
BLANKS = re.compile("[ \t]+")
MEND = "Each line must be a word and its tag with a tab or spaces between, sentences apart by a blank line"
DOCUMENT = "-DOCSTART-"
WORD_HEADERS = ("word", "words", "token", "tokens", "form")
TAG_HEADERS = ("tag", "tags", "ner", "ner_tag", "ner_tags", "label", "labels", "bio")


@dataclass
class Sentence:
    """Words of one sentence, their tags (none in a file of words), and the line on which it starts."""

    line: int
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)  # of each word
    space_after: list[bool] = field(default_factory=list)


@dataclass(frozen=True)
class Layout:
    """Which columns of a line are read, counted from 0; `tag` is None in a file of words."""

    separator: str | None  # None: any run of tabs and spaces
    width: int
    word: int
    tag: int | None

    def cells(self, line: str) -> list[str]:
        return split_line(line, self.separator)


def looks_like_conll(lines: Iterable[str]) -> bool:
    """Whether nearly every line that is not blank ends in a tag: told from a table with a header by that."""
    full = [line for line in lines if line.strip() and not line.startswith("#")]
    tagged = sum(len(cells := BLANKS.split(line.strip())) > 1 and is_tag(cells[-1]) for line in full)
    return bool(full) and tagged >= 0.9 * len(full)


def read_sentences(file: File, columns: Mapping[str, Any], need_tags: bool) -> tuple[list[Sentence], list[str]]:
    """Every sentence of a file, and what was detected, in sentences for a person.

    Raises:
        ConfigError: `columns` names a column that is not there.
        DataError: lines with too few or too many columns (the first ten are listed), or no sentence at all.
    """
    encoding, notes = detect_encoding(file)
    with readable(file), open_text(file, encoding) as stream:
        lines = [line.rstrip("\r\n") for line in _line_feeds(stream)]
    layout = _layout(file, lines, columns, need_tags)
    notes += _notes(layout)
    if header := _header(lines, layout):
        lines[header - 1] = ""
        notes.append(f"line {header} is a header, left out")
    bad = Malformed(file.source)
    sentences, comments, documents = _sentences(lines, layout, bad)
    bad.raise_if_any(MEND)
    if not sentences:
        raise DataError(f"{file.source} has no sentence. {MEND}")
    if comments:
        notes.append(f"{comments:,} comment line{'s' * (comments > 1)} left out")
    if documents:
        notes.append(f"{documents:,} {DOCUMENT} line{'s' * (documents > 1)} left out")
    return sentences, notes


def split_line(line: str, separator: str | None) -> list[str]:
    """The cells of a line."""
    return line.split(separator) if separator else BLANKS.split(line.strip(" \t"))


def _line_feeds(stream: Iterable[str]) -> Iterator[str]:
    """Lines by LF or CRLF only; a lone CR, which `open_text` ends a line at too, only where there is no LF."""
    text = "".join(stream)
    yield from text.split("\n" if "\n" in text else "\r")


def _layout(file: File, lines: list[str], columns: Mapping[str, Any], need_tags: bool) -> Layout:
    """The separator, number and use of the columns, from the first sentences."""
    full = [line for line in lines if line.strip() and not line.startswith(DOCUMENT)][:1000]
    content = [line for line in full if not line.startswith("#")] or full
    if not content:
        raise DataError(f"{file.source} has no sentence. {MEND}")
    separator = "\t" if sum("\t" in line for line in content) * 2 > len(content) else None
    widths = [len(split_line(line, separator)) for line in content]
    width = max(set(widths), key=widths.count)
    numbered = width > 2 and all(split_line(line, separator)[0].isdigit() for line in content)
    word = _column(columns, "tokens", 2 if numbered else 1, width, file.source)
    if width == 1 and not need_tags:
        return Layout(separator, 1, word, None)
    if width == 1:
        raise DataError(f"{file.source} has one column: it needs a tag beside each word. {MEND}")
    tag = _column(columns, "tags", 3 if numbered else width, width, file.source)
    return Layout(separator, width, word, tag)


def _header(lines: list[str], layout: Layout) -> int:
    """The number of the first line if it names columns, else 0."""
    number, line = next((n, line) for n, line in enumerate(lines, start=1) if line.strip())
    cells = [cell.strip().casefold() for cell in layout.cells(line)]
    named = len(cells) == layout.width and cells[layout.word] in WORD_HEADERS
    return number if named and (layout.tag is None or cells[layout.tag] in TAG_HEADERS) else 0


def _column(columns: Mapping[str, Any], role: str, default: int, width: int, source: str) -> int:
    """The column of a role from 0; people count from 1."""
    given = columns.get(role)
    number = default if given is None else given
    if isinstance(number, str) and number.isdigit():
        number = int(number)
    if not isinstance(number, int) or not 1 <= number <= width:
        raise ConfigError(
            f"data.columns.{role}={given}: {source} has {width} columns without names; give a number from 1 to {width}"
        )
    return number - 1


def _notes(layout: Layout) -> list[str]:
    tag = "" if layout.tag is None else f", tag: column {layout.tag + 1}"
    if layout.width <= 2:
        return []
    return [f"word: column {layout.word + 1} of {layout.width}{tag} (others: data.columns.tokens, data.columns.tags)"]


def _sentences(lines: list[str], layout: Layout, bad: Malformed) -> tuple[list[Sentence], int, int]:
    """Sentences, and how many comments and document marks were left out."""
    found: list[Sentence] = []
    open_sentence: Sentence | None = None
    comments = documents = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip(" \t\ufeff"):
            open_sentence = None
            continue
        if line.startswith(DOCUMENT):
            documents += 1
            open_sentence = None
            continue
        cells = layout.cells(line)
        if line.startswith("#") and _is_comment(cells, layout):
            comments += 1
            continue
        fault = _fault(cells, layout)
        if fault:
            bad.add(f"line {number}: {fault}: {_quoted(line)}")
            continue
        if open_sentence is None:
            open_sentence = Sentence(number)
            found.append(open_sentence)
        open_sentence.words.append(cells[layout.word].strip(" "))
        open_sentence.lines.append(number)
        open_sentence.space_after.append("SpaceAfter=No" not in cells[-1])
        if layout.tag is not None:
            open_sentence.tags.append(cells[layout.tag].strip())
    return found, comments, documents


def _is_comment(cells: list[str], layout: Layout) -> bool:
    """A line that starts with # is a word of its own (`#`, a hashtag) only if it has a tag in its place."""
    if layout.tag is None:
        return cells[0] == "#" or len(cells) > 1
    return len(cells) != layout.width or not is_tag(cells[layout.tag])


def _fault(cells: list[str], layout: Layout) -> str | None:
    if len(cells) != layout.width:
        columns = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
        return f"{columns}, expected {layout.width}"
    if not cells[layout.word].strip(" "):
        return "the word is missing"
    if layout.tag is not None and not cells[layout.tag].strip():
        return f"the tag is missing (allowed: {ALLOWED_TAGS})"
    return None


def _quoted(line: str, length: int = 60) -> str:
    return repr(line if len(line) <= length else line[: length - 1] + "…")
