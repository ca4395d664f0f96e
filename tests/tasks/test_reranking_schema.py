"""What rows of a reranker are taken for, which examples they become, and what the doctor says of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modernbert.errors import ConfigError
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer
from tasks.reranking_schema import RerankingSchema

QUERIES = ["where is my order", "where is my order", "where is my order", "refund please", "refund please", "shoes"]
DOCUMENTS = ["the courier left it", "good", "the app closes", "money back", "map", "send shoes back again"]
LABELS: list[Any] = ["1", "0", "0", "0", "1", "0"]


def table(labels: list[Any] = LABELS, name: str = "rows.csv", **more: list[Any]) -> Table:
    columns = {"query": list(QUERIES), "document": list(DOCUMENTS), "label": list(labels)} | more
    return Table(name, columns, list(range(2, 2 + len(QUERIES))))


def fit(rows: Table, max_length: int = 64, **settings: Any) -> RerankingSchema:
    return RerankingSchema.fit(rows, {}, settings, max_length)


def codes(schema: RerankingSchema, **tables: Table) -> list[tuple[str, str, int | None]]:
    report = Report()
    schema.check(report, tables)
    return [(p.level, p.code, p.row) for p in report.problems]


def test_kinds_of_labels() -> None:
    assert fit(table()).grades == "binary"
    assert (fit(table()).positives, fit(table()).negatives) == (2, 4)
    graded = fit(table([0, 3, 1, 0, 2, 0]))
    assert (graded.grades, graded.highest) == ("graded", 3.0)
    assert fit(table([0.5, 3, 1, 0, 2, 0])).grades == "scored"
    assert fit(table([-4, 3, 1, 0, 2, 0]), loss="mse").grades == "scored"
    with pytest.raises(ConfigError, match=r"task\.loss=bce with labels from -4 to 3"):
        fit(table([-4, 3, 1, 0, 2, 0]))
    with pytest.raises(ConfigError, match=r"task\.candidates=1: allowed"):
        fit(table(), candidates=1)


def test_written_and_read() -> None:
    schema = fit(table(), kind="uni", loss="lambda", candidates=5)
    assert RerankingSchema.from_json(schema.to_json()) == schema
    assert schema.describe() == "reranking by a uni-encoder (relevant or not)"
    assert (schema.query_limit, schema.document_limit) == (16, 48)


def test_clean_rows_have_one_remark() -> None:
    assert codes(fit(table()), train=table()) == [("warning", "query-no-positive", 7)]


def test_errors_of_cells() -> None:
    rows = table(["1", "maybe", "", "0", "1", "0"])
    rows.columns["document"][3] = None
    rows.columns["query"][5] = " "
    assert codes(fit(table()), train=rows) == [
        ("error", "text-empty", 7),
        ("error", "text-missing", 5),
        ("error", "label-not-number", 3),
        ("error", "label-missing", 4),
    ]


def test_a_file_without_labels() -> None:
    rows = table()
    del rows.columns["label"]
    assert ("error", "label-missing", None) in codes(fit(table()), test=rows)


def test_labels_that_are_all_equal() -> None:
    same = table(["1"] * 6)
    assert codes(fit(same), train=same) == [("error", "label-one-class", None)]
    by_query = table(["1", "1", "1", "0", "0", "0"])
    assert codes(fit(by_query), train=by_query) == [("error", "query-no-order", None)]


def test_queries_with_relevant_candidates_only() -> None:
    found = codes(fit(table()), train=table(["1", "1", "1", "0", "1", "0"]))
    assert ("warning", "query-all-positive", 2) in found


def test_duplicates_conflicts_and_ids() -> None:
    rows = table(query_id=["a", "a", "a", "b", "b", "a"])
    rows.columns["document"][2] = rows.columns["document"][0]
    found = codes(fit(table()), train=rows)
    assert ("warning", "row-duplicate", 4) in found
    assert ("warning", "label-conflict", 4) in found
    assert ("warning", "query-two-texts", 7) in found


def test_a_leaking_query_is_one_finding() -> None:
    found = codes(fit(table()), train=table(), test=table(name="test.csv"))
    assert [row for _, code, row in found if code == "row-leak"] == [2, 5, 7]


def test_other_labels_than_in_training() -> None:
    found = codes(fit(table()), test=table(["1", "0", "0.5", "-1", "1", "0"]))
    assert [row for _, code, row in found if code == "label-not-grade"] == [4, 5]


def test_a_teacher_stands_in_for_labels() -> None:
    rows = table(teacher=["9.5", "1", "x", "0", "2", "3"])
    assert not fit(rows).teacher
    schema = fit(rows, loss="margin_mse")
    assert schema.teacher
    assert ("error", "label-not-number", 4) in codes(schema, train=rows)
    del rows.columns["label"]
    rows.columns["teacher"][2] = "-1"
    alone = fit(rows, loss="mse")
    assert (alone.grades, alone.teacher) == ("scored", True)
    assert codes(alone, train=rows) == []


# -- examples ----------------------------------------------------------------------------------------------


def sizes(tokenizer: Any) -> list[int]:
    return [len(tokenizer(query, document)["input_ids"]) for query, document in zip(QUERIES, DOCUMENTS, strict=True)]


def test_pairs_are_tokenised_as_pairs(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("bert"))
    examples = fit(table()).examples(table(), tokenizer)
    assert len(examples) == 6
    batch = examples.collate([4, 0])
    expected = tokenizer(QUERIES[4], DOCUMENTS[4])
    first = batch.packed.input_ids[: int(batch.packed.cu_seqlens[1])]
    assert first.tolist() == expected["input_ids"]
    assert batch.packed.token_type_ids[: len(first)].tolist() == expected["token_type_ids"]
    assert batch.targets.tolist() == [1.0, 1.0]
    assert batch.query.tolist() == [1, 0]
    assert batch.index.tolist() == [4, 0]
    assert examples.lengths.tolist() == sizes(tokenizer)


def test_lists_keep_a_query_together(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("roberta"))
    schema = fit(table(), loss="lambda")
    train, measured = schema.examples(table(), tokenizer), schema.examples(table(), tokenizer, "evaluate")
    assert [rows.tolist() for rows in train.members] == [[0, 1, 2], [3, 4]]  # "shoes" has no order to teach
    assert [rows.tolist() for rows in measured.members] == [[0, 1, 2], [3, 4], [5]]
    batch = measured.collate([1, 0])
    assert batch.index.tolist() == [3, 4, 0, 1, 2]
    assert batch.query.tolist() == [1, 1, 0, 0, 0]
    assert int(measured.lengths[0]) == sum(sizes(tokenizer)[:3])


def test_queries_stand_before_their_documents(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("bert"))
    examples = fit(table(), kind="uni").examples(table(), tokenizer)
    batch = examples.collate([1, 0])
    texts = [QUERIES[3], *DOCUMENTS[3:5], QUERIES[0], *DOCUMENTS[:3]]
    assert batch.packed.input_ids.tolist() == [i for text in texts for i in tokenizer(text)["input_ids"]]
    assert batch.packed.prefix.tolist() == [-1, 0, 0, -1, 3, 3, 3]
    starts = batch.packed.cu_seqlens[:-1].long()
    assert batch.packed.token_type_ids[starts].tolist() == [0, 1, 1, 0, 1, 1, 1]
    poly = fit(table(), kind="poly").examples(table(), tokenizer).collate([1, 0])
    assert poly.packed.token_type_ids is None
    assert batch.to("cpu").packed.prefix.tolist() == batch.packed.prefix.tolist()


def test_parts_are_within_the_budget(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("bert"))
    for kind in ("cross", "uni"):
        examples = fit(table(), kind=kind, loss="lambda").examples(table(), tokenizer, "evaluate")
        parts = examples.parts(25)
        assert np.concatenate(parts.members).tolist() == [0, 1, 2, 3, 4, 5]
        assert len(parts) > len(examples)
        assert all(size <= 25 or len(rows) == 1 for size, rows in zip(parts.lengths, parts.members, strict=True))
        assert len(examples.parts(10_000)) == len(examples)


def test_few_candidates_take_turns(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("bert"))
    examples = fit(table(), loss="lambda", candidates=2).examples(table(), tokenizer)
    shown = []
    for epoch in range(3):
        examples.set_epoch(epoch)
        shown.append(examples.collate([0]).index.tolist())
    assert shown == [[0, 1], [0, 2], [0, 1]]
    assert int(examples.lengths[0]) >= examples.collate([0]).packed.num_tokens
    single = fit(table(), candidates=2).examples(table(), tokenizer)
    assert [int(rows[0]) for rows in single.members] == [0, 1, 3, 4, 5]


def test_long_texts_are_told(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("bert"))
    report = Report()
    schema = fit(table(), max_length=10)
    examples = schema.examples(table(), tokenizer)
    schema.check_lengths(report, table(), examples)
    assert [p.code for p in report.problems] == ["text-cut"]
    assert examples.cut.tolist() == [True, False, False, False, False, False]
    assert int(examples.lengths.max()) == 10


def test_strata_and_groups() -> None:
    schema = fit(table())
    assert schema.group_column(table()) == "query"
    assert schema.group_column(table(query_id=list("aaabbc"))) == "query_id"
    assert schema.strata(table()) == [(1.0,), (0.0,), (0.0,), (0.0,), (1.0,), (0.0,)]
