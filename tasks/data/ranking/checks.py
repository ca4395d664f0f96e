"""The doctor's checks of retrieval rows and of qrels; docs/retrieval-formats.md lists every code."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tasks.data import doctor
from tasks.data.doctor import normalise
from tasks.data.ranking.beir import Beir
from tasks.data.readers.table import Table
from tasks.data.schema import Problem, Report

if TYPE_CHECKING:
    from tasks.data.ranking.rows import RankingTable


def check_beir(report: Report, beir: Beir) -> None:
    """Qrels that name nothing, name a pair twice or find nothing relevant; documents without a text."""
    source = beir.qrels_source
    grades: dict[tuple[str, str], tuple[int, int]] = {}
    for row, (query, document, grade) in zip(beir.rows, beir.qrels, strict=True):
        if query not in beir.queries:
            what, mend = f"there is no query {query!r} in the queries", "Add the query, or delete the line"
            report.add(Problem("error", "qrels-unknown-query", source, row, "query-id", what, mend))
        if document not in beir.corpus:
            what, mend = f"there is no document {document!r} in the corpus", "Add the document, or delete the line"
            report.add(Problem("error", "qrels-unknown-document", source, row, "corpus-id", what, mend))
        first, earlier = grades.setdefault((query, document), (row, grade))
        if first != row:
            what = f"query {query!r} and document {document!r} are judged in row {first} too"
            if earlier != grade:
                what += f", as {earlier}, not {grade}; the higher counts"
            mend = "Keep one of the lines"
            report.add(Problem("warning", "qrels-twice", source, row, "score", what, mend))
    if not any(grade > 0 for _, _, grade in beir.qrels):
        what = f"each of the {len(beir.qrels):,} grades is 0: there is nothing to find"
        report.add(Problem("error", "qrels-none-relevant", source, None, "score", what, "Write 1 for what is relevant"))
    empty = [key for key, document in beir.corpus.items() if not document.full.strip()]
    if empty:
        what = f"{len(empty):,} documents have neither title nor text, such as {', '.join(map(repr, empty[:3]))}"
        mend = "Write their texts, or delete them"
        report.add(Problem("warning", "document-empty", beir.source, None, "text", what, mend))


def check_kind(report: Report, table: RankingTable, learned: str) -> None:
    """Graded pairs where queries with documents are learned, or the other way round: no measure fits both."""
    if table.kind != learned:
        kinds = {"scored": "pairs with a score", "tuples": "queries with the documents that answer them"}
        what = f"the rows are {kinds[table.kind]}, but {kinds[learned]} were learned from"
        mend = f"Give {kinds[learned]} here too, or train on the other kind"
        report.add(Problem("error", "kind-other", table.source, None, table.names.get("score"), what, mend))


def check_rows(report: Report, table: RankingTable) -> None:
    """Texts, ids, negatives and scores of one table."""
    doctor.check_header(report, table)
    query, positive = (table.names.get(role, role) for role in ("query", "positive"))
    texts = {query: table.columns["query"], positive: table.columns["positive"]}
    shown = Table(table.source, texts, table.rows)
    doctor.check_text(report, shown, query)
    # An empty document of a BEIR corpus is a finding of the corpus, not of each row.
    there = [i for i, text in enumerate(table.columns["positive"]) if text != ""]
    doctor.check_text(report, shown.select(there), positive)
    doctor.check_duplicates(report, shown, [query, positive])
    check_ids(report, table)
    if table.kind == "scored":
        check_scores(report, table)
    else:
        check_tuples(report, table)


def check_ids(report: Report, table: RankingTable) -> None:
    """A query id with two texts: they would be measured as one query."""
    texts: dict[str, tuple[int, str]] = {}
    for row, key, text in zip(table.rows, table.columns["query_id"], table.columns["query"], strict=True):
        if not isinstance(text, str):
            continue
        first, known = texts.setdefault(key, (row, text))
        if known != text:
            what = f"the query id {key!r} has another text in row {first}"
            mend = "Give each text an id of its own, or set data.columns.query_id=false"
            report.add(Problem("error", "query-id-twice", table.source, row, "query_id", what, mend))


def check_scores(report: Report, table: RankingTable) -> None:
    """Scores of graded pairs that are all the same."""
    scores = {score for score in table.columns["score"] if score is not None}
    if len(scores) == 1 and len(table) > 1:
        what = f"every pair has the score {scores.pop():g}: there is nothing to learn"
        mend = "Add pairs of other scores, or set data.columns.score=false to learn from the pairs as they are"
        report.add(Problem("error", "score-one-value", table.source, None, table.names.get("score"), what, mend))


def check_tuples(report: Report, table: RankingTable) -> None:
    """A positive that is its own query, or one of its negatives; rows with and without negatives."""
    cells = (table.columns[name] for name in ("query", "positive", "negatives"))
    wanted: dict[str, set[str]] = {}
    known: dict[str, str] = {}  # each text is normalised once: a corpus repeats them

    def plain(text: str) -> str:
        return known.setdefault(text, normalise(text))

    rows = [
        (row, query, positive, negatives)
        for row, query, positive, negatives in zip(table.rows, *cells, strict=True)
        if isinstance(query, str) and isinstance(positive, str)
    ]
    for _, query, positive, _ in rows:
        wanted.setdefault(plain(query), set()).add(plain(positive))

    def found(level: str, code: str, row: int, role: str, what: str, mend: str) -> None:
        column = table.names.get(role, role)
        report.add(Problem(level, code, table.source, row, column, what, mend))  # type: ignore[arg-type]

    all_alike = len(rows) > 1 and all(plain(query) == plain(positive) for _, query, positive, _ in rows)
    if all_alike:
        what = "every positive is its query: what is learned is that two dropouts of a text are alike (SimCSE)"
        mend = "Leave it so where that is meant; else name the other column: data.columns.positive=…"
        report.add(Problem("warning", "positive-is-query", table.source, None, table.names.get("positive"), what, mend))
    for row, query, positive, negatives in rows:
        if not all_alike and plain(query) == plain(positive):
            what, mend = "the positive is the query itself", "Delete the row: it teaches nothing"
            found("warning", "positive-is-query", row, "positive", what, mend)
        for negative in negatives:
            if plain(negative) == plain(positive):
                what, mend = f"a negative is the positive itself: {_cut(negative)!r}", "Delete the negative"
                found("error", "negative-is-positive", row, "negative", what, mend)
            elif plain(negative) in wanted[plain(query)]:
                what = f"a negative is a positive of the same query in another row: {_cut(negative)!r}"
                found("warning", "negative-is-relevant", row, "negative", what, "Delete the negative")
    check_negatives(report, table)


def check_negatives(report: Report, table: RankingTable) -> None:
    """Some rows of a file with negatives and some without (qrels have them where someone judged so)."""
    counts = Counter(bool(negatives) for negatives in table.columns["negatives"])
    if table.names and counts[True] and counts[False]:
        what = f"{counts[False]:,} of {len(table):,} rows have no negative: they learn from the rest of a batch alone"
        mend = "Add negatives, as `modernbert mine` does, or leave it so"
        report.add(Problem("warning", "negative-none", table.source, None, "negative", what, mend))


def check_leaks(report: Report, first: RankingTable, second: RankingTable) -> None:
    """Queries (of graded pairs: pairs) of the second table that are in the first."""
    columns = ["query", "positive"] if second.kind == "scored" else ["query"]
    doctor.check_leakage(report, first, second, columns)


def _cut(text: str, length: int = 60) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
