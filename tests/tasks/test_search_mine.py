"""Hard negatives: what may never be one, the limits, the bands, and rows that are read back for training."""

from __future__ import annotations

from pathlib import Path

import pytest
from word_embedder import WordEmbedder

from modernbert.errors import ConfigError
from tasks.data.ranking.rows import RankingTable, read_tuples
from tasks.data.schema import Report
from tasks.data.writers import open_writer
from tasks.search.mine import Mined, Mining, band_names, mine

DOCUMENTS = {
    "a": "alpha bravo",
    "b": "alpha coral",
    "b2": "Alpha  coral",  # the same text but for case and space
    "c": "alpha delta",
    "d": "alpha bravo coral delta",
    "e": "ember flint",
    "f": "alpha",
}
ROWS = [("alpha bravo", "a"), ("alpha coral", "b"), ("ALPHA  bravo", "c"), ("ember", "e")]


@pytest.fixture
def table(tmp_path: Path) -> RankingTable:
    """Queries with their documents; the first and the third are one query but for case and space."""
    corpus, pairs = tmp_path / "docs.csv", tmp_path / "pairs.csv"
    corpus.write_text("id,text\n" + "".join(f"{key},{text}\n" for key, text in DOCUMENTS.items()))
    pairs.write_text("query,document_id\n" + "".join(f"{query},{key}\n" for query, key in ROWS))
    report = Report()
    found = read_tuples(str(pairs), {}, report, "train", str(corpus))
    assert not report.errors
    return found


def texts(mined: Mined) -> list[list[str]]:
    return [[mined.documents[c.document] for c in row] for row in mined.negatives]


@pytest.mark.parametrize("engine", ["model", "bm25", "both"])
@pytest.mark.parametrize("kind", ["dense", "multi_vector", "sparse"])
def test_known_answers_and_their_copies_are_never_negatives(table: RankingTable, engine: str, kind: str) -> None:
    mined = mine(table, Mining(engine, margin=None), WordEmbedder(kind))  # type: ignore[arg-type]
    found = texts(mined)
    for row in (0, 2):  # documents a and c answer both spellings of the query
        assert not {"alpha bravo", "alpha delta"} & set(found[row])
        assert "alpha bravo coral delta" in found[row]
    assert not {"alpha coral", "Alpha  coral"} & set(found[1])
    assert "ember flint" not in found[3]


def test_scores_and_order_by_hand(table: RankingTable) -> None:
    mined = mine(table, Mining(margin=None, negatives=3), WordEmbedder())  # type: ignore[arg-type]
    # "alpha coral": itself is the positive; d shares 2 of 4 words, f is 1 of 2, a and c share 1 of 2.
    assert mined.positive_scores[1] == pytest.approx(1, abs=1e-6)
    assert [c.score for c in mined.negatives[1]] == pytest.approx([0.7071, 0.7071, 0.5], abs=1e-4)
    assert texts(mined)[1] == ["alpha bravo coral delta", "alpha", "alpha bravo"]
    assert [c.rank for c in mined.negatives[1]] == [1, 2, 3]


def test_margin_scores_and_ranks_limit(table: RankingTable) -> None:
    def of_second(**limits: object) -> list[str]:
        return texts(mine(table, Mining(**limits), WordEmbedder()))[1]  # type: ignore[arg-type]

    assert of_second(margin=0.05)[:2] == ["alpha bravo coral delta", "alpha"]
    assert of_second(margin=0.4)[0] == "alpha bravo"  # 0.707 is nearer than 40% below 1
    assert of_second(margin=None, max_score=0.6, min_score=0.4) == ["alpha bravo", "alpha delta"]
    assert of_second(margin=None, ranks=(2, 3)) == ["alpha", "alpha bravo"]
    assert of_second(margin=None, negatives=1) == ["alpha bravo coral delta"]


def test_bm25_alone_scores_itself(table: RankingTable) -> None:
    mined = mine(table, Mining("bm25", margin=None), None)
    assert mined.positive_scores[1] > 0
    assert all(c.score > 0 for row in mined.negatives for c in row)
    assert mined.negatives[3] == []  # no other document has the word
    with pytest.raises(ConfigError, match="engine=bm25 does without"):
        mine(table, Mining("both"), None)


def test_a_reranker_gives_the_scores(table: RankingTable) -> None:
    def length(queries: list[str], documents: list[str]) -> list[float]:
        return [-float(len(document)) for document in documents]

    mined = mine(table, Mining(margin=0.0, negatives=9), WordEmbedder(), length)  # type: ignore[arg-type,call-arg]
    assert mined.positive_scores[1] == -11
    assert texts(mined)[1] == ["alpha bravo", "alpha delta", "ember flint", "alpha bravo coral delta"]
    assert mined.near_positive > 0  # "alpha" is shorter


def test_counts_add_up_and_bands_hold_examples(table: RankingTable) -> None:
    mining = Mining(margin=0.4, max_score=0.45, negatives=9)
    mined = mine(table, mining, WordEmbedder(), examples=2)  # type: ignore[arg-type]
    kept = sum(map(len, mined.negatives))
    assert mined.candidates == kept + mined.near_positive + mined.out_of_limits
    assert list(mined.bands) == ["rank 1 to 10", "rank 11 to 50", "rank 51 to 100"]
    assert [len(shown) for shown in mined.bands.values()] == [2, 0, 0]


def test_bands() -> None:
    assert band_names(5, 60) == ["rank 5 to 10", "rank 11 to 50", "rank 51 to 60"]
    assert band_names(300, 400) == ["rank 300 to 400"]
    assert band_names(7, 7, 5, 60) == ["rank 5 to 10"]
    assert band_names(300, 300, 1, 400) == ["rank 201 to 400"]


def test_written_rows_are_training_rows(table: RankingTable, tmp_path: Path) -> None:
    mined = mine(table, Mining(margin=None), WordEmbedder())  # type: ignore[arg-type]
    with open_writer(tmp_path / "mined.jsonl") as writer:
        writer.write(mined.columns(table))
    report = Report()
    back = read_tuples(str(tmp_path / "mined.jsonl"), {}, report, "train")
    assert not report.errors
    assert back.columns["query"] == [query for query, _ in ROWS]
    assert back.columns["positive"] == [DOCUMENTS[key] for _, key in ROWS]
    assert back.columns["positive_id"] == [key for _, key in ROWS]
    assert back.columns["negatives"] == texts(mined)
    for row, scores in enumerate(back.columns["scores"]):
        own = [mined.positive_scores[row], *(c.score for c in mined.negatives[row])]
        assert scores == pytest.approx(own, abs=1e-6)


def test_the_limits_in_words() -> None:
    words = Mining("both", (5, 60), 0.1, None, 0.9, 3).in_words("the model's")
    assert words == (
        "A hard negative stands at rank 5 to 60 of the model's or BM25's ranking, known answers not counted, scores at "
        "least 10% below the query's own positive, and scores 0.9 or less; at most 3 a row, the highest scores first. "
        "Scores are the model's."
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"engine": "faiss"}, "model, bm25, both"),
        ({"ranks": (0, 5)}, "first and the last rank"),
        ({"ranks": (9, 5)}, "first and the last rank"),
        ({"margin": 1.0}, "margin=1.0"),
        ({"negatives": 0}, "negatives=0"),
        ({"min_score": 0.5, "max_score": 0.4}, "above max_score"),
    ],
)
def test_wrong_limits(wrong: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Mining(**wrong)


def test_graded_pairs_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("sentence1,sentence2,score\na,b,0.5\nc,d,0.1\n")
    scored = read_tuples(str(file), {}, Report(), "train")
    with pytest.raises(ConfigError, match="graded pairs"):
        mine(scored, Mining(), WordEmbedder())  # type: ignore[arg-type]
