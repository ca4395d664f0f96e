"""What a person sees: notes, warnings, errors, tables, the summary of a run.

Results go to stdout; everything said on the way goes to stderr, so that `modernbert check --json | jq` works.
Text of users is never read as rich markup.
"""

from __future__ import annotations

import functools
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

PIPED_WIDTH = 120  # columns when nobody's terminal says otherwise; rich's 80 would cut tables


@functools.cache
def out() -> Console:
    """The console of results."""
    return _console(stderr=False)


@functools.cache
def err() -> Console:
    """The console of notes, warnings, errors and progress."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def is_main() -> bool:
    """Whether this process speaks: of several that train together, only the first does."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def note(message: str) -> None:
    """Say something worth knowing that needs no action."""
    if is_main():
        err().print(Text(message, style="dim"), soft_wrap=True)


def warn(message: str) -> None:
    """Say something that a person may want to act on."""
    if is_main():
        err().print(Text.assemble(("warning ", "yellow"), message), soft_wrap=True)


def error(message: str, mark: str = "error ") -> None:
    """Say why the command stops."""
    first, newline, rest = message.partition("\n")
    err().print(Text.assemble((mark + first, "red"), newline, rest), soft_wrap=True)


def bug(exception: BaseException) -> Path:
    """Report an error that is our fault: a short message, with the trace and the versions in a file."""
    trace = "".join(traceback.format_exception(exception))
    with tempfile.NamedTemporaryFile("w", prefix="modernbert-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write(f"{' '.join(sys.argv)}\n{_versions()}\n\n{trace}")
    what = "".join(traceback.format_exception_only(exception)).strip().split("\n")[0]
    error(f"this is a bug in modernbert: {what}")
    err().print(Text(f"The trace is in {file.name}; please send it with your report."), soft_wrap=True)
    return Path(file.name)


def _versions() -> str:
    names = ("modernbert", "torch", "lightning", "transformers", "hydra-core")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return f"python {platform.python_version()}, {platform.platform()}, {', '.join(found)}"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> Table:
    """A plain table without rules; columns named in `right` are right-aligned."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        drawn.add_column(Text(column), justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


@dataclass(frozen=True)
class Score:
    """A metric with its 95% bootstrap interval, as shares (0.972) or plain numbers."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Confusion:
    """`count` rows of class `true` were taken for `predicted`, of `support` rows of that class."""

    true: str
    predicted: str
    count: int
    support: int


@dataclass(frozen=True)
class Summary:
    """All that the end of a training or an evaluation says; a value, drawn by `summary`."""

    title: str
    facts: Mapping[str, str]  # "encoder" -> "minilm, 23M parameters", in the order to show
    scores: Mapping[str, Sequence[Score]]  # "validation" | "test" -> its metrics
    run: Path
    confusions: Sequence[Confusion] = ()
    commands: Mapping[str, str] = field(default_factory=dict)  # what for -> command


def summary(what: Summary) -> RenderableType:
    """Draw a summary: facts, metrics with intervals, worst confusions, the run's folder, next commands."""
    parts: list[RenderableType] = [Text(what.title, style="bold"), _indent(_facts(what.facts))]
    if what.scores:
        parts += [Text(""), _indent(_scores(what.scores))]
    if what.confusions:
        parts += [Text(""), Text("taken for another class most often"), _indent(_confusions(what.confusions))]
    parts += [Text(""), Text.assemble("the run is in ", (str(what.run), "bold"))]
    if what.commands:
        parts += [Text(""), Text("next")]
        for purpose, command in what.commands.items():
            parts.append(_indent(Text.assemble((f"# {purpose}\n", "dim"), command)))
    return Group(*parts)


def _facts(facts: Mapping[str, str]) -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    drawn.add_column(style="dim", no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, fact in facts.items():
        drawn.add_row(Text(name), Text(fact))
    return drawn


def _scores(scores: Mapping[str, Sequence[Score]]) -> Table:
    names = list(dict.fromkeys(score.name for of_split in scores.values() for score in of_split))
    rows = []
    for name in names:
        by_split = ([s for s in of_split if s.name == name] for of_split in scores.values())
        rows.append([name, *(_score(found[0]) if found else "" for found in by_split)])
    return table(["95% interval", *scores], rows)


def _score(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f}  ({score.low:.3f} to {score.high:.3f})"


def _confusions(confusions: Sequence[Confusion]) -> Table:
    rows = [[c.true, c.predicted, f"{c.count} of {c.support}"] for c in confusions]
    return table(["label", "predicted", "rows"], rows, right=["rows"])


def _indent(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)
