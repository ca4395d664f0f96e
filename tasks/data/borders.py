"""Where a text is split: at blank lines, around Python's functions and classes, or where the model ends."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from itertools import islice, pairwise
from typing import Any, Literal, get_args

from tasks.data.long_texts import parts
from tasks.data.tokenise import window_places

#: Where documents are split. Whatever is longer than the model is read in overlapping windows.
Split = Literal["none", "paragraph", "python", "window"]
SPLITS: tuple[str, ...] = get_args(Split)
Span = tuple[int, int]  # characters [start, end)

#: Characters below which a passage is read together with what follows: a heading, an import, a method of two lines.
SHORT = 200
BLANK = re.compile(r"(?:\r\n?|\n)[^\S\r\n]*(?:\r\n?|\n)\s*")
LINE_END = re.compile(r"\r\n|\r|\n")
SPACE = re.compile(r"\s")
#: Words of a title that are left out in turn to find where code begins.
TITLE_WORDS = 12


def split_text(text: str, how: Split) -> tuple[list[Span], bool]:
    """The passages of a text, in order, whatever their length; at least one, which is the whole of an empty text.

    Returns:
        The spans, and whether `how` could be done: a text that Python does not parse is split at blank lines.
    """
    borders = python_borders(text) if how == "python" else None
    parsed = borders is not None or how != "python"
    if borders is None:
        borders = [] if how in ("none", "window") else [found.end() for found in BLANK.finditer(text)]
    return joined(text, borders), parsed


def python_borders(text: str) -> list[int] | None:
    """Where lines begin at which a function or a class begins or ends, methods included; None if it does not parse."""
    tree = parse(text)
    if tree is not None:
        return borders_of(tree, text)
    # A title stands before the code, with a space between.
    for space in islice(SPACE.finditer(LINE_END.split(text, maxsplit=1)[0]), TITLE_WORDS):
        rest = parse(text[space.end() :])
        if rest is not None and (found := borders_of(rest, text[space.end() :])):  # else it is prose
            return [space.end() + border for border in found]
    return None


def borders_of(tree: ast.Module, text: str) -> list[int]:
    """What `python_borders` says of a file that parses."""
    lines = [0, *(found.end() for found in LINE_END.finditer(text)), len(text)]
    found: set[int] = set()
    bodies: list[ast.Module | ast.ClassDef] = [tree]
    while bodies:
        for child in bodies.pop().body:
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                first = min([child.lineno, *(decorator.lineno for decorator in child.decorator_list)])
                found |= {lines[first - 1], lines[child.end_lineno or child.lineno]}
                if isinstance(child, ast.ClassDef):
                    bodies.append(child)
    return sorted(found)


def parse(text: str) -> ast.Module | None:
    """A Python file as a tree; None if it is none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the file's own odd escapes
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two: brackets within brackets
        return None


def joined(text: str, borders: Sequence[int]) -> list[Span]:
    """The spans between borders, without white space around them; a short one goes with the next, at the end with the
    one before."""
    found: list[Span] = []
    start: int | None = None
    edges = [0, *borders, len(text)]
    last = 0
    for low, high in pairwise(edges):
        part = text[low:high]
        if not part.strip():
            continue
        start = low + len(part) - len(part.lstrip()) if start is None else start
        last = low + len(part.rstrip())
        if last - start >= SHORT:
            found.append((start, last))
            start = None
    if start is not None:
        found = [*found[:-1], (found[-1][0], last)] if found else [(start, last)]
    return found or [(0, len(text))]


def windows_of(backend: Any, text: str, span: Span, room: int, overlap: int) -> list[Span]:
    """A span of too many tokens as windows of at most `room` that share about `overlap`, cut between words.

    A stretch without white space, as in Chinese, is cut between tokens.
    """
    places: list[Span] = []
    before = span[0]
    for part in parts(text[span[0] : span[1]]):
        encoding = backend.encode_batch([part], add_special_tokens=False)[0]
        places += [(before + start, before + end) for start, end in encoding.offsets if end > start]
        before += len(part)
    firsts, reach = window_places(len(places), room, overlap), max(1, overlap // 2)
    found = []
    for number, first in enumerate(firsts):
        last = min(first + room, len(places)) - 1
        start, end = places[first][0], places[last][1]
        if number:
            start = word_start(text, start, places[min(first + reach, last)][0])
        if number < len(firsts) - 1:
            end = word_end(text, places[max(last - reach, first)][1], end)
        found.append((start, end))
    return found


def word_start(text: str, start: int, most: int) -> int:
    """The first place from `start` on, up to `most`, where a word begins; else `start`."""
    if text[start - 1 : start].isspace():
        return start
    space = SPACE.search(text, start, most)
    return start if space is None else space.end()


def word_end(text: str, least: int, end: int) -> int:
    """The last place up to `end`, from `least` on, where a word ends; else `end`."""
    if text[end : end + 1].isspace():
        return end
    spaces = [found.start() for found in SPACE.finditer(text, least, end)]
    return spaces[-1] if spaces else end
