"""The parity gate: an export answers real rows as the run does, or it is refused.

B sequences, T tokens, L outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from torch import Tensor

from modernbert.errors import ModernBertError
from modernbert.packing import Packed
from tasks.export.rows import MIXED, Rows
from tasks.run import Run

#: Largest difference of a logit between the run and a float export. Two fp32 implementations differ by 1e-6 to 1e-5.
TOLERANCE = 1e-4
FEW = 200  # of fewer rows, one weighs more than half a point


class ParityError(ModernBertError):
    """An export that does not answer as the run does."""


class Model(Protocol):
    """An export, loaded from its folder."""

    names: tuple[str, ...]  # see `names_of`

    def __call__(self, packed: Packed) -> Tensor:
        """Logits (B, L) or (T, L), or vectors (B, D), as the task's own forward gives them."""


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
    #: What a person should know of these files, in sentences.
    notes: tuple[str, ...] = ()

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


def names_of(run: Run) -> tuple[str, tuple[str, ...]]:
    """What an export must say of its own accord, and what that is called: labels in order, or prefixes of texts."""
    if is_vectors(run):
        return "prefixes of queries and documents", (run.schema.query_prefix, run.schema.document_prefix)
    return "labels and their order", tuple(run.task.hf_config()["id2label"].values())


def is_vectors(run: Run) -> bool:
    """Whether a run answers with vectors rather than logits."""
    return run.task.pipeline == "feature-extraction"


def check(rows: Rows, model: Model, name: str, exact: bool, max_metric_drop: float) -> Parity:
    """Run an export on the rows and compare: names, outputs in three shapes of batch, the task's metric.

    Args:
        exact: a float format, whose outputs must agree to TOLERANCE; else only the metric decides.
        max_metric_drop: what may be lost of the headline metric (0.005 is half a point); of an error, where less is
            better, the share by which it may grow.
    """
    title, names = names_of(rows.run)
    said = ", ".join(repr(n) if is_vectors(rows.run) else n for n in model.names[:8])
    said += " …" if len(model.names) > 8 else ""
    checks = [Check(title, said, "those of the run", model.names == names)]
    found = {suite: [model(packed).float() for packed in packs] for suite, packs in rows.packs.items()}
    what = "vectors" if is_vectors(rows.run) else "logits"
    checks += list(compare_outputs(what, found, rows.expected, exact))
    if any(check.value == "another shape" for check in checks):
        return Parity(name, len(rows), tuple(checks), {})
    ours, theirs = rows.predictions(rows.expected[MIXED]), rows.predictions(found[MIXED])
    if ours:
        changed = sum(a != b for a, b in zip(ours, theirs, strict=True))
        counted = "queries whose first document is another" if is_vectors(rows.run) else "rows answered otherwise"
        checks.append(Check(counted, f"{changed} of {len(ours)}", None))
    score = rows.measure(found[MIXED])[0]
    drop = rows.score - score if rows.mode == "max" else score / max(rows.score, 1e-12) - 1
    # False for NaN too: a metric that is undefined proves nothing.
    kept = bool(drop <= max_metric_drop)
    how = "lost, of" if rows.mode == "max" else "grown, as a share of"
    checks.append(Check(f"{rows.headline} {how} {rows.score:.4f}", drop, f"{max_metric_drop:g}", kept))
    metric = {"name": rows.headline, "run": rows.score, "export": score}
    return Parity(name, len(rows), tuple(checks), metric)


def compare_outputs(
    what: str, found: Mapping[str, list[Tensor]], expected: Mapping[str, list[Tensor]], exact: bool
) -> Iterator[Check]:
    """One check a suite: the largest absolute difference of a number; a value that is not finite always fails."""
    for suite, outputs in found.items():
        pairs = list(zip(outputs, expected[suite], strict=True))
        title = f"{what}, {suite}"
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
