"""Which columns of a table are the query, its positive, its negatives, scores and ids."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from modernbert.errors import ConfigError
from tasks.data.readers.table import Table
from tasks.data.schema import Columns, Role, map_columns, plain_name

QUERY = Role(
    "query",
    ("anchor", "question", "search_query", "sentence1", "text1", "texta", "question1", "premise", "title", "headline"),
    required=True, for_prediction=True, help="what is asked",
)  # fmt: skip
POSITIVE = Role(
    "positive",
    ("pos", "positive_passages", "document", "answer", "passage", "sentence2", "text2", "textb", "question2",
     "hypothesis", "response", "body", "text", "content", "contents", "context", "description", "abstract"),
    required=True, for_prediction=False, help="the text that it should find",
)  # fmt: skip
NEGATIVE = Role("negative", (), required=False, for_prediction=False, help="texts that it should not find")
SCORE = Role("score", ("similarity", "similarity_score", "label", "labels", "relevance", "grade"),
             required=False, for_prediction=False, help="how alike the two texts of a graded pair are")  # fmt: skip
SCORES = Role("scores", ("teacher_scores",), required=False, for_prediction=False,
              help="a teacher's scores of the positive and of each negative")  # fmt: skip
QUERY_ID = Role("query_id", ("qid", "question_id"), required=False, for_prediction=False, help="the id of the query")
POSITIVE_ID = Role("positive_id", ("document_id", "doc_id", "docid", "corpus_id", "passage_id", "pid"),
                   required=False, for_prediction=False, help="the id of the positive's document")  # fmt: skip
ROLES = (QUERY, POSITIVE, NEGATIVE, SCORE, SCORES, QUERY_ID, POSITIVE_ID)

NEGATIVES = re.compile(r"(hard)?neg(ative)?s?(passages?|texts?|documents?)?[0-9]*")


def match_columns(table: Table, given: Mapping[str, Any], has_corpus: bool) -> tuple[Columns, list[str]]:
    """The column of each role (`negative` and `scores` have lists of them), and a sentence for each that was guessed.

    `given` maps roles to columns; None leaves a role to the guess, False goes without it. A file with negatives
    has no `score` (its pairs are not graded), one without has no `scores`. With a corpus an id can stand for the
    positive.

    Raises:
        ConfigError: as `tasks.data.schema.map_columns`; several columns fit the query or the positive; False for one
            of these two.
    """
    known = [role.name for role in ROLES]
    if unknown := [name for name in given if name not in known]:
        raise ConfigError(f"data.columns.{unknown[0]}: no such role; allowed: {', '.join(known)}")
    if without := [name for name in ("query", "positive") if given.get(name) is False]:
        raise ConfigError(f"data.columns.{without[0]}=false: this role is needed; give the name of a column")
    for name in ("query", "positive", "score", "query_id", "positive_id"):
        if not isinstance(given.get(name), (str, bool, type(None))):
            raise ConfigError(f"data.columns.{name}={given[name]!r}: give the name of one column")
    named = {name: value for name, value in given.items() if value is not None and value is not False}
    notes: list[str] = []
    if "negative" not in given or given["negative"] is None:
        found = [column for column in table.columns if NEGATIVES.fullmatch(plain_name(column))]
        if found := [column for column in found if column not in named.values()]:
            named["negative"] = found
            notes.append(guessed("negative", found))
    if "negative" in named and given.get("scores") is None and (found := score_columns(table, named)):
        named["scores"] = found
        notes.append(guessed("scores", found))
    graded = "score" if "negative" not in named else "scores"
    if (other := "scores" if graded == "score" else "score") in named:
        why = "graded pairs, which have no negatives" if other == "score" else "rows with negatives"
        mend = "data.columns.negative=false" if other == "score" else "name the negatives"
        raise ConfigError(
            f"data.columns.{other}={named[other]}: it belongs to {why}; set data.columns.{graded}, or {mend}"
        )
    wanted = [role for role in ROLES if role.name != other and given.get(role.name) is not False]
    # An id before a text: "document_id" must not be left over for nobody. Nothing is guessed between two columns.
    wanted = [dataclasses.replace(role, for_prediction=False) for role in wanted]
    if has_corpus:
        wanted = [dataclasses.replace(role, required=role.required and role.name != "positive") for role in wanted]
    mapping, more = map_columns(table, wanted, named)
    if "positive" not in mapping and "positive_id" not in mapping:
        match_columns(table, given, has_corpus=False)  # says that nothing fits the positive
    for role in ("negative", "scores"):
        if role in mapping and isinstance(mapping[role], str):
            mapping[role] = [mapping[role]]
    return mapping, [*notes, *more]


def score_columns(table: Table, named: Mapping[str, Any]) -> list[str]:
    """Teacher scores in several columns: pos_scores and neg_scores, or positive_score and negative_score (_1 …)."""
    plain = {plain_name(column): column for column in table.columns}
    for pair in (("posscores", "negscores"), ("positivescores", "negativescores")):
        if all(name in plain for name in pair):
            return [plain[name] for name in pair]
    negatives = [named["negative"]] if isinstance(named["negative"], str) else named["negative"]
    wanted = [plain_name(name) + "score" for name in (named.get("positive", "positive"), *negatives)]
    return [plain[name] for name in wanted] if all(name in plain for name in wanted) else []


def guessed(role: str, columns: list[str]) -> str:
    """The sentence that says so."""
    names = ", ".join(map(repr, columns))
    word = "column" if len(columns) == 1 else "columns"
    return f"{role}: {word} {names} (guessed by name; another: data.columns.{role}=…; none: data.columns.{role}=false)"
