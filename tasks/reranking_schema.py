"""What the rows of a reranking file mean, and the doctor's visit to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch

from modernbert.errors import ConfigError
from tasks import reranking_checks as checks
from tasks.candidates import ApartTexts, Candidates, PairTexts, Texts, WindowTexts
from tasks.data import doctor, readers, split
from tasks.data.examples import Use
from tasks.data.ranking.groups import number_queries, rows_of_queries
from tasks.data.ranking.lists import ROLES, is_split, read_pairs, stream_pairs, to_label
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.data.tokenise import Progress, tokenise, tokenise_pair_windows, window_overlap
from tasks.optim import require

Kind = Literal["cross", "poly", "uni"]
#: Losses of single pairs; all others look at the candidates of a query together.
POINTWISE = ("bce", "mse")
#: A uni-encoder reads query and document apart, but within one length: of it the query has at most this part.
QUERY_PART = 4
#: Tokens of a query and some of its documents in one pass of a prediction.
PASS = 2048


@dataclasses.dataclass(frozen=True)
class RerankingSchema:
    """What the rows mean. Whatever the format, a row is a pair, in columns of fixed names (`tasks.data.ranking.lists`).

    Args:
        kind: how pairs are read; lists: whether an example of training is a query with its candidates.
        grades: what labels are: 0 and 1; whole numbers; or scores, of which there is no ranking to measure.
        highest: the largest label of the training rows.
        positives, negatives: training rows labelled above 0, and 0 or below.
        teacher: whether pairs are told apart by the scores of a teacher.
        candidates: most candidates of a query in training.
        long: what of a pair that is too long is read: its beginning, or the document in windows that share `overlap`
            tokens.
    """

    max_length: int
    kind: Kind = "cross"
    lists: bool = False
    grades: checks.Grades = "binary"
    highest: float = 1.0
    positives: int = 0
    negatives: int = 0
    teacher: bool = False
    candidates: int | None = None
    long: Literal["head", "window"] = "head"
    overlap: int = 0

    roles = ROLES
    #: Nothing to map: `read` gives every format the same columns.
    columns: ClassVar[Mapping[str, Any]] = {}

    @classmethod
    def read(cls, source: str, given: Mapping[str, Any], report: Report, reading: Mapping[str, str]) -> Table:
        """Candidates of any format as pairs."""
        return read_pairs(source, given, report, reading)

    @classmethod
    def stream(cls, source: str, given: Mapping[str, Any], chunk: int) -> tuple[int | None, Iterator[Table]]:
        """The number of rows to predict, where that is cheap to know, and tables with whole queries."""
        count = None if is_split(source) else readers.count(source)
        return count, stream_pairs(source, given, chunk)

    @classmethod
    def match(cls, train: Table, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """`read` has found the columns already."""
        return {}, []

    @classmethod
    def fit(
        cls, train: Table, columns: Mapping[str, Any], settings: Mapping[str, Any], max_length: int
    ) -> RerankingSchema:
        """Read the kind of label off the training rows.

        Raises:
            ConfigError: a loss that the labels do not fit.
        """
        kind, loss, most = settings.get("kind", "cross"), settings.get("loss", "bce"), settings.get("candidates")
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 2):
            raise ConfigError(f"task.candidates={most}: allowed is null, or a whole number of at least 2.")
        long = settings.get("long", "head")
        require("task.long", long, long in ("head", "window"), "head or window")
        require("task.long", long, long == "head" or kind == "cross", f"head with task.kind={kind}")
        overlap = window_overlap(settings.get("overlap", "auto"), max_length) if long == "window" else 0
        labels = checks.labels_of(train)
        known = labels[np.isfinite(labels)]
        grades = checks.grades_of(known)
        lowest, highest = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
        if loss == "bce" and lowest < 0:
            raise ConfigError(
                f"task.loss=bce with labels from {lowest:g} to {highest:g}: allowed are labels of 0 or more, which are "
                "divided by the largest. Use task.loss=mse for scores of a teacher."
            )
        positives = int((known > 0).sum())
        return cls(
            max_length,
            kind=kind,
            lists=kind != "cross" or loss not in POINTWISE,
            grades=grades,
            highest=highest if highest > 0 else 1.0,
            positives=positives,
            negatives=len(known) - positives,
            teacher=loss in ("mse", "margin_mse") and "teacher" in train.columns,
            candidates=most,
            long=long,
            overlap=overlap,
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RerankingSchema:
        return cls(**plain)

    def text_columns(self) -> list[str]:
        return ["query", "document"]

    # -- the doctor ----------------------------------------------------------------------------------------

    def check(self, report: Report, tables: Mapping[str, Table]) -> None:
        """The doctor's visit: every problem of the rows, before anything is trained."""
        for name, table in tables.items():
            doctor.check_header(report, table)
            for column in self.text_columns():
                doctor.check_text(report, table, column)
            checks.check_labels(report, table, name, self.grades, self.teacher)
        names = list(tables)
        firsts = {}  # a query seen in training is one finding, not one for each of its candidates
        for name, table in tables.items():
            firsts[name] = table.select([int(rows[0]) for rows in checks.queries_of(table)])
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                doctor.check_leakage(report, firsts[first], firsts[second], ["query"])

    def check_lengths(self, report: Report, table: Table, examples: Candidates) -> None:
        """What truncation leaves out."""
        if isinstance(examples.texts, WindowTexts):
            doctor.check_windows(report, table, examples.texts.in_windows, self.max_length)
            return
        doctor.check_lengths(report, table, examples.texts.full_lengths, examples.texts.limit)

    def describe_lengths(self) -> str:
        """What happens to long texts, in a sentence."""
        if self.long == "window":
            return f"Documents that do not fit into {self.max_length} tokens with their query are read in windows."
        if self.kind == "cross":
            return f"A query and its document are cut at {self.max_length} tokens together, the longer one first."
        return f"Queries are cut at {self.query_limit} tokens, documents at {self.document_limit}."

    @property
    def query_limit(self) -> int:
        """Most tokens of a query that is read apart from its documents."""
        return self.max_length // QUERY_PART if self.kind == "uni" else self.max_length

    @property
    def document_limit(self) -> int:
        return self.max_length - self.query_limit if self.kind == "uni" else self.max_length

    def describe(self) -> str:
        """One phrase of what is learned."""
        how = {"cross": "a cross-encoder", "poly": "a poly-encoder", "uni": "a uni-encoder"}[self.kind]
        what = {"binary": "relevant or not", "graded": "grades of relevance", "scored": "scores"}[self.grades]
        return f"reranking by {how} ({what})"

    # -- splitting and tokenising --------------------------------------------------------------------------

    def strata(self, table: Table) -> list[Any]:
        """What a validation split keeps in proportion: labels, or tenths of the scores."""
        labels = checks.labels_of(table)
        return split.by_quantile(labels) if self.grades == "scored" else split.by_class(labels.tolist())

    def group_column(self, table: Table) -> str | None:
        """The candidates of a query stay together."""
        return "query_id" if "query_id" in table.columns else "query"

    def examples(
        self,
        table: Table,
        tokenizer: Any,
        use: Use = "train",
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> Candidates:
        """Tokenise the pairs. An example is a pair, or a query with its candidates: always so for measuring."""
        texts, query = self.texts(table, tokenizer, cache_dir, progress), number_queries(table)
        singles = list(np.arange(len(query))[:, None])
        if use == "predict":
            if self.kind == "cross":
                return Candidates(texts, query, singles)
            return Candidates(texts, query, rows_of_queries(query)).parts(PASS)
        labels, teacher = checks.labels_of(table), None
        if self.teacher and "teacher" in table.columns:
            teacher = np.array([to_label(cell) for cell in table.columns["teacher"]], dtype=np.float32)
        given = torch.from_numpy(labels.astype(np.float32)), None if teacher is None else torch.from_numpy(teacher)
        members = rows_of_queries(query)
        if use == "evaluate":
            return Candidates(texts, query, members, *given)
        if not self.lists:
            kept = Candidates(texts, query, members, *given, self.candidates)
            rows = np.sort(np.concatenate([kept.chosen(rows) for rows in members]))
            return Candidates(texts, query, [singles[i] for i in rows], *given)
        by = labels if teacher is None else teacher
        apart = [rows for rows in members if self.grades == "scored" or by[rows].min() < by[rows].max()]
        return Candidates(texts, query, apart, *given, self.candidates)

    def texts(self, table: Table, tokenizer: Any, cache_dir: Path | None, progress: Progress | None) -> Texts:
        """The token ids of the pairs, each distinct text encoded once."""
        queries, documents = table.columns["query"], table.columns["document"]
        if self.long == "window":
            found = tokenise_pair_windows(tokenizer, queries, documents, self.max_length, self.overlap, progress)
            return WindowTexts(*found, self.max_length)
        if self.kind == "cross":
            limit = self.max_length
            return PairTexts(tokenise(tokenizer, queries, documents, limit, cache_dir, progress), limit)
        query, different = numbered(queries)
        document, texts = numbered(documents)
        return ApartTexts(
            tokenise(tokenizer, different, None, self.query_limit, cache_dir),
            tokenise(tokenizer, texts, None, self.document_limit, cache_dir, progress),
            query,
            document,
            self.document_limit,
            segments=self.kind == "uni" and "token_type_ids" in tokenizer.model_input_names,
        )


def numbered(texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], list[str]]:
    """(N,) the number of each text among the distinct ones, and these."""
    number: dict[str, int] = {}
    return np.array([number.setdefault(text, len(number)) for text in texts], dtype=np.int64), list(number)
