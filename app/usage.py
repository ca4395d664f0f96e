"""A mistake on the command line, and the word that was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

NEAR = 0.75  # share of equal letters of a likely typing mistake
FAR = 0.55  # below this a suggestion puzzles more than it helps (difflib's own default is 0.6)


class UsageError(Exception):
    """A word on the command line that cannot be understood; its message names what can be typed instead.

    It is not `modernbert.errors.ConfigError`, because importing that package may import torch.
    """


def closest(word: str, known: Sequence[str]) -> str | None:
    """The known word that `word` most likely meant: by spelling, or by its last part (`lr` -> `optim.lr`)."""
    near = get_close_matches(word, known, n=1, cutoff=NEAR)
    if near:
        return near[0]
    endings = {path.rpartition(".")[2]: path for path in reversed(known)}
    by_ending = get_close_matches(word.rpartition(".")[2], list(endings), n=1, cutoff=NEAR)
    if by_ending:
        return endings[by_ending[0]]
    far = get_close_matches(word, known, n=1, cutoff=FAR)
    return far[0] if far else None
