"""What the rows of retrieval data mean, and the doctor's visit to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from modernbert.errors import ConfigError
from tasks.data import doctor, readers, split
from tasks.data.borders import SPLITS, Split
from tasks.data.examples import Use
from tasks.data.expansion import filled_up, mask_id
from tasks.data.passages import split_texts, whole_texts
from tasks.data.ranking import checks
from tasks.data.ranking.batches import TextRole
from tasks.data.ranking.building import build_collection, build_examples
from tasks.data.ranking.collection import OTHERS, Collection, Judged, Texts
from tasks.data.ranking.columns import POSITIVE, QUERY, ROLES
from tasks.data.ranking.examples import TupleExamples
from tasks.data.ranking.pairs import PairExamples
from tasks.data.ranking.rows import RankingTable, read_tuples
from tasks.data.readers import Table
from tasks.data.schema import Report, map_columns
from tasks.data.tokenise import Progress, Tokens, tokenise, window_overlap
from tasks.optim import require

#: Texts of a collection that are tokenised at once and kept (about 60 MB of ids at 250 tokens each); a larger one is
#: tokenised chunk by chunk while it is encoded.
EAGER = 1 << 16
#: Documents of such a collection that are looked at to say how many are cut.
LOOKED_AT = 4096


@dataclasses.dataclass(frozen=True)
class RetrievalSchema:
    """What the rows mean, and how texts become sequences.

    Args:
        columns: always `query`; `read` gives every format the same columns.
        kind: tuples (a query, its positive, negatives), or scored (graded pairs).
        max_length: most tokens of a document, special tokens and prefix included.
        query_prefix, document_prefix: put before every text of that role, in training as in search.
        query_max_length: most tokens of a query; None is `max_length`.
        negatives: most of a row in a batch; a row with more shows them in turn, epoch by epoch.
        score_range: lowest and highest score of the training rows, where these are graded pairs.
        split: where documents are split into passages of at most `max_length` tokens; see `tasks.data.borders`.
        query_expansion: tokens that every query is filled up to with the mask, and cut at; 0 for none.
    """

    columns: Mapping[str, Any]
    kind: Literal["tuples", "scored"]
    max_length: int
    query_prefix: str = ""
    document_prefix: str = ""
    query_max_length: int | None = None
    negatives: int = 1
    score_range: tuple[float, float] | None = None
    split: Split = "none"
    query_expansion: int = 0

    roles = ROLES

    @classmethod
    def read(cls, source: str, given: Mapping[str, Any], report: Report, reading: Mapping[str, Any]) -> RankingTable:
        """Rows of any format for retrieval; `reading` has the split that they are for and data.corpus."""
        return read_tuples(source, given, report, reading.get("split", "test"), reading.get("corpus"))

    @classmethod
    def stream(cls, source: str, given: Mapping[str, Any], chunk: int) -> tuple[int | None, Iterator[Table]]:
        """The number of queries, or pairs, to answer, where that is cheap to know, and tables of at most `chunk`."""
        return readers.count(source), _with_query(readers.stream(source, chunk), given)

    @classmethod
    def match(cls, train: Table, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """`read` has found the columns already."""
        return {"query": "query"}, []

    @classmethod
    def fit(
        cls, train: RankingTable, columns: Mapping[str, Any], settings: Mapping[str, Any], max_length: int
    ) -> RetrievalSchema:
        """The kind of the rows, and the settings of the task that concern texts.

        Raises:
            ConfigError: a query length that leaves no room, a number of negatives below 0, an unknown split.
        """
        limit = settings.get("query_max_length")
        if limit is not None and not 8 <= limit <= max_length:
            raise ConfigError(f"task.query_max_length={limit}: allowed is null, or 8 to {max_length} tokens.")
        negatives = settings.get("negatives", 1)
        if isinstance(negatives, bool) or not isinstance(negatives, int) or negatives < 0:
            raise ConfigError(f"task.negatives={negatives}: allowed is 0 (in-batch negatives alone) or more.")
        how: Split = settings.get("split") or "none"
        filled = settings.get("query_expansion") or 0
        require("task.split", how, how in SPLITS, ", ".join(SPLITS))
        fits = filled == 0 or 8 <= filled <= (limit or max_length)
        require("task.query_expansion", filled, fits, f"0 (off), or 8 to {limit or max_length} tokens (ColBERT: 32)")
        scores = [score for score in train.columns["score"] if score is not None]
        return cls(
            dict(columns),
            train.kind,
            max_length,
            settings.get("query_prefix") or "",
            settings.get("document_prefix") or "",
            limit,
            negatives,
            (min(scores), max(scores)) if scores else None,
            how,
            filled,
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> RetrievalSchema:
        scores = plain["score_range"]
        return cls(**{**plain, "score_range": None if scores is None else tuple(scores)})

    def text_columns(self) -> list[str]:
        return ["query"]

    def check(self, report: Report, tables: Mapping[str, RankingTable]) -> None:
        """The doctor's visit to what `read` made of the files (it has told what it could not read)."""
        names = list(tables)
        for i, (name, table) in enumerate(tables.items()):
            checks.check_kind(report, table, self.kind)
            checks.check_rows(report, table)
            for other in names[i + 1 :]:
                checks.check_leaks(report, tables[name], tables[other])

    def check_lengths(self, report: Report, table: RankingTable, examples: TupleExamples | Collection) -> None:
        """Queries and documents that are cut; of a large corpus by the first documents."""
        if isinstance(examples, TupleExamples):
            full, queries = examples.texts.tokens.full_lengths, examples.queries
        elif examples.is_tokenised or len(examples) <= EAGER:
            full, queries = examples.tokenised().tokens.full_lengths, len(examples.queries)
        else:
            first = [next(examples.chunks(role, LOOKED_AT)) for role in ("query", "document")]
            full = np.concatenate([chunk.examples.tokens.full_lengths for chunk in first])
            queries = len(first[0])
        doctor.check_lengths(report, table, full[:queries], self.limit("query"), what="queries")
        if self.split == "none":  # else their tokens are those of all passages, and nothing is cut
            doctor.check_lengths(report, table, full[queries:], self.limit("document"), what="documents")

    def describe_lengths(self) -> str:
        """What happens to a long text, in a sentence."""
        if self.split != "none":
            where = {"paragraph": "at blank lines", "python": "around functions and classes", "window": "in windows"}
            return (
                f"Documents are split {where[self.split]}, into passages of at most {self.max_length} tokens; queries "
                f"are cut at {self.limit('query')}."
            )
        if self.limit("query") == self.max_length:
            return f"Queries and documents are cut at {self.max_length} tokens."
        return f"Queries are cut at {self.limit('query')} tokens, documents at {self.max_length}."

    def describe(self) -> str:
        """One phrase of what is learned."""
        return "similarity of texts from graded pairs" if self.kind == "scored" else "retrieval of documents by queries"

    def strata(self, table: RankingTable) -> list[Any]:
        """What a validation split keeps in proportion: tenths of the scores; of tuples nothing."""
        if table.kind == "scored":
            return split.by_quantile(table.columns["score"])
        return split.by_class(["row"] * len(table))

    def group_column(self, table: Table) -> str | None:
        """All rows of a query belong on one side of a split."""
        return "query"

    def limit(self, role: TextRole) -> int:
        """Most tokens of a query or of a document."""
        if role == "query":
            return self.query_expansion or self.query_max_length or self.max_length
        return self.max_length

    def with_prefix(self, texts: Sequence[str], role: TextRole) -> Sequence[str]:
        """The texts as the encoder reads them."""
        prefix = self.query_prefix if role == "query" else self.document_prefix
        return [prefix + text for text in texts] if prefix else texts

    def tokens(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        role: TextRole,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> Tokens:
        """Whole texts as token ids, prefix added, cut at the limit of their role; queries filled up where asked."""
        found = tokenise(tokenizer, self.with_prefix(texts, role), None, self.limit(role), cache_dir, progress)
        if role == "query" and self.query_expansion:
            return filled_up(found, self.query_expansion, mask_id(tokenizer))
        return found

    def texts(
        self,
        tokenizer: Any,
        texts: Sequence[str],
        role: TextRole,
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> Texts:
        """As `tokens`; where documents are split, these and queries as passages."""
        if self.split == "none":
            return self.tokens(tokenizer, texts, role, cache_dir, progress)
        if role == "query":
            return whole_texts(self.tokens(tokenizer, texts, role, cache_dir, progress), texts)
        bars = iter([progress])  # of the first look; a second one is at long passages alone

        def encode(parts: Sequence[str]) -> Tokens:
            return self.tokens(tokenizer, parts, role, cache_dir, next(bars, None))

        limit = self.limit(role)
        return split_texts(tokenizer, texts, self.split, limit, window_overlap("auto", limit), encode)

    def examples(
        self,
        table: RankingTable,
        tokenizer: Any,
        use: Use = "train",
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> TupleExamples | Collection | PairExamples:
        """Rows to learn from, or the collection that a split searches: a test all documents, a validation some.

        For prediction pairs to be scored, where the rows have documents, else a collection of queries alone.
        """
        bars = _Bars(progress)

        def encode(texts: Sequence[str], role: TextRole) -> Texts:
            return self.texts(tokenizer, texts, role, cache_dir, bars.next())

        if use == "train":
            bars.expected = 2
            return build_examples(table, encode, self.negatives)
        if use == "predict" and "positive" in table.columns:
            bars.expected = 2
            sides = (("query", "query"), ("positive", "document"))
            return PairExamples(*(encode(table.columns[name], role) for name, role in sides))  # type: ignore[arg-type]
        if use == "predict":
            nothing = Judged(*(np.zeros(0, np.int64) for _ in range(3)))
            queries = list(table.columns["query"])
            return Collection(queries, [f"q{i + 1}" for i in range(len(queries))], [], [], nothing, encode)
        whole = table.split == "test" and table.kind == "tuples"
        collection = build_collection(table, encode, None if whole else OTHERS if table.kind == "tuples" else 0)
        if len(collection) <= EAGER:
            bars.expected = 2
            collection.tokenised()
        else:
            cache_dir = None  # chunks are many and read once
        bars.progress = None
        return collection


class _Bars:
    """One progress of several calls of the tokeniser in turn, each an equal part."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress, self.expected, self.started = progress, 1, 0

    def next(self) -> Progress | None:
        progress, part = self.progress, self.started
        self.started += 1
        if progress is None:
            return None
        return lambda done, total: progress(part * total + done, self.expected * total)


def _with_query(tables: Iterator[Table], given: Mapping[str, Any]) -> Iterator[Table]:
    """Each table with its column of queries called `query`, and that of documents, where there is one, `positive`."""
    roles = [QUERY, *([] if given.get("positive") is False else [dataclasses.replace(POSITIVE, required=False)])]
    named = {role.name: given[role.name] for role in roles if isinstance(given.get(role.name), str)}
    mapping: Mapping[str, Any] | None = None
    for table in tables:
        if mapping is None:
            mapping, notes = map_columns(table, roles, named)
            table.notes += notes
        for name, column in mapping.items():
            table.columns[name] = table.columns[column]
        yield table
