"""transformers' own voice, turned down: it draws bars, and reports heads that a bench leaves out on purpose."""

from __future__ import annotations


def quiet_transformers() -> None:
    """Errors only, no bars, for the rest of this process."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
