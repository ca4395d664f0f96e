"""Score the rows of a file into another one: what `modernbert predict` and the page share."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.data.readers import Table
from tasks.data.writers import open_writer, with_columns
from tasks.run import Run


@dataclass
class Scoring:
    """One file through a run, and what was met on the way.

    Args:
        run: what scores.
        lock: held while the model computes.
        rows: scored so far.
        cut: those of them of which only the beginning was read.
        empty: places (`Table.rows`) of those without text, so without prediction.
    """

    run: Run
    lock: AbstractContextManager[Any] = field(default_factory=nullcontext)
    rows: int = 0
    cut: int = 0
    empty: list[int] = field(default_factory=list)

    def write(
        self,
        tables: Iterable[Table],
        output: Path,
        columns: Mapping[str, Any],
        tokens_per_batch: int | None = None,
    ) -> Generator[int, None, None]:
        """Write every row with all its columns and the predictions behind them; gives the rows of each table.

        The file has its name when the last table is written; nothing is left where the caller stops before.

        Args:
            columns: role -> column, where these are not named as in training.

        Raises:
            ConfigError, DataError: a column that is not there; what cannot be written.
        """
        with open_writer(output) as writer:
            for table in tables:
                with self.lock:
                    outputs = self.run.outputs(self.run.column_map(table, columns), tokens_per_batch)
                found = self.run.task.to_columns(outputs)
                writer.write(with_columns(table, found))
                self.rows += len(table)
                # Tasks that read long texts in windows cut nothing, and have no such column.
                self.cut += sum(map(bool, found.get("cut", ())))
                self.empty += [row for row, answer in zip(table.rows, outputs, strict=True) if answer is None]
                yield len(table)
