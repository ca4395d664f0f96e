"""Where a plain text has words: the pre-split for tagging when a format gives none."""

from __future__ import annotations

import re
import unicodedata

Span = tuple[int, int]

ZERO_WIDTH_JOINER = 0x200D
EMOJI_MODIFIERS = range(0x1F3FB, 0x1F400)  # skin tones
REGIONAL_INDICATORS = range(0x1F1E6, 0x1F200)  # two of them are a flag
# Scripts written without spaces: a "word" is one character with its marks, so that any entity can be said.
# Thai, Lao; Myanmar; Khmer; kana and CJK ideographs (Unicode 16 blocks).
UNSPACED = (
    range(0x0E00, 0x0F00),
    range(0x1000, 0x10A0),
    range(0x1780, 0x1800),
    range(0x3040, 0x3100),
    range(0x31F0, 0x3200),
    range(0x3400, 0x4DC0),
    range(0x4E00, 0xA000),
    range(0xF900, 0xFB00),
    range(0x20000, 0x323B0),
)


class _Classes(dict[int, str]):
    """Code point -> the letter of its class, looked up once each; made for `str.translate`.

    w letter or digit, m mark, z invisible (format, control), j zero-width joiner, u letter of an unspaced
    script, r regional indicator, k emoji modifier, s anything else that shows, and a space.
    """

    def __missing__(self, code: int) -> str:
        self[code] = letter = _classify(code)
        return letter


def _classify(code: int) -> str:
    category = unicodedata.category(chr(code))
    if chr(code).isspace() or category[0] == "Z":
        return " "
    if code == ZERO_WIDTH_JOINER:
        return "j"
    if category[0] == "M":
        return "m"
    if category in ("Cf", "Cc", "Cs", "Cn"):
        return "z"
    if code in REGIONAL_INDICATORS:
        return "r"
    if code in EMOJI_MODIFIERS:
        return "k"
    if category[0] in "LN":
        return "u" if any(code in block for block in UNSPACED) else "w"
    return "s"


_CLASSES = _Classes()
# A word; a character of an unspaced script; a flag; a sign or a whole emoji sequence. Invisible characters
# stay inside a word (Persian needs the non-joiner) but neither start nor end one.
_WORD = re.compile("[wm](?:[zj]*[wm])*|um*|rr?|[sk][mk]*(?:j[sk][mk]*)*")


def word_spans(text: str) -> list[Span]:
    """(start, end) of each word of `text`, in order: runs of letters, digits and marks; other signs singly.

    The borders of BERT's own pre-tokeniser are always borders here, for letters, digits and punctuation;
    an emoji sequence is one word; white space and invisible characters between words belong to none.
    """
    return [match.span() for match in _WORD.finditer(text.translate(_CLASSES))]
