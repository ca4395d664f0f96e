"""What kind of answer a task gives: by it the page chooses a renderer and the server its routes."""

from __future__ import annotations

from typing import get_args, get_type_hints

from tasks.base import Task


def output_type(task: Task) -> type:
    """What a task gives for a text, as its `decode` is annotated: list[Span] and list[list[Span]] are Span."""
    found = get_type_hints(type(task).decode)["return"]
    while get_args(found):
        found = get_args(found)[0]
    return found
