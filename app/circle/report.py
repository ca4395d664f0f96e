"""What came out of a recipe: a table of runs, and how far the differences can be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import console
from app.circle.stages import Stages
from app.circle.workshop import EVALUATION
from tasks.comparison import compare
from tasks.metrics.paired import Paired
from tasks.run import write_json
from tasks.verdict import p_value, verdict

JSON, TEXT = "report.json", "report.md"
DIFFERENCE = ("", "metric", "difference", "95% interval", "p")


@dataclass(frozen=True)
class Outcome:
    """What a recipe made.

    Args:
        metrics: the columns of the table; the first one with its interval.
        runs: by name, in the order to show them.
        found: the metrics on data.test of these, and of what they are shown beside (BM25).
        compared: pairs of names, the second against the first.
        notes: sentences that a reader of the table needs.
    """

    metrics: tuple[str, ...]
    runs: Mapping[str, Path]
    found: Mapping[str, Mapping[str, Any]]
    compared: Sequence[tuple[str, str]]
    notes: tuple[str, ...] = ()


def tell(outcome: Outcome, folder: Path, recipe: str) -> None:
    """Show the report, and leave it in report.json and report.md."""
    header = ["", outcome.metrics[0], "95% interval", *outcome.metrics[1:], "run"]
    rows = [score_row(outcome, name, folder) for name in outcome.found]
    compared = {
        f"{second}, against {first}": compare(outcome.runs[first], outcome.runs[second], EVALUATION)
        for first, second in outcome.compared
    }
    differences = [
        difference_row(name, metric, found[metric])
        for name, found in compared.items() for metric in outcome.metrics
    ]  # fmt: skip
    said = [
        verdict(first, second, {outcome.metrics[0]: found[outcome.metrics[0]]})
        for (first, second), found in zip(outcome.compared, compared.values(), strict=True)
    ]
    said += outcome.notes
    out = console.out()
    out.print()
    out.print(console.table(header, rows, right=header[1:-1]))
    out.print()
    out.print(console.table(DIFFERENCE, differences, right=DIFFERENCE[2:]))
    out.print("\n" + "\n".join(said), soft_wrap=True)
    stages = {name: record["seconds"] for name, record in Stages(folder).done.items()}
    write_json(folder / JSON, {
        "recipe": recipe,
        "runs": {name: str(run) for name, run in outcome.runs.items()},
        "test": outcome.found,
        "differences": {
            name: {metric: vars(found[metric]) for metric in outcome.metrics} for name, found in compared.items()
        },
        "notes": outcome.notes,
        "seconds": stages,
    })  # fmt: skip
    parts = [f"# recipe={recipe}", markdown(header, rows), markdown(DIFFERENCE, differences), "\n".join(said)]
    times = [[name, f"{seconds:,.0f}"] for name, seconds in stages.items()]
    parts.append(markdown(("stage", "seconds"), times))
    (folder / TEXT).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    out.print(f"\nthe report is in {folder / TEXT}", soft_wrap=True)


def score_row(outcome: Outcome, name: str, folder: Path) -> list[str]:
    """Name, metrics and folder of a run."""
    found, first = outcome.found[name], outcome.metrics[0]
    low, high = found.get(f"{first}_low"), found.get(f"{first}_high")
    interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
    values = ["" if found.get(metric) is None else f"{found[metric]:.4f}" for metric in outcome.metrics]
    run = str(outcome.runs[name].relative_to(folder)) if name in outcome.runs else ""
    return [name, values[0], interval, *values[1:], run]


def difference_row(name: str, metric: str, one: Paired) -> list[str]:
    return [name, metric, f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}", p_value(one)]


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
