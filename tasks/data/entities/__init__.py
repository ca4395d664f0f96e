"""Named entities: from the formats people have to character spans, tags and sub-words, and back."""

from __future__ import annotations

from tasks.data.entities.align import WordTokens, encode_words, special_tokens, trim_offsets
from tasks.data.entities.examples import IGNORED, TokenExamples, Windows, token_targets
from tasks.data.entities.reading import read_entities
from tasks.data.entities.tagging import decode_tags, encode_tags
from tasks.data.entities.tags import SCHEMES, Entity, TagSet
from tasks.data.entities.words import Span, word_spans

__all__ = [
    "IGNORED",
    "SCHEMES",
    "Entity",
    "Span",
    "TagSet",
    "TokenExamples",
    "Windows",
    "WordTokens",
    "decode_tags",
    "encode_tags",
    "encode_words",
    "read_entities",
    "special_tokens",
    "token_targets",
    "trim_offsets",
    "word_spans",
]
