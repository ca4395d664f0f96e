"""From files to batches: read, map columns, the doctor, split, tokenise; and the Lightning data module."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from modernbert.config import EncoderConfig
from modernbert.errors import ConfigError, DataError
from tasks.data import split
from tasks.data.cost import costs
from tasks.data.examples import Examples, Use, eval_loader, train_loader
from tasks.data.readers import Table
from tasks.data.sampler import StepSampler
from tasks.data.schema import Report

#: Tokens of one forward pass. On a CPU the caches are full at about 2k tokens, more only costs memory
#: (FIELD measurements); a GPU wants enough rows to fill its matrix units.
AUTO_TOKENS = {"cpu": 2048, "cuda": 32768}
#: Without a file for validation, at least this many rows are worth splitting.
MIN_ROWS = 10


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """The `data` keys of the configuration; see docs/configuration.md.

    `format` and `repair` are for spans alone, `corpus` for retrieval and reranking.

    Raises:
        ConfigError: for a value outside its range.
    """

    train: str
    validation: str | None = None
    test: str | None = None
    validation_share: float = 0.1
    group: str | None = None
    columns: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    max_length: int | Literal["auto"] = "auto"
    tokens_per_batch: int | Literal["auto"] = "auto"
    cache: bool = True
    format: str = "auto"
    repair: str = "repair"
    corpus: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.validation_share < 1:
            raise ConfigError(
                f"data.validation_share={self.validation_share}: allowed is 0 (train on every row, keep the last "
                "epoch) or a share below 1 (usual: 0.1)."
            )
        for key in ("max_length", "tokens_per_batch"):
            value = getattr(self, key)
            if value != "auto" and (isinstance(value, bool) or not isinstance(value, int) or value < 8):
                raise ConfigError(f"data.{key}={value}: allowed is auto, or a whole number of tokens, at least 8.")

    def reading(self, split: str) -> dict[str, Any]:
        """How the file of a split (train, validation, test) is read, for tasks with formats of their own."""
        return {"format": self.format, "repair": self.repair, "corpus": self.corpus, "split": split}

    def token_limit(self, model_limit: int) -> int:
        """Most tokens of one text, special tokens included."""
        if self.max_length == "auto":
            return model_limit
        if self.max_length > model_limit:
            raise ConfigError(
                f"data.max_length={self.max_length}, but this encoder was trained for {model_limit} tokens: "
                f"set data.max_length={model_limit} or less, or choose a long encoder such as encoder=modernbert-base."
            )
        return self.max_length

    def budget(self, device: str) -> int:
        """Most tokens of one forward pass on this kind of device."""
        return AUTO_TOKENS[device] if self.tokens_per_batch == "auto" else self.tokens_per_batch


@dataclasses.dataclass
class Prepared:
    """Rows that passed the doctor, tokenised; `notes` are the sentences a person should read."""

    schema: Any
    tables: dict[str, Table]
    examples: dict[str, Examples]
    report: Report
    notes: list[str]


@dataclasses.dataclass
class Checked:
    """Rows that were read, mapped, split and visited by the doctor, before tokenising."""

    schema: Any
    tables: dict[str, Table]
    report: Report
    notes: list[str]


def check(schema_type: Any, settings: DataSettings, task: Mapping[str, Any], limit: int, seed: int) -> Checked:
    """Read every file, map columns, fit the schema on the training rows, split, and let the doctor look.

    Nothing is raised for bad rows here: they are in `report`, errors and warnings, for the caller to show.
    """
    report, tables = Report(), {}
    for name in ("train", "validation", "test"):
        if source := getattr(settings, name):
            tables[name] = schema_type.read(source, settings.columns, report, settings.reading(name))
    notes = [f"{table.source}: {note}" for table in tables.values() for note in table.notes]
    columns, guessed = schema_type.match(tables["train"], settings.columns)
    notes += guessed
    for table in list(tables.values())[1:]:
        require_columns(table, columns)
    schema = schema_type.fit(tables["train"], columns, task, limit)
    schema.check(report, tables)
    if "validation" not in tables and settings.validation_share and not report.errors:
        notes.append(add_validation(tables, schema, settings, seed))
    return Checked(schema, tables, report, notes)


def prepare(
    checked: Checked, tokenizer: Any, cache_dir: Path | None, advance: Callable[[int], None] | None = None
) -> Prepared:
    """Tokenise each split once; truncation is counted into the report."""
    examples = {}
    for name, table in checked.tables.items():
        progress = in_rows(advance, len(table)) if advance else None
        use: Use = "train" if name == "train" else "evaluate"
        examples[name] = checked.schema.examples(table, tokenizer, use, cache_dir, progress)
        checked.schema.check_lengths(checked.report, table, examples[name])
    return Prepared(checked.schema, checked.tables, examples, checked.report, checked.notes)


def in_rows(advance: Callable[[int], None], rows: int) -> Callable[[int, int], None]:
    """The tokeniser's "distinct texts done, of how many" as steps of rows for a progress bar."""
    shown = 0

    def progress(done: int, total: int) -> None:
        nonlocal shown
        now = rows * done // max(1, total)
        advance(now - shown)
        shown = now

    return progress


def require_columns(table: Table, columns: Mapping[str, Any]) -> None:
    """Validation and test files must have the columns that training uses."""
    used = [c for value in columns.values() if value for c in ([value] if isinstance(value, str) else value)]
    if missing := [c for c in used if c not in table.columns]:
        raise DataError(
            f"{table.source} has no column {missing[0]!r}, which the training file has; its columns are "
            f"{', '.join(map(repr, table.columns))}. Rename the column, or give the same layout in each file."
        )


def add_validation(tables: dict[str, Table], schema: Any, settings: DataSettings, seed: int) -> str:
    """Part a share of the training rows off as validation; returns the sentence that says so."""
    table = tables["train"]
    if len(table) < MIN_ROWS:
        raise DataError(
            f"{table.source} has {len(table)} rows: too few to part some off for validation. "
            f"Give at least {MIN_ROWS}, or a file of its own as data.validation."
        )
    groups, how = grouping(table, schema, settings.group)
    kept, held = split.validation_split(schema.strata(table), settings.validation_share, seed, groups)
    tables["train"], tables["validation"] = table.select(kept.tolist()), table.select(held.tolist())
    return f"validation: {len(held)} of {len(table)} rows of {table.source}, {how}, seed {seed}"


def grouping(table: Table, schema: Any, group: str | None) -> tuple[list[Any] | None, str]:
    """The group of each row, by `data.group` or what the schema keeps together, and how rows are parted in words.

    Raises:
        ConfigError: there is no such column.
    """
    column = group or schema.group_column(table)
    if column is None:
        return None, "stratified by label"
    if column not in table.columns:
        raise ConfigError(f"data.group={column}: the columns are {', '.join(map(repr, table.columns))}.")
    return table.columns[column], f"whole groups of {column!r}"


class DataModule(L.LightningDataModule):
    """Loaders over prepared examples: steps of packed micro-batches for training, packed batches else.

    With the `config` of an encoder the budget of training counts what texts cost it (`tasks.data.cost`), else tokens.
    Batches without a gradient are made by tokens: they are bounded by memory, and theirs is that of one layer.
    """

    sampler: StepSampler

    def __init__(
        self,
        examples: Mapping[str, Examples],
        batch_size: int,
        tokens_per_batch: int,
        seed: int,
        config: EncoderConfig | None = None,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise ConfigError(f"optim.batch_size={batch_size}: allowed is 1 or more examples.")
        self.examples, self.batch_size = examples, batch_size
        self.tokens_per_batch, self.seed = tokens_per_batch, seed
        train = examples["train"]
        self.costs = np.asarray(train.lengths, dtype=np.int64) if config is None else costs(train, config)

    def train_dataloader(self) -> DataLoader:
        rank, world = self.rank()
        self.sampler = StepSampler(
            self.costs, self.batch_size, self.tokens_per_batch, self.seed, rank=rank, world=world
        )
        return train_loader(self.examples["train"], self.sampler)

    def val_dataloader(self) -> DataLoader | list:
        if "validation" not in self.examples:
            return []
        rank, world = self.rank()
        return eval_loader(self.examples["validation"], self.tokens_per_batch, rank, world)

    def rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
