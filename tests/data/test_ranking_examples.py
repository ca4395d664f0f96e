"""Rows as batches, and collections: ids, masks, scores, lengths and chunks by hand-computed values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from modernbert.errors import ConfigError
from modernbert.packing import unpack
from tasks.data.examples import eval_loader, train_loader
from tasks.data.ranking import Collection, Document, Judged, RankingTable, TextRole, TupleExamples, TupleRows
from tasks.data.ranking.building import build_collection, build_examples
from tasks.data.ranking.collection import OTHERS, cut_out, join_tokens, take
from tasks.data.ranking.examples import known_pairs, longest
from tasks.data.sampler import StepSampler
from tasks.data.tokens import Tokens

CALLS: list[tuple[TextRole, list[str]]] = []


def encode(texts: Sequence[str], role: TextRole) -> Tokens:
    """A letter a token, 1 before a query and 2 before a document; at most five tokens."""
    CALLS.append((role, list(texts)))
    start = {"query": 1, "document": 2}[role]
    rows = [np.array([start, *map(ord, text)][:5], dtype=np.int32) for text in texts]
    full = np.array([1 + len(text) for text in texts], dtype=np.int32)
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Tokens(np.concatenate([np.zeros(0, np.int32), *rows]), offsets, None, full)


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def make(rows: Sequence[dict[str, Any]], kind: str = "tuples", split: str = "train", **corpus: str) -> RankingTable:
    """Rows of at least q and p (n, scores, score, grade, id) as `read_tuples` gives them; corpus by key."""
    texts = [text for row in rows for text in (row["p"], *row.get("n", []))]
    documents = corpus or dict(zip(texts, texts, strict=True))
    key_of = {text: key for key, text in reversed(documents.items())}
    columns = {
        "query": [row["q"] for row in rows],
        "positive": [row["p"] for row in rows],
        "negatives": [row.get("n", []) for row in rows],
        "scores": [row.get("scores") for row in rows],
        "score": [row.get("score") for row in rows],
        "grade": [row.get("grade", 1) for row in rows],
        "query_id": [row.get("qid", row["q"]) for row in rows],
        "positive_id": [row.get("id", key_of[row["p"]]) for row in rows],
        "positive_key": [key_of[row["p"]] for row in rows],
        "negative_keys": [[key_of.get(text, text) for text in row.get("n", [])] for row in rows],
    }
    found = {key: Document(key if corpus else "", "", text) for key, text in documents.items()}
    return RankingTable("a.csv", columns, list(range(2, len(rows) + 2)), [], kind, split, found)  # type: ignore[arg-type]


ROWS = (
    {"q": "a", "p": "x", "n": ["uv", "w"]},
    {"q": "bb", "p": "yy"},
    {"q": "a", "p": "w", "n": ["yy"]},
)


def words(batch: Any) -> list[str]:
    return ["".join(map(chr, ids.tolist()[1:])) for ids in unpack(batch.packed.input_ids, batch.packed)]


def test_batch_has_queries_first_then_the_documents_of_each_row() -> None:
    examples = build_examples(make(ROWS), encode, negatives=2)
    batch = examples.collate([2, 0])
    assert words(batch) == ["a", "a", "w", "yy", "x", "uv", "w"]
    assert [int(ids[0]) for ids in unpack(batch.packed.input_ids, batch.packed)] == [1, 1, 2, 2, 2, 2, 2]
    assert (batch.queries, len(batch), batch.index.tolist()) == (2, 2, [2, 0])
    assert batch.row.tolist() == [0, 1, 0, 0, 1, 1, 1]
    assert batch.rank_in_row.tolist() == [0, 0, 1, 2, 1, 2, 3]
    # Numbers in order of first appearance: queries a bb; documents x yy w (positives), then uv.
    assert batch.text_id.tolist() == [0, 0, 2, 1, 0, 3, 2]
    assert batch.document_id.tolist() == [-1, -1, 2, 1, 0, 3, 2]
    assert batch.targets is None
    assert CALLS == [("query", ["a", "bb"]), ("document", ["x", "yy", "w", "uv"])]


def test_batch_moves_whole() -> None:
    batch = build_examples(make(ROWS), encode, negatives=1).collate([0, 1]).to("meta")
    tensors = (batch.packed.input_ids, batch.index, batch.row, batch.rank_in_row, batch.text_id, batch.document_id)
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert batch.queries == 2


def test_texts_of_one_document_share_its_number_and_are_known() -> None:
    rows = (
        {"q": "a", "p": "x", "id": "doc", "n": ["z"]},
        {"q": "b", "p": "y", "id": "doc"},
        {"q": "a", "p": "w", "id": "other"},
    )
    examples = build_examples(make(rows), encode, negatives=1)
    batch = examples.collate([0, 1, 2])
    assert words(batch) == ["a", "b", "a", "x", "z", "y", "w"]
    assert batch.document_id.tolist() == [-1, -1, -1, 0, 2, 0, 1]
    # Documents x y w z; a (0) knows x, y (the same document) and w; b (1) knows x and y.
    assert examples.documents == 4
    assert examples.known.tolist() == [0 * 4 + 0, 0 * 4 + 1, 0 * 4 + 2, 1 * 4 + 0, 1 * 4 + 1]


def test_lengths_are_those_of_the_row_as_a_batch_shows_it() -> None:
    examples = build_examples(make(ROWS), encode, negatives=1)
    # a + x + the longer of uv and w; bb + yy; a + w + yy. Each text has one token more than letters.
    assert examples.lengths.tolist() == [2 + 2 + 3, 3 + 3, 2 + 2 + 3]
    assert examples.lengths.dtype == np.int32
    assert build_examples(make(ROWS), encode, negatives=0).lengths.tolist() == [4, 6, 4]
    assert build_examples(make(ROWS), encode, negatives=5).lengths.tolist() == [9, 6, 7]


def test_cut_rows_are_known() -> None:
    rows = [{"q": "a", "p": "longer"}, {"q": "longer", "p": "b"}, {"q": "a", "p": "b"}]
    examples = build_examples(make(rows), encode, 0)
    assert examples.cut.tolist() == [True, True, False]


def test_negatives_take_turns_by_epoch() -> None:
    rows = [{"q": "q", "p": "p", "n": list("abcde"), "scores": [9, 5, 4, 3, 2, 1]}]
    examples = build_examples(make(rows), encode, negatives=2)
    shown = []
    for epoch in range(4):
        examples.set_epoch(epoch)
        batch = examples.collate([0])
        assert batch.targets is not None
        shown.append(("".join(words(batch)[2:]), batch.targets.tolist()))
    assert shown == [("ab", [[9, 5, 4]]), ("cd", [[9, 3, 2]]), ("ea", [[9, 1, 5]]), ("bc", [[9, 4, 3]])]


def test_loader_tells_the_epoch() -> None:
    examples = build_examples(make([{"q": "q", "p": "p", "n": ["a", "b"]}]), encode, negatives=1)
    loader = train_loader(examples, StepSampler(examples.lengths, 1, 100, seed=0))
    shown = []
    for epoch in (0, 1, 2):
        loader.sampler.set_epoch(epoch)
        shown += [words(batch)[2] for step in loader for batch in step]
    assert shown == ["a", "b", "a"]


def test_teacher_scores_of_rows_with_fewer_negatives_end_in_nan() -> None:
    rows = [
        {"q": "a", "p": "x", "n": ["y", "z"], "scores": [3, 2, 1]},
        {"q": "b", "p": "w", "n": ["y"], "scores": [5, 4]},
    ]
    targets = build_examples(make(rows), encode, negatives=2).collate([1, 0]).goal
    wanted = torch.tensor([[5, 4, float("nan")], [3, 2, 1]])
    torch.testing.assert_close(targets, wanted, equal_nan=True, rtol=0, atol=0)
    assert targets.dtype == torch.float32


def test_scores_of_graded_pairs_are_targets() -> None:
    rows = [{"q": "a", "p": "x", "score": 4.5}, {"q": "b", "p": "y", "score": 0.0}]
    assert build_examples(make(rows, "scored"), encode, 1).collate([1, 0]).goal.tolist() == [0.0, 4.5]


def test_negative_number_of_negatives_is_refused() -> None:
    message = r"^task.negatives=-1: allowed is 0 \(in-batch negatives alone\) or more.$"
    with pytest.raises(ConfigError, match=message):
        build_examples(make(ROWS), encode, negatives=-1)


COUNTS = st.lists(st.lists(st.integers(1, 9), max_size=4), min_size=1, max_size=5)


@given(COUNTS, st.integers(0, 5))
def test_longest_is_the_sum_of_the_greatest(sizes: list[list[int]], most: int) -> None:
    flat = np.array([size for row in sizes for size in row], dtype=np.int64)
    offsets = np.cumsum([0, *map(len, sizes)])
    assert longest(flat, offsets, most).tolist() == [sum(sorted(row)[::-1][:most]) for row in sizes]


@given(st.lists(st.tuples(*[st.integers(0, 3)] * 3), min_size=1, max_size=8))
def test_known_pairs_are_those_of_the_definition(rows: list[tuple[int, int, int]]) -> None:
    query, text, document = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    none = np.zeros(0, dtype=np.int64)
    found = known_pairs(TupleRows(query, text, none, np.zeros(len(rows) + 1, np.int64), document, none), 4)
    wanted = {q * 4 + t for q, _, d in rows for _, t, other in rows if d == other}
    assert found.tolist() == sorted(wanted)


# -- collections ---------------------------------------------------------------------------------------------

JUDGED = (
    {"q": "a", "p": "x", "grade": 2, "n": ["y"], "qid": "1"},
    {"q": "b", "p": "y", "qid": "2"},
    {"q": "a", "p": "z", "qid": "1"},
)


def pairs(judged: Judged) -> list[tuple[int, int, float]]:
    return list(zip(judged.query.tolist(), judged.document.tolist(), judged.value.tolist(), strict=True))


def test_test_searches_the_whole_corpus_in_its_order() -> None:
    corpus = {"k0": "u", "k1": "z", "k2": "y", "k3": "v", "k4": "x"}
    collection = build_collection(make(JUDGED, **corpus), encode, None)
    assert (list(collection.queries), collection.query_ids) == (["a", "b"], ["1", "2"])
    assert list(collection.documents) == ["u", "z", "y", "v", "x"]
    assert collection.document_ids == ["k0", "k1", "k2", "k3", "k4"]
    assert pairs(collection.qrels) == [(0, 4, 2), (0, 2, 0), (1, 2, 1), (0, 1, 1)]
    assert collection.qrels.value.dtype == np.int64
    assert collection.scored is None
    assert CALLS == []  # nothing is tokenised yet


def test_validation_searches_the_judged_documents_and_others_at_random() -> None:
    corpus = {f"k{i}": f"text {i}" for i in range(50)} | {"x": "x", "y": "y", "z": "z"}
    table = make(JUDGED, **corpus)
    some = build_collection(table, encode, 10)
    assert len(some.documents) == 13
    assert {"x", "y", "z"} <= set(some.document_ids)
    places = [list(corpus).index(key) for key in some.document_ids]
    assert places == sorted(places)
    assert some.document_ids == build_collection(table, encode, 10).document_ids
    assert set(some.document_ids) <= set(build_collection(table, encode, 20).document_ids)
    assert len(build_collection(table, encode, OTHERS).documents) == 53
    named = [(some.query_ids[q], some.document_ids[d], g) for q, d, g in pairs(some.qrels)]
    assert named == [("1", "x", 2), ("1", "y", 0), ("2", "y", 1), ("1", "z", 1)]


def test_best_grade_of_a_pair_counts() -> None:
    rows = ({"q": "a", "p": "x", "n": ["y"]}, {"q": "a", "p": "y", "grade": 3}, {"q": "a", "p": "x"})
    assert pairs(build_collection(make(rows), encode, 0).qrels) == [(0, 0, 1), (0, 1, 3)]


def test_texts_without_ids_are_numbered() -> None:
    collection = build_collection(make(ROWS), encode, None)
    assert collection.query_ids == ["q1", "q2"]
    assert dict(zip(collection.document_ids, collection.documents, strict=True)) == {
        "d1": "x", "d2": "uv", "d3": "w", "d4": "yy",
    }  # fmt: skip


def test_graded_pairs_have_scores_and_no_qrels() -> None:
    rows = [{"q": "a", "p": "x", "score": 4.5}, {"q": "b", "p": "x", "score": 0.25}, {"q": "a", "p": "y", "score": 1}]
    collection = build_collection(make(rows, "scored"), encode, 0)
    assert pairs(collection.qrels) == []
    assert collection.scored is not None
    assert pairs(collection.scored) == [(0, 0, 4.5), (1, 0, 0.25), (0, 1, 1.0)]
    assert collection.scored.value.dtype == np.float64


def test_sequences_are_queries_then_documents() -> None:
    collection = build_collection(make(ROWS), encode, None)
    assert (len(collection), collection.lengths.tolist()) == (6, [2, 3, 2, 3, 2, 3])
    batch = collection.collate([1, 4, 0])
    assert words(batch) == ["bb", "w", "a"]
    assert (batch.is_query.tolist(), batch.index.tolist()) == ([True, False, True], [1, 4, 0])
    assert CALLS == [("query", ["a", "bb"]), ("document", ["x", "uv", "w", "yy"])]
    seen = [int(i) for batch in eval_loader(collection, 8) for i in batch.index]
    assert sorted(seen) == list(range(6))


@pytest.mark.parametrize("tokenised", [False, True])
def test_chunks_are_the_collection_in_parts(tokenised: bool) -> None:
    collection = build_collection(make(ROWS), encode, None)
    if tokenised:
        collection.tokenised()
        CALLS.clear()
    chunks = list(collection.chunks("document", 3))
    assert [(chunk.role, chunk.start, len(chunk), chunk.numbers.tolist()) for chunk in chunks] == [
        ("document", 0, 3, [0, 1, 2]), ("document", 3, 1, [3]),
    ]  # fmt: skip
    assert [chunk.lengths.tolist() for chunk in chunks] == [[2, 3, 2], [3]]
    assert words(chunks[0].collate([2, 0])) == ["w", "x"]
    assert chunks[0].collate([2, 0]).index.tolist() == [2, 0]
    assert not chunks[0].collate([0]).is_query.any()
    assert [words(chunk.collate([0])) for chunk in collection.chunks("query", 1)] == [["a"], ["bb"]]
    assert len(CALLS) == (0 if tokenised else 4)


def test_chunks_of_a_large_corpus_hold_one_at_a_time() -> None:
    class Endless(Sequence[str]):
        """A million texts, none of which is kept."""

        def __len__(self) -> int:
            return 1_000_000

        def __getitem__(self, index: Any) -> Any:
            return f"{index}"

    nothing = Judged(*(np.zeros(0, np.int64) for _ in range(3)))
    collection = Collection(["q"], ["1"], Endless(), [], nothing, encode)
    chunks = collection.chunks("document", 1000)
    assert [next(chunks).start for _ in range(3)] == [0, 1000, 2000]
    assert [len(texts) for _, texts in CALLS] == [1000, 1000, 1000]
    assert not collection.is_tokenised


def test_collection_of_training_rows_is_not_tokenised_again() -> None:
    examples = build_examples(make(ROWS), encode, negatives=2)
    CALLS.clear()
    collection = examples.collection()
    assert words(collection.collate(range(6))) == ["a", "bb", "x", "uv", "w", "yy"]
    assert pairs(collection.qrels) == [(0, 0, 1), (0, 1, 0), (0, 2, 1), (1, 3, 1), (0, 3, 0)]
    assert CALLS == []


TEXTS = st.lists(st.text("abc", max_size=4), min_size=1, max_size=6)


@given(TEXTS, TEXTS)
def test_joined_tokens_are_those_of_the_parts(first: list[str], second: list[str]) -> None:
    parts = encode(first, "query"), encode(second, "document")
    both = join_tokens(parts)
    assert both.offsets.dtype == np.int64
    for part, start in zip(parts, (0, len(first)), strict=True):
        for again in (cut_out(both, start, start + len(part)), take(both, range(start, start + len(part)))):
            assert again.input_ids.tolist() == part.input_ids.tolist()
            assert again.offsets.tolist() == part.offsets.tolist()
            assert again.full_lengths.tolist() == part.full_lengths.tolist()


def test_examples_are_what_a_trainer_asks_for() -> None:
    examples = build_examples(make(ROWS), encode, negatives=1)
    assert isinstance(examples, TupleExamples)
    steps = list(train_loader(examples, StepSampler(examples.lengths, 2, 8, seed=0)))
    rows = [batch.index[batch.row[: batch.queries]].tolist() for step in steps for batch in step]
    assert sorted(row for found in rows for row in found) == [0, 1, 2]
    assert max(batch.packed.num_tokens for step in steps for batch in step) <= 8
