"""Which documents are known to answer a query, or may: what is no hard negative."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.data.ranking.rows import RankingTable


def known_answers(table: RankingTable, positives: Sequence[int], documents: Sequence[str]) -> dict[str, set[int]]:
    """The numbers of the documents that answer each query text, or may: every positive of its rows and of rows with
    its id or, but for case and space, its text; every document with such a positive's id or text."""
    same_text: dict[str, set[int]] = {}
    for number, text in enumerate(documents):
        same_text.setdefault(plain(text), set()).add(number)
    same_id: dict[str, set[int]] = {}
    for number, name in zip(positives, table.columns["positive_id"], strict=True):
        same_id.setdefault(str(name), set()).add(number)
    answers: dict[tuple[str, str], set[int]] = {}
    keys = [
        (("id", str(name)), ("text", plain(query)))
        for name, query in zip(table.columns["query_id"], table.columns["query"], strict=True)
    ]
    for own, number, name in zip(keys, positives, table.columns["positive_id"], strict=True):
        texts = (same_text[plain(documents[i])] for i in same_id[str(name)])
        related = same_id[str(name)].union(*texts, {number})
        for key in own:
            answers.setdefault(key, set()).update(related)
    found: dict[str, set[int]] = {}
    for query, own in zip(table.columns["query"], keys, strict=True):
        found.setdefault(query, set()).update(*(answers[key] for key in own))
    return found


def plain(text: str) -> str:
    """A text without what does not make it another: case and the width of spaces."""
    return " ".join(text.split()).casefold()
