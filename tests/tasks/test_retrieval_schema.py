"""The schema of retrieval: from files by the data module to examples, with prefixes, limits and the doctor's words."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modernbert.errors import ConfigError, DataError
from modernbert.packing import unpack
from tasks import retrieval_schema
from tasks.data.module import Checked, DataSettings, check, prepare
from tasks.data.ranking import Collection, TupleExamples
from tasks.data.ranking.rows import MENDS
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer
from tasks.retrieval_schema import RetrievalSchema

ROWS = 40
TEXTS = [f"where is my parcel {word}" for word in (
    "please refund money app closes when open map order password work how do send shoes back again door left with"
).split()]  # fmt: skip
OURS = ("beir", "building", "cells", "checks", "columns", "corpus", "pool", "rows")


@pytest.fixture
def tokenizer(tiny_encoder: Callable[..., Path]) -> Any:
    return load_tokenizer(tiny_encoder("bert"))


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """40 rows of 20 queries, two positives each; row i has the positive i."""
    file = tmp_path / "pairs.csv"
    lines = [f"{TEXTS[i // 2]} {i // 2},{TEXTS[i % 7]} back {i}\n" for i in range(ROWS)]
    file.write_text("query,positive\n" + "".join(lines), encoding="utf-8")
    return str(file)


def checked(train: str, task: dict[str, Any] | None = None, limit: int = 64, **data: Any) -> Checked:
    return check(RetrievalSchema, DataSettings(train=train, **data), task or {}, limit, seed=0)


def texts(tokenizer: Any, packed: Any) -> list[str]:
    return [tokenizer.decode(ids) for ids in unpack(packed.input_ids, packed)]


def test_validation_keeps_the_rows_of_a_query_together(pairs: str) -> None:
    found = checked(pairs, validation_share=0.25)
    queries = {name: set(table.columns["query"]) for name, table in found.tables.items()}
    assert {name: len(table) for name, table in found.tables.items()} == {"train": 30, "validation": 10}
    assert not queries["train"] & queries["validation"]
    assert found.notes[-1] == f"validation: 10 of 40 rows of {pairs}, whole groups of 'query', seed 0"
    assert found.schema.describe() == "retrieval of documents by queries"


def test_each_split_becomes_what_its_use_asks_for(pairs: str, tokenizer: Any) -> None:
    done = prepare(checked(pairs, test=pairs, validation_share=0.25), tokenizer, None)
    train, validation, test = (done.examples[name] for name in ("train", "validation", "test"))
    assert isinstance(train, TupleExamples)
    assert isinstance(validation, Collection)
    assert isinstance(test, Collection)
    # Validation searches the whole file, since that is no more than 1,000 documents; so does the test.
    assert [(len(c.queries), len(c.documents), len(c.qrels.query)) for c in (validation, test)] == [
        (5, 40, 10), (20, 40, 40),
    ]  # fmt: skip


def test_prefixes_stand_before_every_text_of_their_role(pairs: str, tokenizer: Any) -> None:
    settings = {"query_prefix": "where is ", "document_prefix": "my "}
    done = prepare(checked(pairs, settings, test=pairs), tokenizer, None)
    schema, train, test = done.schema, done.examples["train"], done.examples["test"]
    assert schema.with_prefix(["a", "b"], "query") == ["where is a", "where is b"]
    assert schema.with_prefix(["a"], "document") == ["my a"]
    batch = train.collate([0, 1, 2])
    decoded = texts(tokenizer, batch.packed)
    assert all(text.startswith("[CLS] where is") for text in decoded[:3])
    assert all(text.startswith("[CLS] my") for text in decoded[3:])
    query, document = (next(test.chunks(role, 1)).collate([0]) for role in ("query", "document"))
    assert texts(tokenizer, query.packed)[0].startswith("[CLS] where is")
    assert texts(tokenizer, document.packed)[0].startswith("[CLS] my")
    assert test.queries[0] == f"{TEXTS[0]} 0"  # as it was given


def test_queries_and_documents_have_limits_of_their_own(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "long.csv"
    rows = "".join(f"q{i},{'refund ' * 30}\n" for i in range(5)) + f"{'parcel ' * 20},money\n"
    file.write_text("query,positive\n" + rows, encoding="utf-8")
    found = checked(str(file), {"query_max_length": 10}, limit=16, validation_share=0)
    done = prepare(found, tokenizer, None)
    train = done.examples["train"]
    assert train.texts.tokens.lengths.tolist() == [3, 3, 3, 3, 3, 10, 16, 3]
    assert train.cut.tolist() == [True] * 6
    assert [problem.what for problem in done.report.problems] == [
        "1 of 6 queries (16.7%) exceed 10 tokens and are cut; 32.4% of all tokens are not read (longest: 22 tokens)",
        "1 of 2 documents (50.0%) exceed 16 tokens and are cut; 45.7% of all tokens are not read (longest: 32 tokens)",
    ]
    assert done.schema.describe_lengths() == "Queries are cut at 10 tokens, documents at 16."


def test_large_collection_is_not_tokenised_before_it_is_walked(
    pairs: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval_schema, "EAGER", 30)
    monkeypatch.setattr(retrieval_schema, "LOOKED_AT", 8)
    done = prepare(checked(pairs, test=pairs, limit=8), tokenizer, None)
    test = done.examples["test"]
    assert not test.is_tokenised
    assert "of 8 documents" in [p.what for p in done.report.problems if p.code == "text-cut"][-1]
    assert [len(chunk) for chunk in test.chunks("document", 16)] == [16, 16, 8]
    assert not test.is_tokenised


def test_tokens_come_from_the_cache(pairs: str, tokenizer: Any, tmp_path: Path) -> None:
    found = checked(pairs)
    first = prepare(found, tokenizer, tmp_path / "cache").examples["train"]
    kept = sorted(path.name for path in (tmp_path / "cache").iterdir())
    again = prepare(found, tokenizer, tmp_path / "cache").examples["train"]
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == kept
    assert again.texts.tokens.input_ids.tolist() == first.texts.tokens.input_ids.tolist()


def test_progress_ends_at_the_number_of_rows(pairs: str, tokenizer: Any) -> None:
    steps: list[int] = []
    found = checked(pairs, test=pairs)
    prepare(found, tokenizer, None, steps.append)
    assert sum(steps) == sum(len(table) for table in found.tables.values())
    assert min(steps) >= 0


@pytest.mark.parametrize("kind", ["tuples", "scored"])
def test_schema_survives_json(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    score = kind == "scored"
    file.write_text("query,positive" + ",score" * score + "\n" + "".join(
        f"q{i},p{i}" + f",{i / 2}" * score + "\n" for i in range(20)
    ), encoding="utf-8")  # fmt: skip
    settings = {"query_prefix": "q: ", "document_prefix": None, "query_max_length": 12, "negatives": 3}
    schema = checked(str(file), settings).schema
    assert schema == RetrievalSchema({"query": "query"}, kind, 64, "q: ", "", 12, 3, (0.0, 9.5) if score else None)
    assert RetrievalSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"negatives": -1}, "task.negatives=-1: allowed is 0 (in-batch negatives alone) or more."),
        ({"negatives": 1.5}, "task.negatives=1.5: allowed is 0 (in-batch negatives alone) or more."),
        ({"query_max_length": 65}, "task.query_max_length=65: allowed is null, or 8 to 64 tokens."),
    ],
)
def test_settings_are_checked(pairs: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        checked(pairs, settings)


def test_graded_pairs_are_split_over_their_scores(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "scored.csv"
    file.write_text(
        "sentence1,sentence2,score\n" + "".join(f"money {i},refund {i},{i % 6}\n" for i in range(60)), encoding="utf-8"
    )
    done = prepare(checked(str(file), validation_share=0.2), tokenizer, None)
    assert done.schema.describe() == "similarity of texts from graded pairs"
    assert sorted(set(done.tables["validation"].columns["score"])) == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    validation = done.examples["validation"]
    assert validation.scored is not None
    assert validation.scored.value.tolist() == done.tables["validation"].columns["score"]
    assert done.examples["train"].collate([0]).goal.tolist() == [done.tables["train"].columns["score"][0]]


def test_errors_of_a_file_without_a_readable_row_are_told(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("query,positive,score\nq,p,high\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"^1 problem in the data:\n  .*a.csv:2: 'score': 'high', not a number"):
        checked(str(file))


def test_corpus_and_splits_reach_the_files(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    lines = [json.dumps({"_id": f"d{i}", "text": f"text {i}"}) for i in range(30)]
    (folder / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    lines = [json.dumps({"_id": f"q{i}", "text": f"query {i}"}) for i in range(30)]
    (folder / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for split, numbers in (("train", range(20)), ("dev", range(20, 25)), ("test", range(25, 30))):
        (folder / "qrels" / f"{split}.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in numbers), encoding="utf-8")
    found = checked(str(folder), validation=str(folder), test=str(folder))
    assert {name: len(table) for name, table in found.tables.items()} == {"train": 20, "validation": 5, "test": 5}
    docs = tmp_path / "docs.csv"
    docs.write_text("id,text\na,other\n" + "".join(f"b{i},p{i}\n" for i in range(20)), encoding="utf-8")
    rows = tmp_path / "rows.csv"
    rows.write_text("query,positive\n" + "".join(f"q{i},p{i}\n" for i in range(20)), encoding="utf-8")
    assert len(checked(str(rows), corpus=str(docs)).tables["train"].corpus) == 21


def test_stream_finds_the_queries(tmp_path: Path, tokenizer: Any) -> None:
    file = tmp_path / "new.csv"
    file.write_text("id,question\n1,where\n2,when\n3,how\n", encoding="utf-8")
    count, tables = RetrievalSchema.stream(str(file), {}, 2)
    found = list(tables)
    assert (count, [table.columns["query"] for table in found]) == (3, [["where", "when"], ["how"]])
    schema = RetrievalSchema({"query": "query"}, "tuples", 32, query_prefix="my ")
    examples = schema.examples(Table("x", {"query": ["where", "money back"]}, [1, 2]), tokenizer, "predict")
    batch = examples.collate([1, 0])
    assert texts(tokenizer, batch.packed) == ["[CLS] my money back [SEP]", "[CLS] my where [SEP]"]
    assert batch.is_query.tolist() == [True, True]


def test_evaluation_reads_without_a_split_as_a_test(pairs: str) -> None:
    assert RetrievalSchema.read(pairs, {}, Report(), {}).split == "test"


def test_rows_of_the_other_kind_are_refused(pairs: str, tmp_path: Path) -> None:
    graded = tmp_path / "graded.csv"
    graded.write_text("sentence1,sentence2,score\n" + "".join(f"good {i},fine {i},{i % 5}\n" for i in range(12)))
    for train, test in ((pairs, str(graded)), (str(graded), pairs)):
        problems = checked(train, test=test).report.errors
        assert [problem.source for problem in problems if problem.code == "kind-other"] == [test]


def test_codes_of_the_doctor_are_documented(root: Path) -> None:
    found = {f"{role}-unreadable": "error" for role in MENDS}
    for name in OURS:
        file = root / "tasks" / "data" / "ranking" / f"{name}.py"
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and len(node.args) > 1:
                level, code = (arg.value if isinstance(arg, ast.Constant) else None for arg in node.args[:2])
                if level in ("error", "warning") and isinstance(code, str):
                    found[code] = str(level)
    page = (root / "docs" / "retrieval-formats.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning) \|", page, re.MULTILINE)) == found
    assert {"negative-is-positive", "qrels-unknown-document", "scores-unreadable"} <= set(found)


@pytest.mark.parametrize(
    ("name", "rows", "queries", "documents", "pairs"),
    [("scifact", 919, 300, 5183, 339), ("cranfield", 1077, 75, 1400, 534)],
)
def test_public_collections(shared: Path, name: str, rows: int, queries: int, documents: int, pairs: int) -> None:
    source = str(shared / "data" / "retrieval" / name)
    found = checked(source, validation_share=0, test=source)
    assert found.report.errors == []
    assert len(found.tables["train"]) == rows
    nothing: Any = None
    collection = retrieval_schema.build_collection(found.tables["test"], nothing, None)
    sizes = len(collection.queries), len(collection.documents), len(collection.qrels.query)
    assert sizes == (queries, documents, pairs)
