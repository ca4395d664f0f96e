"""What the rows of a text-classification file mean, and the doctor's visit to them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from modernbert.errors import ConfigError, DataError
from tasks.data import doctor, readers, split
from tasks.data.examples import TextExamples, Use
from tasks.data.readers import Table
from tasks.data.schema import Report, Role, map_columns
from tasks.data.tokenise import Keep, Progress, tokenise, tokenise_windows, window_overlap
from tasks.data.windows import Merging, WindowExamples
from tasks.labels import Labels, fit_labels, is_switch, merge_columns
from tasks.optim import require

TEXT = ("text", "sentence", "review", "body", "content", "message", "comment", "question", "utterance", "query",
        "tweet", "post", "document", "description", "title", "sentence1", "premise")  # fmt: skip
PAIR = ("text_pair", "sentence2", "hypothesis", "text2", "second")
LABEL = ("label", "labels", "class", "category", "intent", "target", "sentiment", "stars", "rating", "topic",
         "score", "y", "coarse", "tag", "team")  # fmt: skip


#: What of a text that is too long is read, or that none may be.
Long = Literal["head", "tail", "head+tail", "window", "error"]


@dataclasses.dataclass(frozen=True)
class ClassificationSchema:
    """What the rows mean: columns by role, the labels with their training counts, the length limit in tokens.

    `long` says what of a longer text is read: a part, all of it in windows that share `overlap` tokens, or an error.
    Training reads `windows` of them an epoch, None for all.
    """

    columns: Mapping[str, Any]
    labels: Labels
    max_length: int
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    long: Long = "head"
    overlap: int = 0
    merging: Merging = "mean"
    windows: int | None = None

    roles = (
        Role("text", TEXT, required=True, for_prediction=True, help="what to classify"),
        Role("text_pair", PAIR, required=False, for_prediction=True, help="a second text, read with the first"),
        Role("label", LABEL, required=True, for_prediction=False, help="the right answer"),
    )

    @classmethod
    def read(cls, source: str, given: Mapping[str, Any], report: Report, reading: Mapping[str, Any]) -> Table:
        """A file of labelled rows. (Tasks that read other formats need the columns and the report for it.)"""
        return readers.read(source)

    @classmethod
    def stream(cls, source: str, given: Mapping[str, Any], chunk: int) -> tuple[int | None, Iterator[Table]]:
        """The number of rows to predict, where that is cheap to know, and tables of at most `chunk` of them."""
        return readers.count(source), readers.stream(source, chunk)

    @classmethod
    def match(cls, train: Table, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """The column of each role, and a sentence for each that was guessed."""
        return map_columns(train, cls.roles, given)

    @classmethod
    def fit(
        cls, train: Table, columns: Mapping[str, Any], settings: Mapping[str, Any], max_length: int
    ) -> ClassificationSchema:
        """Read kind and label names off the training rows."""
        several = columns["label"] if isinstance(columns["label"], (list, tuple)) else ()
        cells = label_cells(train, columns["label"])
        labels = fit_labels(cells, settings.get("kind", "auto"), settings.get("separator", ";"), several)
        counts: Counter[str] = Counter()
        for cell in cells if labels.names else ():
            if cell is not None:
                parsed = labels.parse(cell)
                counts.update(parsed if isinstance(parsed, tuple) else (parsed,))
        long, merging = settings.get("long", "head"), settings.get("merging", "mean")
        require("task.long", long, long in get_args(Long), ", ".join(get_args(Long)))
        require("task.merging", merging, merging in get_args(Merging), ", ".join(get_args(Merging)))
        if columns.get("text_pair") and long in ("window", "head+tail"):
            raise ConfigError(f"task.long={long} is for single texts: allowed with pairs is head, tail or error.")
        overlap = window_overlap(settings.get("overlap", "auto"), max_length) if long == "window" else 0
        named = {name: counts[name] for name in labels.names}
        windows = settings.get("windows")
        require("task.windows", windows, windows is None or _is_count(windows), "null, or a whole number from 1")
        if windows is not None and long != "window":
            raise ConfigError(f"task.windows={windows} is for texts in windows: set task.long=window, or leave it out.")
        if windows == 1 and merging == "attention":
            raise ConfigError("task.windows=1 leaves task.merging=attention nothing to weigh: give 2 or more, or null.")
        return cls(dict(columns), labels, max_length, named, long, overlap, merging, windows)

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> ClassificationSchema:
        labels = dict(plain["labels"])
        labels |= {key: tuple(labels[key]) for key in ("names", "columns")}
        return cls(**{**plain, "labels": Labels(**labels)})

    def text_columns(self) -> list[str]:
        return [self.columns[role] for role in ("text", "text_pair") if self.columns.get(role)]

    def check(self, report: Report, tables: Mapping[str, Table]) -> None:
        """The doctor's visit: every problem of the rows, before anything is trained."""
        parsed = {}
        for name, table in tables.items():
            doctor.check_header(report, table)
            for column in self.text_columns():
                doctor.check_text(report, table, column)
            parsed[name] = self.check_labels(report, table, name)
            doctor.check_duplicates(report, table, self.text_columns())
            if self.labels.kind != "regression":
                doctor.check_conflicts(report, table, self.text_columns(), parsed[name])
        names = list(tables)
        for i, first in enumerate(names):
            for second in names[i + 1 :]:
                doctor.check_leakage(report, tables[first], tables[second], self.text_columns())

    def check_labels(self, report: Report, table: Table, name: str) -> list[Any]:
        """Checks of the label column; returns the parsed labels."""
        cells, column = label_cells(table, self.columns["label"]), self.label_column()
        parsed = [None if cell is None else self.labels.parse(cell) for cell in cells]
        if self.labels.kind == "regression":
            doctor.check_numbers(report, table, column, cells, parsed)
            return parsed
        if self.labels.kind != "multilabel":
            doctor.check_missing_labels(report, table, column, cells)
        for switch in self.labels.columns:
            doctor.check_switches(report, table, switch, is_switch)
        doctor.check_label_spelling(report, table, column, parsed if self.labels.kind == "multilabel" else cells)
        if name == "train":
            doctor.check_class_counts(report, table, column, parsed)
        else:
            doctor.check_unseen(report, table, column, parsed, self.labels.names)
        return parsed

    def check_lengths(self, report: Report, table: Table, examples: TextExamples | WindowExamples) -> None:
        """What truncation leaves out."""
        if isinstance(examples, WindowExamples):
            doctor.check_windows(report, table, examples.in_windows, self.max_length)
        else:
            refused = self.long == "error"
            doctor.check_lengths(report, table, examples.tokens.full_lengths, self.max_length, refused)

    def label_column(self) -> str:
        label = self.columns["label"]
        return ", ".join(label) if isinstance(label, (list, tuple)) else label

    def describe_lengths(self) -> str:
        """What happens to a long text, in a sentence."""
        return {
            "head": f"Texts are cut at {self.max_length} tokens.",
            "tail": f"Of texts longer than {self.max_length} tokens the end is read.",
            "head+tail": f"Of texts longer than {self.max_length} tokens beginning and end are read.",
            "window": f"Texts longer than {self.max_length} tokens are read in overlapping windows.",
            "error": f"Texts longer than {self.max_length} tokens are refused.",
        }[self.long]

    def describe(self) -> str:
        """One phrase of what is learned."""
        if self.labels.kind == "regression":
            return f"regression of {self.label_column()!r} on {' and '.join(map(repr, self.text_columns()))}"
        kind = {"multiclass": "multi-class", "multilabel": "multi-label"}.get(self.labels.kind, self.labels.kind)
        return f"{kind} classification into {len(self.labels.names)} labels"

    def strata(self, table: Table) -> list[Any]:
        """What a validation split keeps in proportion: labels, or tenths of the scores."""
        parsed = [self.labels.parse(cell) for cell in label_cells(table, self.columns["label"])]
        if self.labels.kind == "regression":
            return split.by_quantile(parsed)
        return split.by_labels(parsed) if self.labels.kind == "multilabel" else split.by_class(parsed)

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
    ) -> TextExamples | WindowExamples:
        """Tokenise the rows; unless for prediction, their labels too.

        Raises:
            DataError: a row to predict is longer than is allowed.
        """
        first, *pair = [table.columns[column] for column in self.text_columns()]
        targets = None
        if use != "predict":
            targets = torch.from_numpy(self.labels.targets(label_cells(table, self.columns["label"])))
        if self.long == "window":
            windows = tokenise_windows(tokenizer, first, self.max_length, self.overlap, cache_dir, progress)
            return WindowExamples(*windows, self.merging, targets, self.windows if use == "train" else None)
        keep: Keep = "head" if self.long == "error" else self.long
        tokens = tokenise(tokenizer, first, pair[0] if pair else None, self.max_length, cache_dir, progress, keep)
        if self.long == "error" and use == "predict" and tokens.cut:
            row = int((tokens.full_lengths > self.max_length).argmax())
            raise DataError(
                f"{table.source} row {table.rows[row]} has {tokens.full_lengths[row]:,} tokens, and this run refuses "
                f"texts of more than {self.max_length:,} (task.long=error): shorten it, or leave it out."
            )
        return TextExamples(tokens, targets)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def label_cells(table: Table, column: str | Sequence[str]) -> list[Any]:
    """The label column's cells; one 0/1 column a label becomes a list of names a row."""
    if isinstance(column, str):
        return table.columns[column]
    return merge_columns([table.columns[name] for name in column], column)
