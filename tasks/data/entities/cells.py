"""What a cell or a JSON value says: lists of words or tags, spans in the spellings that tools use."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

from tasks.data.entities.spans import RawSpan

START = ("start", "start_offset", "begin", "start_char", "from")
END = ("end", "end_offset", "stop", "end_char", "to")
LABEL = ("label", "labels", "type", "tag", "entity_type", "entity_group", "entity", "class", "category")
SAID = ("text", "surface", "mention")
# Numpy prints lists without commas; Python would read ['a' 'b'] as the one string 'ab'.
JUXTAPOSED = re.compile(r"""['"]\s+['"]""")
WORDS = 'a list such as ["Hanna", "lives", "here"]'
SPANS = 'a list such as [[0, 5, "PERSON"]]'
SPAN = '[start, end, "LABEL"] or {"start": …, "end": …, "label": …}'


class UnreadableError(Exception):
    """A cell that is not what it must be; the message says what it is."""


def parse_list(cell: Any, wanted: str) -> list[Any]:
    """A list from a JSON list, a Python one, or words with white space between; `wanted` is for the message.

    Raises:
        UnreadableError: something else.
    """
    if isinstance(cell, (list, tuple)):
        return list(cell)
    if not isinstance(cell, str):
        raise UnreadableError(f"{_short(cell)}, not {wanted}")
    text = cell.strip()
    if not text.startswith(("[", "(", "{")):
        return text.split()
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = _python_list(text, wanted)
    if not isinstance(value, (list, tuple)):
        raise UnreadableError(f"{_short(cell)}, not {wanted}")
    return list(value)


def parse_words(cell: Any) -> list[str]:
    """A list of words or tags.

    Raises:
        UnreadableError: no list, or one with something in it that is no text.
    """
    values = parse_list(cell, WORDS)
    for number, value in enumerate(values, start=1):
        if not isinstance(value, str):
            raise UnreadableError(f"item {number} is {_short(value)}, not a text")
    return values


def parse_span(number: int, value: Any) -> list[RawSpan]:
    """A span in any of the usual spellings; several where it has several labels.

    Raises:
        UnreadableError: something else, a place that is no whole number, or no label.
    """
    said = None
    if isinstance(value, Mapping):
        start, end, labels = (_first(value, keys) for keys in (START, END, LABEL))
        said = _first(value, SAID)
    elif isinstance(value, (list, tuple)) and len(value) >= 3:
        start, end, labels = value[:3]
    else:
        raise UnreadableError(f"span {number} is {_short(value)}, not {SPAN}")
    places = [_whole(place) for place in (start, end)]
    names = labels if isinstance(labels, (list, tuple)) else [labels]
    if None in places or not names or not all(isinstance(name, str) for name in names):
        raise UnreadableError(f"span {number} is {_short(value)}, not {SPAN}")
    if not all(name.strip() for name in names):
        raise UnreadableError(f"span {number} has an empty label: {_short(value)}")
    words = said if isinstance(said, str) else None
    return [RawSpan(number, places[0], places[1], name.strip(), words) for name in names]  # type: ignore[arg-type]


def _python_list(text: str, wanted: str) -> Any:
    try:
        tree = ast.parse(text, mode="eval")
        value = ast.literal_eval(tree)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise UnreadableError(f"{_short(text)}, not {wanted}") from error
    source = text.encode()  # the columns of ast count bytes
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            part = source[node.col_offset : node.end_col_offset].decode()
            if JUXTAPOSED.search(part):
                raise UnreadableError(f"{_short(text)} without commas, not {wanted}")
    return value


def _first(value: Mapping[str, Any], keys: tuple[str, ...]) -> Any:
    return next((value[key] for key in keys if value.get(key) is not None), None)


def _whole(place: Any) -> int | None:
    """A whole number; pandas writes 3.0 where a column had gaps, some tools "3"."""
    if isinstance(place, bool):
        return None
    if isinstance(place, str) and re.fullmatch(r"-?[0-9]{1,12}", place):
        return int(place)
    return int(place) if isinstance(place, (int, float)) and place == place // 1 else None


def _short(value: Any, length: int = 60) -> str:
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return repr(_cut(shown, length)) if isinstance(value, str) else _cut(shown, length)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
