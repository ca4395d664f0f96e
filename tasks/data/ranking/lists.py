"""Candidates of queries from every format people have, as one table of pairs: a row is a query with one document.

The columns come out as `query`, `document`, and where there are such `label`, `teacher`, `query_id`, `document_id`;
all others stay as they are. Lists and triplets become one row a document, with the row number of their source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modernbert.errors import ConfigError, DataError
from tasks.data import readers
from tasks.data.ranking.beir import Beir, is_beir, read_beir
from tasks.data.ranking.cells import UnreadableError, as_number, as_numbers, as_texts
from tasks.data.ranking.columns import NEGATIVES, match_columns
from tasks.data.ranking.groups import scattered, whole_queries
from tasks.data.ranking.runs import read_run
from tasks.data.readers import Table
from tasks.data.schema import Problem, Report, Role, map_columns, plain_name
from tasks.labels import to_number

#: Between a BEIR split and its candidates, as in scifact:test@bm25.trec.
WITH_RUN = "@"
WORDS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}

QUERY = ("query", "question", "anchor", "claim", "search", "sentence1")
DOCUMENT = ("document", "doc", "answer", "passage", "candidate", "response", "sentence", "text", "body", "sentence2")
LABEL = ("label", "relevance", "grade", "score", "relevant", "is_relevant", "target")
ROLES = (
    Role("query", QUERY, required=True, for_prediction=True, help="what is asked"),
    Role("document", DOCUMENT, required=True, for_prediction=True, help="a candidate, or the list of them"),
    Role("label", LABEL, required=False, for_prediction=False, help="0 or 1, a grade or a score; or the list of them"),
    Role("teacher", ("teacher", "teacher_score"), False, False, help="score of a better model, to learn from"),
    Role("query_id", ("query_id", "qid", "question_id"), False, False, help="says which rows are of one query"),
)


def read_pairs(
    source: str, given: Mapping[str, Any], report: Report, reading: Mapping[str, Any] | None = None
) -> Table:
    """A file or BEIR folder of candidates as pairs.

    Args:
        source: a table of pairs, lists or triplets, or `folder[:split][@run file]` of a BEIR folder.
        given: role -> column, where a person names it; roles are those of `ROLES`, and `positive` and `negative`.
        report: takes what is wrong with single rows.
        reading: `split` is that of a BEIR folder (train, validation or test) where the source names none.

    Raises:
        ConfigError: a column that is not there, or that nothing fits.
        DataError: a source that cannot be read.
    """
    if not is_split(source):
        return as_pairs(readers.read(source), given, report)
    folder, _, run = source.rpartition(WITH_RUN)
    wanted = (reading or {}).get("split", "test")
    if is_beir(folder):
        return beir_pairs(read_beir(folder, wanted), run, report)
    return beir_pairs(read_beir(source, wanted), None, report)


def is_split(source: str) -> bool:
    """Whether this is a split of a BEIR folder, with a run or without."""
    return is_beir(source.rpartition(WITH_RUN)[0]) or is_beir(source)


def as_pairs(table: Table, given: Mapping[str, Any], report: Report) -> Table:
    """A table in any of the layouts as one of pairs; its notes say what was guessed."""
    given = {role: column for role, column in given.items() if column is not None}
    if is_triplets(table, given):
        return triplet_pairs(table, given, report)
    known = {role.name for role in ROLES}
    columns, guessed = map_columns(table, ROLES, {role: given[role] for role in given if role in known})
    pairs = renamed(table, columns)
    # A column that is called by its role is no guess.
    own = [f"{name}: column {name!r}" for name in known]
    pairs.notes += [note for note in guessed if not note.startswith(tuple(own))]
    cells = [cell for cell in pairs.columns["document"] if cell is not None]
    return list_pairs(pairs, report) if cells and all(parse_list(cell) is not None for cell in cells) else pairs


def is_triplets(table: Table, given: Mapping[str, Any]) -> bool:
    """Whether rows are a query, its positive and its negatives."""
    if "document" in given or "positive" in given:
        return "positive" in given
    names = {plain_name(column) for column in table.columns}
    negatives = any(NEGATIVES.fullmatch(name) for name in names)
    return bool(names & {"positive", "positives", "pos"}) and (negatives or names.isdisjoint(DOCUMENT))


def renamed(table: Table, columns: Mapping[str, str]) -> Table:
    """The table with the columns of roles under the names of these; a column that has such a name goes aside."""
    role_of = {column: role for role, column in columns.items()}
    found: dict[str, list[Any]] = {}
    for column, values in table.columns.items():
        name = role_of.get(column, column)
        while column not in role_of and name in columns:
            name += "_other"
        found[name] = values
    return Table(table.source, found, table.rows, list(table.notes))


def list_pairs(table: Table, report: Report) -> Table:
    """Rows of a query with lists of documents and labels -> a row a document. Broken rows are left out, and told."""
    lists = [name for name in ("label", "teacher") if name in table.columns]
    cells: dict[str, list[Any]] = {name: [] for name in ("document", *lists)}
    origin: list[int] = []
    for i, row in enumerate(table.rows):
        try:
            documents = [text.text for text in as_texts(table.columns["document"][i])]
        except UnreadableError as error:
            broken(report, table, row, "document", str(error), "Give a list of texts (in CSV: as JSON)")
            continue
        found = {name: parse_list(table.columns[name][i]) for name in lists}
        if wrong := [name for name, values in found.items() if values is None or len(values) != len(documents)]:
            values = found[wrong[0]]
            what = f"{len(documents)} documents, but {'no list' if values is None else len(values)} in {wrong[0]!r}"
            broken(report, table, row, wrong[0], what, "Give as many as documents, as a list (in CSV: as JSON)")
            continue
        origin += [i] * len(documents)
        cells["document"] += documents
        for name, values in found.items():
            cells[name] += values or []
    return exploded(table, origin, cells)


def triplet_pairs(table: Table, given: Mapping[str, Any], report: Report) -> Table:
    """Rows of a query, its positive and its negatives -> a row a document, labelled 1 and 0.

    Raises:
        ConfigError: no column of negatives.
    """
    named = {"scores" if role == "teacher" else role: column for role, column in given.items() if role != "label"}
    columns, notes = match_columns(table, named, has_corpus=False)
    if "negative" not in columns:
        raise ConfigError(
            f"{table.source} has positives but no negatives: there is nothing to rank them above. "
            "Find some with `modernbert mine`, or name their column: data.columns.negative=…"
        )
    used = [columns["positive"], *columns["negative"], *columns.get("scores", ())]
    rest = {name: values for name, values in table.columns.items() if name not in used}
    plain = Table(table.source, rest, table.rows, [*table.notes, *notes])
    rows = renamed(plain, {role: columns[role] for role in ("query", "query_id") if role in columns})
    cells: dict[str, list[Any]] = {"document": [], "label": []} | ({"teacher": []} if "scores" in columns else {})
    origin: list[int] = []
    for i, row in enumerate(table.rows):
        try:
            positives = as_texts(table.columns[columns["positive"]][i])
            negatives = [text for name in columns["negative"] for text in as_texts(table.columns[name][i])]
            scores = [score for name in columns.get("scores", ()) for score in numbers_of(table.columns[name][i])]
        except UnreadableError as error:
            broken(report, table, row, columns["positive"], str(error), "Give a text, or a list of texts")
            continue
        texts = [text.text for text in (*positives, *negatives)]
        if "scores" in columns and len(scores) != len(texts):
            what = f"{len(texts)} documents but {len(scores)} scores"
            broken(report, table, row, columns["scores"][0], what, "Give one for each positive and each negative")
            continue
        origin += [i] * len(texts)
        cells["document"] += texts
        cells["label"] += [1] * len(positives) + [0] * len(negatives)
        if "teacher" in cells:
            cells["teacher"] += scores
    return exploded(rows, origin, cells)


def broken(report: Report, table: Table, row: int, column: str, what: str, mend: str) -> None:
    """A list that cannot be read; its row is left out."""
    report.add(Problem("error", "list-unreadable", table.source, row, column, what, mend))


def numbers_of(cell: Any) -> list[float]:
    """A number, or a list of them."""
    return as_numbers(cell) if parse_list(cell) is not None else [as_number(cell)]


def exploded(table: Table, origin: Sequence[int], cells: Mapping[str, list[Any]]) -> Table:
    """The rows `origin` of a table, with new cells in place of its columns of that name."""
    columns = {name: [values[i] for i in origin] for name, values in table.columns.items() if name not in cells}
    first = {name: columns.pop(name) for name in ("query_id", "query") if name in columns}
    rows = [table.rows[i] for i in origin]
    return Table(table.source, first | dict(cells) | columns, rows, list(table.notes))


def beir_pairs(beir: Beir, run: str | None, report: Report) -> Table:
    """A split of a BEIR folder: what a run found for its queries, best first, with the grades of the qrels.

    Without a run the candidates are the judged documents. Of the split `train` relevant documents that the run has
    not found are added, since they are what there is to learn; elsewhere only what the run found is ranked.

    Raises:
        DataError: no run, and every judged document is relevant; or a run without a query of this split.
    """
    grades: dict[str, dict[str, int]] = {}
    for _, query, document, grade in beir.judged():
        grades.setdefault(query, {})[document] = grade
    notes = []
    if run:
        found = read_run(run)
        ranked = {query: [name for name, _ in found[query]] for query in grades if query in found}
        if not ranked:
            raise DataError(f"{run} ranks no query of {beir.qrels_source}: is it of another split or data set?")
        notes.append(f"candidates: those of {run}, for {len(ranked):,} of {len(grades):,} judged queries")
        if beir.split == "train":
            notes.append(add_positives(ranked, grades))
    elif all(grade > 0 for judged in grades.values() for grade in judged.values()):
        raise DataError(
            f"{beir.source} judges only relevant documents: there is nothing to rank them below. Give candidates, as "
            f"{beir.source}{WITH_RUN}<run file of any search>, or rows that `modernbert mine` wrote."
        )
    else:
        ranked = {query: list(judged) for query, judged in grades.items()}
    columns: dict[str, list[Any]] = {name: [] for name in ("query_id", "query", "document_id", "document", "label")}
    for query, name in ((query, name) for query, names in ranked.items() for name in names):
        if name not in beir.corpus:
            what = f"document {name} of query {query} is not in the corpus"
            mend = "Search the same corpus again, or take the line out"
            report.add(Problem("warning", "id-unknown", run or beir.qrels_source, None, None, what, mend))
            continue
        cells = (query, beir.queries[query], name, beir.corpus[name].full, grades[query].get(name, 0))
        for column, cell in zip(columns.values(), cells, strict=True):
            column.append(cell)
    return Table(beir.source, columns, list(range(1, len(columns["query"]) + 1)), notes)


def add_positives(ranked: dict[str, list[str]], grades: Mapping[str, Mapping[str, int]]) -> str:
    """Add the relevant documents that are not ranked, in place; returns the sentence that says so."""
    added = 0
    for query, names in ranked.items():
        there = set(names)
        missing = [name for name, grade in grades[query].items() if grade > 0 and name not in there]
        names += missing
        added += len(missing)
    return f"{added:,} relevant documents that it has not found are added, as this is the split train"


def stream_pairs(source: str, given: Mapping[str, Any], chunk: int) -> Iterator[Table]:
    """Pairs to predict, in tables of about `chunk` rows that have all rows of their queries.

    A file whose queries come back after others is one table. Raises DataError for a row that cannot be read.
    """
    report = Report()
    if is_split(source):
        yield from whole_queries([read_pairs(source, given, report)], chunk)
        return
    if scattered(as_pairs(table, given, report) for table in readers.stream(source, chunk)):
        yield read_pairs(source, given, report)
        return
    report.raise_if_errors()
    yield from whole_queries((as_pairs(table, given, Report()) for table in readers.stream(source, chunk)), chunk)


def to_label(cell: Any) -> float:
    """A label as a number, NaN where it is none; true and yes are 1, false and no 0."""
    word = str(cell).strip().lower()
    return WORDS[word] if word in WORDS else to_number(cell)


def parse_list(cell: Any) -> list[Any] | None:
    """A list, or the list that a cell of a CSV file writes as JSON; None for anything else."""
    if not isinstance(cell, str) or not cell.lstrip().startswith("["):
        return cell if isinstance(cell, list) else None
    try:
        found = json.loads(cell)
    except ValueError:
        return None  # "[1] Smith et al." is a text
    return found if isinstance(found, list) else None
