"""What a cell of a ranking table says: an id, a number, one text or several."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

ID_KEYS = ("docid", "doc_id", "document_id", "_id", "id", "pid")
TEXT_KEYS = ("text", "contents", "content", "body", "passage")


class UnreadableError(Exception):
    """A cell that is not what it must be; the message says what it is."""


class Text(NamedTuple):
    """A text of a cell, with its id where the cell has one."""

    text: str
    id: str | None = None


def join_title(title: str, text: str) -> str:
    """A document as it is encoded: title and text with a space between."""
    return f"{title} {text}" if title and text else title or text


def as_id(value: Any) -> str | None:
    """An id as text: 12 and 12.0 (a column with gaps) are "12"; None where there is none.

    Raises:
        UnreadableError: a list, an object, true or false, or a number with a fraction.
    """
    if value is None or isinstance(value, str):
        return (value or "").strip() or None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1:
        return str(int(value))
    raise UnreadableError(f"the id is {short(value)}, not a text or a whole number")


def as_number(value: Any) -> float:
    """A finite number.

    Raises:
        UnreadableError: anything else.
    """
    try:
        number = math.nan if value is None or isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise UnreadableError(f"{short(value)}, not a number")
    return number


def as_numbers(cell: Any) -> list[float]:
    """A list of finite numbers, in a CSV cell written as JSON.

    Raises:
        UnreadableError: anything else.
    """
    values = _json_list(cell)
    if values is None:
        raise UnreadableError(f"{short(cell)}, not a list of numbers such as [9.1, 3.4]")
    return [as_number(value) for value in values]


def as_texts(cell: Any) -> list[Text]:
    """The texts of a cell: none, one, or a list of texts or of objects with title, text and docid (as Tevatron has).

    Raises:
        UnreadableError: something in it is no text, or is empty.
    """
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return []
    values = _json_list(cell)
    if values is None:
        values = [cell]
    return [_text(number, value, len(values)) for number, value in enumerate(values, start=1)]


def short(value: Any, length: int = 60) -> str:
    """A value in a message."""
    shown = repr(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return shown if len(shown) <= length else shown[: length - 1] + "…"


def _text(number: int, value: Any, count: int) -> Text:
    what = f"item {number} of the list" if count > 1 else "it"
    if isinstance(value, Mapping):
        found = next((value[key] for key in TEXT_KEYS if isinstance(value.get(key), str)), "")
        title = value.get("title")
        text = join_title(title if isinstance(title, str) else "", found)
        if not text.strip():
            raise UnreadableError(f"{what} is {short(value)}, without a text")
        return Text(text, as_id(next((value[key] for key in ID_KEYS if value.get(key) is not None), None)))
    if not isinstance(value, str):
        raise UnreadableError(f"{what} is {short(value)}, not a text")
    if not value.strip():
        raise UnreadableError(f"{what} is empty")
    return Text(value)


def _json_list(cell: Any) -> list[Any] | None:
    """The list that a cell is, or that its text is in JSON; None where it is neither ("[1] Smith et al." is a text)."""
    if isinstance(cell, (list, tuple)):
        return list(cell)
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return None
    try:
        value = json.loads(cell)
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, list) else None
