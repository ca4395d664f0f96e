"""Raw text for pretraining: plain files, JSON lines, folders of them; compressed or not; read as a stream.

Wikipedia dumps, books and notes differ in one thing that matters here: where a document ends. A line that holds a
form feed parts documents; a file without one is a single document; a line of a JSONL file is one.
"""

from __future__ import annotations

import gzip
import json
import lzma
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from pathlib import Path
from typing import IO, cast

from modernbert.errors import DataError

#: What is read from a folder, before .gz or .xz.
SUFFIXES = (".txt", ".md", ".jsonl")
FORM_FEED = "\f"
#: A first line of at most so many characters, with an empty line after it, is the title.
TITLE_CHARACTERS = 200
SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[\"'(\[]*[A-Z0-9ÄÖÜ])")


@dataclass(frozen=True)
class Document:
    """A title, empty where there is none, and the paragraphs: lines that are not empty."""

    title: str
    paragraphs: tuple[str, ...]

    @property
    def text(self) -> str:
        """The whole document, a paragraph a line."""
        return "\n".join((self.title, *self.paragraphs) if self.title else self.paragraphs)


def find_files(given: str | Sequence[str]) -> list[Path]:
    """The files behind `data.text`: a file, a folder (all text files under it, sorted), or a list of both.

    Raises:
        DataError: nothing is there, or a folder holds no text.
    """
    found: list[Path] = []
    for name in [given] if isinstance(given, str) else given:
        path = Path(name).expanduser()
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and _kind(p) in SUFFIXES)
            if not inside:
                raise DataError(f"data.text={name}: the folder holds no {', '.join(SUFFIXES)} (nor .gz or .xz of one)")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise DataError(f"data.text={name}: there is no such file or folder")
    if not found:
        raise DataError("data.text is an empty list: give a file or a folder")
    return found


def read_documents(files: Sequence[Path]) -> Iterator[Document]:
    """The documents of `files`, in order; nothing but the current one is held in memory.

    Raises:
        DataError: a file is damaged, is no UTF-8, or a line of JSONL is no object with a string `text`.
    """
    for path in files:
        try:
            with _open(path) as file:
                yield from _json_lines(path, file) if _kind(path) == ".jsonl" else _plain(file)
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}): convert it first") from error
        except (lzma.LZMAError, EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"{path} is damaged ({error}): download or compress it again") from error


def sentences(paragraph: str) -> list[str]:
    """A paragraph cut after full stops, question and exclamation marks that a capital or a figure follows."""
    return [part for part in SENTENCE_END.split(paragraph) if part]


def _plain(file: IO[str]) -> Iterator[Document]:
    lines: list[str] = []
    for line in file:
        if line.strip(" \r\n") == FORM_FEED:
            yield from _document(lines)
            lines = []
        else:
            lines.append(line.strip())
    yield from _document(lines)


def _document(lines: list[str]) -> Iterator[Document]:
    while lines and not lines[0]:
        lines = lines[1:]
    if not lines:
        return
    titled = len(lines) > 2 and not lines[1] and len(lines[0]) <= TITLE_CHARACTERS
    title, body = (lines[0], lines[2:]) if titled else ("", lines)
    yield Document(title, tuple(line for line in body if line))


def _json_lines(path: Path, file: IO[str]) -> Iterator[Document]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error.msg}") from error
        text, title = (row.get("text"), row.get("title") or "") if isinstance(row, dict) else (None, "")
        if not isinstance(text, str) or not isinstance(title, str):
            raise DataError(f'{path}, line {number}: give an object with a string "text" (and, if known, "title")')
        paragraphs = tuple(part.strip() for part in text.splitlines() if part.strip())
        if paragraphs:
            yield Document(title.strip(), paragraphs)


def _kind(path: Path) -> str:
    """The suffix that says what is inside, below that of a compression."""
    return Path(path.stem).suffix if path.suffix in (".gz", ".xz") else path.suffix


def _open(path: Path) -> IO[str]:
    if path.suffix == ".xz":
        return TextIOWrapper(cast(IO[bytes], lzma.open(path, "rb")), encoding="utf-8-sig", newline="\n")
    if path.suffix == ".gz":
        return TextIOWrapper(cast(IO[bytes], gzip.open(path, "rb")), encoding="utf-8-sig", newline="\n")
    return path.open(encoding="utf-8-sig", newline="\n")
