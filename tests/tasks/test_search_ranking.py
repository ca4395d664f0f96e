"""BM25 against its formula, fusion by hand, passages."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch

from modernbert.errors import ConfigError
from tasks.search.bm25 import K1, B, Bm25, bm25_ranking, strongest
from tasks.search.fuse import fuse
from tasks.search.passage import matching_passages, passages

DOCUMENTS = [
    "The pump is loud at night.",
    "A loud, loud pump! Loud pump?",
    "",
    "Überlauf: die Straße ist naß",
    "the filter of the pump is cleaned each year with warm water and a soft brush",
]


def by_formula(query: str, documents: list[str]) -> list[float]:
    """Lucene's BM25: idf log(1 + (N - n + .5) / (n + .5)), tf / (tf + k1 (1 - b + b length / mean))."""
    words = [re.findall(r"\w+", document.lower()) for document in documents]
    mean = sum(map(len, words)) / len(words)
    scores = [0.0] * len(documents)
    for word in re.findall(r"\w+", query.lower()):
        holding = sum(word in document for document in words)
        idf = math.log(1 + (len(documents) - holding + 0.5) / (holding + 0.5))
        for i, document in enumerate(words):
            count = document.count(word)
            scores[i] += idf * count / (count + K1 * (1 - B + B * len(document) / mean))
    return scores


@pytest.mark.parametrize("query", ["loud pump", "STRASSE straße", "the the filter", "naß?"])
def test_scores_are_the_formula(query: str) -> None:
    assert Bm25(DOCUMENTS).scores(query) == pytest.approx(np.array(by_formula(query, DOCUMENTS)), abs=1e-6)


def test_ranking_leaves_out_what_shares_no_word() -> None:
    scores, ids = bm25_ranking(["loud pump", "überlauf", "nothing here", "?!"], DOCUMENTS, k=4)
    assert ids.tolist() == [[1, 0, 4, -1], [3, -1, -1, -1], [-1] * 4, [-1] * 4]
    assert scores.dtype == torch.float32
    assert scores[0, 3] == -torch.inf
    assert scores[0, 0] > scores[0, 1] > scores[0, 2] > 0
    _, without = Bm25(DOCUMENTS).rank(["loud pump"], 2, exclude=[[1]])
    assert without.tolist() == [[0, 4]]
    with pytest.raises(ConfigError, match="k=0"):
        bm25_ranking(["a"], DOCUMENTS, k=0)


def test_a_corpus_without_words() -> None:
    assert bm25_ranking(["pump"], ["", "…"], k=1)[1].tolist() == [[-1]]


def test_of_equal_scores_the_lower_number() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        scores = rng.integers(0, 4, 30).astype(np.float32)
        wanted = [i for i in sorted(range(30), key=lambda i: (-scores[i], i)) if scores[i] > 0][:7]
        assert strongest(scores, 7).tolist() == wanted


def test_fusion_by_hand() -> None:
    first, second = [("a", 0.9), ("b", 0.8), ("c", 0.1)], [("c", 30.0), ("a", 20.0), ("d", 10.0)]
    fused = fuse([first, second], 3)
    assert [name for name, _ in fused] == ["a", "c", "b"]
    assert [score for _, score in fused] == pytest.approx([1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62])
    assert [name for name, _ in fuse([[("b", 1)], [("a", 1)]], 9)] == ["a", "b"]  # equal: by id
    assert fuse([[], []], 3) == []


def test_passages_keep_sentences_whole() -> None:
    text = "One two three.  Four five!\nSix seven eight? Nine."
    assert passages(text, 30) == ["One two three. Four five!", "Six seven eight? Nine."]
    assert passages("short", 30) == ["short"]
    assert passages("", 30) == [""]
    assert max(map(len, passages("x" * 100, 30))) == 60


def test_the_passage_that_shares_words_is_shown() -> None:
    filler = "Nothing of the kind is told in this long sentence, which goes on for a while. " * 4
    text = f"{filler}Rinse the filter once a year. {filler}"
    (found,) = matching_passages("how do I rinse the filter", [text], None)
    assert "Rinse the filter once a year." in found
    assert found.startswith("… ")
    assert found.endswith(" …")
    assert matching_passages("filter", ["short  text", ""], None) == ["short text", ""]
