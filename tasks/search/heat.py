"""Which words of a document answer which of a query: what late interaction (MaxSim) adds up, token by token."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from modernbert.errors import ConfigError
from tasks.data.encode import plain_backend
from tasks.data.layout import read_template
from tasks.data.ranking import TextRole
from tasks.embedding import Embedder
from tasks.vectors import Vectors


@dataclass(frozen=True)
class Token:
    """Characters [start, end) of a text; a special token has none and is `special`."""

    start: int
    end: int
    text: str
    special: bool = False


@dataclass(frozen=True)
class Heat:
    """The tokens of a document with the cosine of the query token nearest to each, and what each query token found.

    Args:
        warm: tokens of the document that have a vector, each with the nearest query token and their cosine.
        met: (query token, its nearest document token, their cosine); the cosines sum to the score of MaxSim.
    """

    warm: tuple[tuple[Token, Token, float], ...]
    met: tuple[tuple[Token, Token, float], ...]

    @property
    def score(self) -> float:
        return sum(score for _, _, score in self.met)


def heat_map(embedder: Embedder, query: str, text: str, span: tuple[int, int] | None = None) -> Heat:
    """Compare a query with a document, or with characters `span` of it, token by token.

    Raises:
        ConfigError: a model with one vector a text.
    """
    if embedder.kind != "multi_vector":
        raise ConfigError(f"a model of {embedder.kind} vectors compares whole texts: a heat map needs multi_vector.")
    asked, queries = _tokens(embedder, query, "query")
    start, end = span or (0, len(text))
    there, documents = _tokens(embedder, text[start:end], "document")
    there = [token if token.special else replace(token, start=token.start + start, end=token.end + start)
             for token in there]  # fmt: skip
    cosines = queries.values.float() @ documents.values.float().t()
    nearest, best = cosines.max(dim=0), cosines.max(dim=1)
    return Heat(
        tuple(zip(there, [asked[i] for i in nearest.indices.tolist()], nearest.values.tolist(), strict=True)),
        tuple(zip(asked, [there[i] for i in best.indices.tolist()], best.values.tolist(), strict=True)),
    )


def _tokens(embedder: Embedder, text: str, role: TextRole) -> tuple[list[Token], Vectors]:
    """The tokens of a text that have vectors, and these."""
    task, tokenizer = embedder.task, embedder.tokenizer
    vectors = embedder.encode([text], role, whole=True)
    (given,) = task.schema.with_prefix([text], role)
    prefix = len(given) - len(text)
    backend = plain_backend(tokenizer)
    before = len(read_template(backend, 1, uses_segments=False).specials[0])
    ids = task.schema.tokens(tokenizer, [text], role).input_ids
    encoding = backend.encode(given, add_special_tokens=False)
    found = []
    for place, (number, piece) in enumerate(zip(ids.tolist(), tokenizer.convert_ids_to_tokens(ids), strict=True)):
        at = place - before
        if 0 <= at < len(encoding.ids) and encoding.ids[at] == number and encoding.offsets[at][1] > prefix:
            start, end = (max(0, edge - prefix) for edge in encoding.offsets[at])
            found.append(Token(start, end, text[start:end]))
        else:  # special, or of the prefix
            found.append(Token(0, 0, piece, special=True))
    kept = torch.ones(len(ids), dtype=torch.bool)
    if role == "document" and task.skip_punctuation:
        kept = ~torch.isin(torch.from_numpy(ids.copy()), task.punctuation.cpu())
        kept |= not bool(kept.any())  # a text of nothing else keeps its marks (`tasks.embedders.keep_tokens`)
    return [token for token, keep in zip(found, kept.tolist(), strict=True) if keep], vectors
