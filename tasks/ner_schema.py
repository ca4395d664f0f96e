"""What the rows of a file with named entities mean, and the doctor's visit to them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from modernbert.errors import ConfigError
from tasks.data import doctor, split
from tasks.data.entities import Span as Word
from tasks.data.entities import (
    TagSet,
    TokenExamples,
    encode_tags,
    encode_words,
    read_entities,
    special_tokens,
    token_targets,
    word_spans,
)
from tasks.data.examples import Use
from tasks.data.readers import Table
from tasks.data.schema import Problem, Report, Role
from tasks.data.tokenise import Progress, window_overlap
from tasks.tagged import TaggedTexts

TEXT = ("text", "sentence", "data", "content", "body", "message", "document")


@dataclasses.dataclass(frozen=True)
class NerSchema:
    """What the rows mean: the tags, and how texts become units (see `tasks.tagged`).

    Args:
        columns: always `text`; `read` gives every format the same columns.
        counts: words of each label in the training rows, those of none under "O".
        overlap: least sub-words that neighbouring windows of a long text share.
    """

    columns: Mapping[str, Any]
    tags: TagSet
    max_length: int
    overlap: int
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    subwords: Literal["first", "all"] = "first"

    roles = (
        Role("text", TEXT, required=True, for_prediction=True, help="what to read"),
        Role("entities", (), required=False, for_prediction=False, help="spans as [[start, end, label], …]"),
        Role("tokens", (), required=False, for_prediction=False, help="the words of each text"),
        Role("tags", (), required=False, for_prediction=False, help="a tag a word"),
    )

    @classmethod
    def read(cls, source: str, given: Mapping[str, Any], report: Report, reading: Mapping[str, Any]) -> Table:
        """A file of any format for entities, with the columns text, entities and, where words are given, words."""
        how = {key: reading[key] for key in ("format", "repair") if key in reading}
        return read_entities(source, present(given), report=report, **how)

    @classmethod
    def stream(cls, source: str, given: Mapping[str, Any], chunk: int) -> tuple[int | None, Iterator[Table]]:
        """The number of texts to predict, and tables of at most `chunk` of them.

        The file is read at once: sentences of CoNLL and of JSON arrays have no fixed size.

        Raises:
            DataError: a row that cannot be read.
        """
        report = Report()
        table = read_entities(source, present(given), report=report, predict=True)
        report.raise_if_errors()
        starts = range(0, len(table), chunk)
        return len(table), (table.select(range(i, min(i + chunk, len(table)))) for i in starts)

    @classmethod
    def match(cls, train: Table, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """`read` has found the columns already."""
        return {"text": "text"}, []

    @classmethod
    def fit(cls, train: Table, columns: Mapping[str, Any], settings: Mapping[str, Any], max_length: int) -> NerSchema:
        """Read the labels off the training rows.

        Raises:
            ConfigError: sub-words that the scheme has no tags for, an unknown setting.
        """
        scheme, subwords = settings.get("scheme", "BIO"), settings.get("subwords", "first")
        if subwords not in ("first", "all"):
            raise ConfigError(f"task.subwords={subwords}: allowed is first or all.")
        if subwords == "all" and scheme != "BIO":
            raise ConfigError(
                f"task.subwords=all with task.scheme={scheme}: allowed is BIO, whose I- goes on inside words."
            )
        labels = sorted({label for found in train.columns["entities"] for _, _, label in found})
        overlap = window_overlap(settings.get("overlap", "auto"), max_length)
        counts: Counter[str] = Counter()
        for spans, found in zip(words_of(train), train.columns["entities"], strict=True):
            inside = Counter(label for a, b, label in found for word in spans if a <= word[0] < b)
            counts.update(inside)
            counts["O"] += len(spans) - inside.total()
        named = {name: counts[name] for name in ("O", *labels)}
        return cls(dict(columns), TagSet(tuple(labels), scheme), max_length, overlap, named, subwords)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> NerSchema:
        tags = TagSet(tuple(plain["tags"]["labels"]), plain["tags"]["scheme"])
        return cls(**{**plain, "tags": tags})

    def text_columns(self) -> list[str]:
        return [self.columns["text"]]

    def check(self, report: Report, tables: Mapping[str, Table]) -> None:
        """The doctor's visit to what `read` made of the files (it has told what it mended)."""
        names = list(tables)
        if not self.tags.labels:
            what, mend = "no text has an entity: there is nothing to learn", "Mark entities, or name their column"
            report.add(Problem("error", "no-entity", tables[names[0]].source, None, "entities", what, mend))
        for i, (name, table) in enumerate(tables.items()):
            doctor.check_header(report, table)
            doctor.check_text(report, table, "text")
            doctor.check_duplicates(report, table, ["text"])
            labels = [sorted({label for _, _, label in found}) for found in table.columns["entities"]]
            doctor.check_label_spelling(report, table, "entities", labels)
            if name != "train":
                doctor.check_unseen(report, table, "entities", labels, self.tags.labels)
            for other in names[i + 1 :]:
                doctor.check_leakage(report, table, tables[other], ["text"])

    def check_lengths(self, report: Report, table: Table, examples: TaggedTexts) -> None:
        """Long texts are read in windows and lose nothing; words that the tokenizer drops cannot be found."""
        doctor.check_windows(report, table, examples.in_windows, self.max_length)
        for text, (start, end, label) in examples.lost:
            what = f"{label} ({start}, {end}) begins or ends with a character that the tokenizer drops"
            mend = "Leave that character out of the span"
            report.add(Problem("warning", "span-not-readable", table.source, table.rows[text], "entities", what, mend))

    def describe_lengths(self) -> str:
        """What happens to a long text, in a sentence."""
        return f"Texts longer than {self.max_length} tokens are read in overlapping windows."

    def describe(self) -> str:
        """One phrase of what is learned."""
        count = len(self.tags.labels)
        return f"named entities of {count} types" if count > 1 else f"named entities of the type {self.tags.labels[0]}"

    def strata(self, table: Table) -> list[Any]:
        """What a validation split keeps in proportion: which labels a text has."""
        return split.by_labels([tuple(sorted({label for _, _, label in f})) for f in table.columns["entities"]])

    def group_column(self, table: Table) -> str | None:
        """The column whose rows belong on one side of a split, where a person names none: each row stands alone."""
        return None

    def examples(
        self,
        table: Table,
        tokenizer: Any,
        use: Use = "train",
        cache_dir: Path | None = None,
        progress: Progress | None = None,
    ) -> TaggedTexts:
        """Tokenise the texts; unless for prediction, tag their words too. (Offsets are not cached: reading is fast.)"""
        texts, words = table.columns["text"], words_of(table)
        tokens = encode_words(tokenizer, texts, words, progress)
        windows = TokenExamples(tokens, special_tokens(tokenizer), self.max_length, self.overlap)
        if use == "predict":
            return TaggedTexts(texts, words, windows, self.subwords == "all")
        entities = table.columns["entities"]
        tags, lost = encode_tags(self.tags, tokens, words, entities)
        inside = self.tags.inside if self.subwords == "all" else None
        goals = token_targets(tokens, tags, inside)
        return TaggedTexts(texts, words, windows, self.subwords == "all", goals, entities, self.tags.labels, lost)


def words_of(table: Table) -> Sequence[Sequence[Word]]:
    """The given words of each text, else those that `word_spans` finds."""
    given = table.columns.get("words", ())
    # A file of plain texts may have a column of this name: words that `read` found are tuples of places.
    if given and all(isinstance(spans, list) and all(isinstance(word, tuple) for word in spans) for spans in given):
        return given
    return [word_spans(text) if isinstance(text, str) else [] for text in table.columns["text"]]


def present(given: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that a person named."""
    return {role: column for role, column in given.items() if column is not None}
