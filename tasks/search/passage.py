"""The part of a document that matches a query: what a person reads of a hit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.embedding import Embedder
from tasks.search.bm25 import Bm25
from tasks.vectors import similarity

#: Characters of a passage; two lines of a terminal.
WIDTH = 240
#: An end of a sentence: its mark, and the space behind it; or the end of a line.
END = re.compile(r"(?<=[.!?。！？])\s+|\s*\n+\s*")


def matching_passages(query: str, texts: Sequence[str], embedder: Embedder | None) -> list[str]:
    """The passage of each text that answers the query best, in one line; short texts whole.

    By the model's vectors of the passages, or without a model by shared words (BM25).
    """
    split = [passages(text) for text in texts]
    candidates = [passage for parts in split if len(parts) > 1 for passage in parts]
    if not candidates:
        return [parts[0] for parts in split]
    if embedder is None:
        scores = Bm25(candidates).scores(query).tolist()
    else:
        asked = embedder.encode([query], "query")
        scores = similarity(asked, embedder.encode(candidates, "document"))[0].tolist()
    found, start = [], 0
    for parts in split:
        if len(parts) == 1:
            found.append(parts[0])
            continue
        own = scores[start : start + len(parts)]
        best = max(range(len(parts)), key=lambda i: (own[i], -i))
        found.append(("… " if best else "") + parts[best] + (" …" if best < len(parts) - 1 else ""))
        start += len(parts)
    return found


def passages(text: str, width: int = WIDTH) -> list[str]:
    """A text as passages of whole sentences, up to `width` characters where sentences allow; at least one."""
    found: list[str] = []
    for sentence in END.split(text.strip()):
        line = " ".join(sentence.split())
        if found and len(found[-1]) + 1 + len(line) <= width:
            found[-1] = f"{found[-1]} {line}"
        elif line:
            found += [line[i : i + 2 * width] for i in range(0, len(line), 2 * width)]
    return found or [""]
