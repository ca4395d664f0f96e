"""Real labelled rows for the gate, what the run itself answers to them, and how answers are judged.

B sequences of a batch, T tokens, L outputs, D features.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from modernbert.errors import ConfigError, DataError
from modernbert.packing import Packed, pack
from tasks.candidates import CandidateBatch, Candidates
from tasks.data.examples import Batch, Examples
from tasks.data.module import require_columns
from tasks.data.ranking import Collection
from tasks.data.ranking.groups import number_queries, rows_of_queries
from tasks.data.ranking.rows import RankingTable
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.retrieval_measure import fill_report
from tasks.run import Run, has_text
from tasks.vectors import Vectors, top_k

#: Rows read, evenly from the whole file: 1,000 resolve a tenth of a point.
MAX_ROWS = 1000
#: Rows of retrieval: their queries search their own documents and up to 1,000 others, all of which are encoded.
MAX_QUERIES = 200
SINGLE = 16  # rows that are also run alone
RAGGED = 32  # rows of a batch, in the order of the file, so short and long meet
ALONE, MIXED = "batches of 1", f"ragged batches of {RAGGED}"
#: Beyond this a second, shorter sequence is not run beside the longest one: attention scores are S x S a head.
LONG = 1024


class Judge(Protocol):
    """How the outputs of a task are measured; `outputs` are those of the ragged batches, in order."""

    @property
    def examples(self) -> Examples:
        """The rows, tokenised."""

    def report(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> Any:
        """The task's report over all of them."""

    def decisions(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> list[Any]:
        """What is decided, without scores; empty where an answer is a number that always moves a little."""


@dataclass
class EachRow:
    """Each row has an answer of its own."""

    task: Any
    examples: Examples

    def report(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> Any:
        report = self.task.new_report("test")
        for batch, found in zip(batches, outputs, strict=True):
            self.task.update_report(report, batch.merge(found), batch)
        return report

    def decisions(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> list[Any]:
        found: list[Any] = []
        for batch, logits in zip(batches, outputs, strict=True):
            found += self.task.decisions(self.task.decode(batch.merge(logits), batch, [False] * len(batch)))
        return [] if any(isinstance(value, float) for value in found) else found


@dataclass
class Ranked:
    """Pairs of a query and a candidate (reranking), which mean something only beside those of their query."""

    task: Any
    examples: Candidates

    def together(self, batches: Sequence[Any]) -> CandidateBatch:
        """One batch of all pairs, for what looks at labels and queries alone."""
        goal, index, query = (torch.cat([getattr(b, n) for b in batches]) for n in ("goal", "index", "query"))
        return CandidateBatch(batches[0].packed, goal, index, query)

    def scores(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> Tensor:
        """Of all pairs, whatever windows they were read in."""
        return torch.cat([batch.merge(found) for batch, found in zip(batches, outputs, strict=True)])

    def report(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> Any:
        report = self.task.new_report("test")
        self.task.update_report(report, self.scores(batches, outputs), self.together(batches))
        return report

    def decisions(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> list[Any]:
        batch, logits = self.together(batches), self.scores(batches, outputs)
        return self.task.decisions(self.task.decode(logits, batch, [False] * len(batch)))


@dataclass
class Searched:
    """Queries and documents (retrieval), of which each query finds its documents by their vectors."""

    task: Any
    examples: Collection

    def report(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> Any:
        report = self.task.new_report("test")
        fill_report(report, self.examples, Vectors("dense", torch.cat(list(outputs))))
        return report

    def decisions(self, batches: Sequence[Batch], outputs: Sequence[Tensor]) -> list[Any]:
        """The first document of each query."""
        if self.examples.scored is not None:
            return []
        count, vectors = len(self.examples.queries), Vectors("dense", torch.cat(list(outputs)))
        documents = torch.arange(len(vectors) - count), vectors.select(slice(count, None))
        return top_k(vectors.select(slice(count)), [documents], 1)[1].flatten().tolist()


class Rows:
    """Real labelled rows and what the run itself answers to them, computed once for all formats.

    Raises:
        ConfigError: a column of training is missing; nothing says which rows to take.
        DataError: no labelled rows, or labels that training did not know.
    """

    def __init__(self, run: Run, source: str | None = None, columns: Mapping[str, Any] | None = None) -> None:
        self.run, self.source = run, source or default_source(run)
        self.table = read_rows(run, self.source, columns)
        self.judge = new_judge(run, self.table)
        examples = self.judge.examples
        count = len(examples)
        self.single = [examples.collate([i]) for i in range(min(SINGLE, count))]
        starts = range(0, count, RAGGED)
        self.ragged = [examples.collate(list(range(s, min(s + RAGGED, count)))) for s in starts]
        self.packs = {
            ALONE: [batch.packed for batch in self.single],
            MIXED: [batch.packed for batch in self.ragged],
            f"{run.schema.max_length} tokens": [self.fill(run.schema.max_length)],
        }
        self.expected = {suite: [self.answer(packed) for packed in packs] for suite, packs in self.packs.items()}
        self.score, self.mode, self.headline = self.measure(self.expected[MIXED])

    def __len__(self) -> int:
        return len(self.table)

    def answer(self, packed: Packed) -> Tensor:
        with torch.inference_mode():
            return self.run.task(packed).float()

    def fill(self, length: int) -> Packed:
        """A sequence of `length` tokens, real rows end to end, beside one of half that length."""
        first = self.single[0].packed.input_ids
        tokens = self.ragged[0].packed.input_ids
        inner = tokens.repeat(-(-length // len(tokens)))
        whole = torch.cat([first[:1], inner[1 : length - 1], first[-1:]])
        half = torch.cat([first[:1], inner[1 : length // 2 - 1], first[-1:]])
        return pack([whole, half] if length <= LONG else [whole])

    def measure(self, outputs: Sequence[Tensor]) -> tuple[float, str, str]:
        """Headline metric of the task over the ragged batches, "max" or "min", and its name."""
        report = self.judge.report(self.ragged, outputs)
        value = report.compute().get(report.headline)
        return float("nan") if value is None else float(value), report.mode, report.headline

    def predictions(self, outputs: Sequence[Tensor]) -> list[Any]:
        """What is decided for the ragged batches, without scores."""
        return self.judge.decisions(self.ragged, outputs)


def new_judge(run: Run, table: Table) -> Judge:
    """The judge of a run's task, with the rows tokenised."""
    examples = run.schema.examples(table, run.tokenizer, "evaluate")
    if isinstance(examples, Candidates):
        return Ranked(run.task, examples.parts(1))  # a pair is an example, not a query with all its candidates
    if isinstance(examples, Collection):
        return Searched(run.task, examples)
    return EachRow(run.task, examples)


def default_source(run: Run) -> str:
    """The labelled rows that a run knows of: its predictions.csv; of retrieval, which writes rankings there, its data.

    Raises:
        ConfigError: the data of a retrieval run are not where they were.
    """
    if run.task.pipeline != "feature-extraction":
        return str(run.folder / "predictions.csv")
    sources = run.info.get("data", {})
    known = [str(sources[split]["source"]) for split in ("test", "validation", "train") if split in sources]
    found = next((source for source in known if Path(source.rpartition(":")[0] or source).exists()), None)
    if found is None:
        where = f": {', '.join(dict.fromkeys(known))} is not there" if known else ""
        raise ConfigError(f"An export is checked on real rows{where}. Give some with data.test=<file or folder>.")
    return found


def read_rows(run: Run, source: str, columns: Mapping[str, Any] | None) -> Table:
    """At most MAX_ROWS rows with text, evenly from the file, under the column names of training."""
    report = Report()
    try:
        table = run.column_map(run.schema.read(source, columns or {}, report, {}), columns)
        require_columns(table, run.schema.columns)
        run.schema.check(report, {"test": table})
        report.raise_if_errors()
    except (ConfigError, DataError) as error:
        raise type(error)(f"{error} An export is checked on labelled rows: give some with data.test=<file>.") from error
    texts = zip(*(table.columns[name] for name in run.schema.text_columns()), strict=True)
    good = [i for i, row in enumerate(texts) if all(has_text(cell) for cell in row)]
    if not good:
        raise DataError(f"{source} has no rows with text: give labelled rows with data.test=<file>.")
    if isinstance(table, RankingTable):
        # As for a validation: the documents of these rows and some others, not a whole corpus.
        table = dataclasses.replace(table.select(evenly(good, MAX_QUERIES)), split="validation")
        return table
    if run.task.ranks:
        return table.select(whole_queries(table.select(good), good))
    return table.select(evenly(good, MAX_ROWS))


def evenly(rows: Sequence[int], most: int) -> list[int]:
    """At most `most` of these rows, in order, as far apart as they can be."""
    return [rows[i] for i in np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)]


def whole_queries(table: Table, places: Sequence[int]) -> list[int]:
    """Places of about MAX_ROWS rows of a table: some queries, each with all its candidates."""
    queries = rows_of_queries(number_queries(table))
    count = max(1, round(len(queries) * min(1.0, MAX_ROWS / len(table))))
    chosen = [queries[i] for i in evenly(range(len(queries)), count)]
    return [places[i] for rows in chosen for i in sorted(rows.tolist())]
