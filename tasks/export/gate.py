"""The parity gate: an export answers real rows as the run does, or it is refused.

B sequences, T tokens, L outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from modernbert.errors import ConfigError, DataError, ModernBertError
from modernbert.packing import Packed, pack
from tasks.data.module import require_columns
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.run import Run, has_text

#: Largest difference of a logit between the run and a float export. Two fp32 implementations differ by 1e-6 to 1e-5.
TOLERANCE = 1e-4
#: Rows read, evenly from the whole file: 1,000 resolve a tenth of a point.
MAX_ROWS = 1000
FEW = 200  # of fewer rows, one weighs more than half a point
SINGLE = 16  # rows that are also run alone
RAGGED = 32  # rows of a batch, in the order of the file, so short and long meet
MIXED = f"ragged batches of {RAGGED}"
#: Beyond this a second, shorter sequence is not run beside the longest one: attention scores are S x S a head.
LONG = 1024


class ParityError(ModernBertError):
    """An export that does not answer as the run does."""


class Model(Protocol):
    """An export, loaded from its folder."""

    labels: tuple[str, ...]

    def __call__(self, packed: Packed) -> Tensor:
        """Logits (B, L) or (T, L), as the task's own forward gives them."""


@dataclass(frozen=True)
class Check:
    """One line of the table. `limit` is what is allowed, in words; None for what is only reported."""

    name: str
    value: Any
    limit: str | None
    passed: bool = True


@dataclass(frozen=True)
class Parity:
    """What the gate found; `to_json` is parity.json."""

    format: str
    rows: int
    checks: tuple[Check, ...]
    metric: Mapping[str, Any]
    #: Groups of layers that a quantised export keeps in float; each group's share of the drift, where it was measured.
    kept_in_float: tuple[str, ...] = ()
    drift: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    def to_json(self) -> dict[str, Any]:
        return {"passed": self.passed} | asdict(self)

    def table(self) -> str:
        """The checks as lines of text, those that failed marked."""
        lines = [("", "check", "found", "allowed")]
        lines += [("" if c.passed else "FAILED", c.name, shown(c.value), c.limit or "") for c in self.checks]
        widths = [max(len(line[i]) for line in lines) for i in range(4)]
        padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
        return "\n".join("  ".join(line).rstrip() for line in padded)


def shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Rows:
    """Real labelled rows and what the run itself answers to them, computed once for all formats.

    Raises:
        ConfigError: a column of training is missing.
        DataError: no labelled rows, or labels that training did not know.
    """

    def __init__(self, run: Run, source: str | None = None, columns: Mapping[str, Any] | None = None) -> None:
        self.run, self.source = run, source or str(run.folder / "predictions.csv")
        self.table = read_rows(run, self.source, columns)
        self.examples = run.schema.examples(self.table, run.tokenizer, "evaluate")
        count = len(self.examples)
        self.single = [self.examples.collate([i]) for i in range(min(SINGLE, count))]
        starts = range(0, count, RAGGED)
        self.ragged = [self.examples.collate(list(range(s, min(s + RAGGED, count)))) for s in starts]
        self.packs = {
            "batches of 1": [batch.packed for batch in self.single],
            MIXED: [batch.packed for batch in self.ragged],
            f"{run.schema.max_length} tokens": [self.fill(run.schema.max_length)],
        }
        self.expected = {suite: [self.answer(packed) for packed in packs] for suite, packs in self.packs.items()}
        self.score, self.mode, self.headline = self.measure(self.expected[MIXED])

    def __len__(self) -> int:
        return len(self.examples)

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

    def measure(self, outputs: list[Tensor]) -> tuple[float, str, str]:
        """Headline metric of the task over the ragged batches, "max" or "min", and its name."""
        report = self.run.task.new_report("test")
        for batch, found in zip(self.ragged, outputs, strict=True):
            self.run.task.update_report(report, batch.merge(found), batch)
        value = report.compute().get(report.headline)
        return float("nan") if value is None else float(value), report.mode, report.headline

    def predictions(self, outputs: list[Tensor]) -> list[Any]:
        """What is decided for the ragged batches, without scores."""
        found: list[Any] = []
        for batch, logits in zip(self.ragged, outputs, strict=True):
            labels = self.run.task.decode(batch.merge(logits), batch, [False] * len(batch))
            found += self.run.task.decisions(labels)
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
    chosen = np.linspace(0, len(good) - 1, min(MAX_ROWS, len(good))).round().astype(int)
    return table.select([good[i] for i in chosen])


def check(rows: Rows, model: Model, name: str, exact: bool, max_metric_drop: float) -> Parity:
    """Run an export on the rows and compare: labels, logits in three shapes of batch, the task's metric.

    Args:
        exact: a float format, whose logits must agree to TOLERANCE; else only the metric decides.
        max_metric_drop: what may be lost of the headline metric (0.005 is half a point); of an error, where less is
            better, the share by which it may grow.
    """
    labels = tuple(rows.run.task.hf_config()["id2label"].values())
    names = ", ".join(model.labels[:8]) + (" …" if len(model.labels) > 8 else "")
    checks = [Check("labels and their order", names, "those of the run", model.labels == labels)]
    found = {suite: [model(packed).float() for packed in packs] for suite, packs in rows.packs.items()}
    checks += list(compare_logits(found, rows.expected, exact))
    if any(check.value == "another shape" for check in checks):
        return Parity(name, len(rows), tuple(checks), {})
    ours, theirs = rows.predictions(rows.expected[MIXED]), rows.predictions(found[MIXED])
    if not any(isinstance(value, float) for value in ours):  # values of a regression always move a little
        changed = sum(a != b for a, b in zip(ours, theirs, strict=True))
        checks.append(Check("rows answered otherwise", f"{changed} of {len(ours)}", None))
    score = rows.measure(found[MIXED])[0]
    drop = rows.score - score if rows.mode == "max" else score / max(rows.score, 1e-12) - 1
    # False for NaN too: a metric that is undefined proves nothing.
    kept = bool(drop <= max_metric_drop)
    how = "lost, of" if rows.mode == "max" else "grown, as a share of"
    checks.append(Check(f"{rows.headline} {how} {rows.score:.4f}", drop, f"{max_metric_drop:g}", kept))
    metric = {"name": rows.headline, "run": rows.score, "export": score}
    return Parity(name, len(rows), tuple(checks), metric)


def compare_logits(
    found: Mapping[str, list[Tensor]], expected: Mapping[str, list[Tensor]], exact: bool
) -> Iterator[Check]:
    """One check a suite: the largest absolute difference of a logit; a value that is not finite always fails."""
    for suite, outputs in found.items():
        pairs = list(zip(outputs, expected[suite], strict=True))
        title = f"logits, {suite}"
        if any(a.shape != b.shape for a, b in pairs):
            yield Check(title, "another shape", "that of the run", False)
            continue
        worst = max(float((a - b).abs().max()) for a, b in pairs)
        finite = all(bool(a.isfinite().all()) for a, _ in pairs)
        limit = f"{TOLERANCE:g}" if exact else "finite"
        yield Check(title, worst, limit, finite and (not exact or worst <= TOLERANCE))


def refuse(parity: Parity, more: str = "") -> ParityError:
    """The error of an export that failed its checks: the table, and what to do."""
    point = 100 / parity.rows
    hint = f"\nOne of {parity.rows} rows is {point:.2g} points: more rows (data.test=<file>) measure finer."
    return ParityError(
        f"format={parity.format} does not answer as the run does and was not written "
        f"({parity.rows} rows).\n{parity.table()}{more}{hint if parity.rows < FEW and parity.metric else ''}"
    )


