"""Errors of ours as messages in the page."""

from __future__ import annotations

import html
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gradio as gr

from modernbert.errors import ModernBertError

#: Seconds a message stays: long enough to read two sentences aloud.
SHOWN = 20


@contextmanager
def as_message(uploaded: Path | None = None) -> Iterator[None]:
    """Turn what a person can mend into a message in the page, its text alone.

    Args:
        uploaded: a file whose place on this machine means nothing to a visitor: the message has its name.

    Raises:
        gr.Error: in place of a ModernBertError; every other error passes and is reported as a failure.
    """
    try:
        yield
    except ModernBertError as error:
        text = str(error)
        if uploaded is not None:
            text = text.replace(str(uploaded), uploaded.name)
        # Gradio shows the message as HTML.
        raise gr.Error(html.escape(text, quote=False), duration=SHOWN, print_exception=False) from error
