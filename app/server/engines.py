"""What the worker computes with: rows of a run, or vectors of an embedder. Imports torch.

An engine is told apart by what may share a batch: the same run and the same kind of input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.server.batcher import Batcher
from modernbert.errors import DataError
from tasks.answers import Span
from tasks.data.ranking.groups import number_queries
from tasks.data.readers import Table
from tasks.embedding import Embedder
from tasks.outputs import output_type
from tasks.reranking import Score
from tasks.run import Run
from tasks.vectors import Vectors

#: The words of a text where a file gives them (`tasks.ner_schema.words_of`).
WORDS = "words"

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Counted:
    """Tokens of each row as they are read, and whether the row was cut to that."""

    lengths: list[int]
    cut: list[bool]


@dataclass(frozen=True)
class RowLengths:
    """Counts the tokens of rows, special ones included.

    Args:
        most: of a row that is cut there; None where long texts are read in windows.
    """

    tokenizer: Any
    most: int | None

    def __call__(self, rows: Sequence[Row]) -> Counted:
        """
        Raises:
            DataError: half of a character, which no tokenizer reads.
        """
        texts = [cell if isinstance(cell, str) else "" for row in rows for cell in row]
        try:
            found = self.tokenizer.backend_tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError) as error:
            raise DataError("a text holds half of a character (a lone surrogate), which is not Unicode.") from error
        counts, width = [len(each) for each in found], len(rows[0])
        special = self.tokenizer.num_special_tokens_to_add(pair=width > 1)
        full = [sum(counts[i : i + width]) + special for i in range(0, len(counts), width)]
        most = self.most or max(full)
        return Counted([min(length, most) for length in full], [length > most for length in full])


@dataclass(frozen=True)
class RoleLengths:
    """Counts the tokens of texts of one role, prefix included."""

    embedder: Embedder
    role: Any

    def __call__(self, rows: Sequence[Row]) -> Counted:
        """Raises DataError as `RowLengths`."""
        tokens = self.embedder.task.schema.texts(self.embedder.tokenizer, [text for (text,) in rows], self.role)
        return Counted(tokens.lengths.tolist(), (tokens.full_lengths > tokens.lengths).tolist())


@dataclass(frozen=True)
class Rows:
    """Rows of a run, as `Run.outputs` answers them.

    Args:
        columns: of the cells of a row.
        tokens_per_batch: of one forward pass.
    """

    name: str
    run: Run
    columns: tuple[str, ...]
    tokens_per_batch: int

    def compute(self, items: Sequence[Row]) -> list[Any]:
        cells = [list(column) for column in zip(*items, strict=True)]
        table = Table("requests", dict(zip(self.columns, cells, strict=True)), list(range(1, len(items) + 1)))
        return self.run.outputs(table, self.tokens_per_batch)


@dataclass(frozen=True)
class TextVectors:
    """Texts of one role as vectors."""

    name: str
    embedder: Embedder
    role: Any
    tokens_per_batch: int

    def compute(self, items: Sequence[Row]) -> list[Vectors]:
        """The vectors of each text by itself, on the CPU."""
        found = self.embedder.encode([text for (text,) in items], self.role, self.tokens_per_batch).to("cpu")
        return [found.select([i]) for i in range(len(items))]


class QueuedRun(Run):
    """A run whose rows wait in the queue of the server, among all others: for callers that know of no queue.

    The page and files are scored with it, in threads of their own.
    """

    def __init__(self, name: str, run: Run, batcher: Batcher, tokens_per_batch: int) -> None:
        super().__init__(run.folder, run.task, run.tokenizer, run.info)
        self.title, self.plain, self.batcher, self.tokens_per_batch = name, run, batcher, tokens_per_batch
        in_windows = output_type(run.task) is Span or getattr(run.schema, "long", "head") == "window"
        self.lengths = RowLengths(run.tokenizer, None if in_windows else run.schema.max_length)

    def engine(self, columns: Sequence[str]) -> Rows:
        """For rows of these columns."""
        return Rows(self.title, self.plain, tuple(columns), self.tokens_per_batch)

    def outputs(self, table: Table, tokens_per_batch: int | None = None) -> list[Any]:
        """As `Run.outputs`; the size of a batch is the server's."""
        columns = self.task.text_columns(table)
        if WORDS in table.columns:
            columns = [*columns, WORDS]
        rows: list[Row] = list(zip(*(table.columns[column] for column in columns), strict=True))
        if not rows:
            return []
        lengths = self.lengths(rows).lengths
        answers = self.batcher.submit(self.engine(columns), rows, lengths, patient=True).result()
        if output_type(self.task) is Score:
            # The queries were numbered in each batch; ranks are among those of this table.
            numbers = number_queries(table).tolist()
            answers = [a and dataclasses.replace(a, query=n) for a, n in zip(answers, numbers, strict=True)]
        return answers
