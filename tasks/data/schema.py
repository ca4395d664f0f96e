"""What a column is for (roles), which column that is (mapping), and what is wrong with the rows (report)."""

from __future__ import annotations

import dataclasses
import difflib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from modernbert.errors import ConfigError, DataError
from tasks.data.readers.table import Table

KEPT = 20  # problems of one kind that are kept whole; a person mends the cause after the first few
LISTED = 10  # problems in the message of an error
SHOWN = 3  # problems of one kind in the printed report

# A second text is guessed only beside its first: a column "second" or "text2" alone may be anything.
PARTNERS = {
    "sentence2": ("sentence1", "sentence"),
    "text2": ("text1", "text"),
    "textb": ("texta",),
    "question2": ("question1",),
    "hypothesis": ("premise",),
    "second": ("first",),
}


@dataclass(frozen=True)
class Role:
    """What a task needs a column for.

    `guesses` are column names tried in this order, after the role's own name; case, white space, `_` and
    `-` do not count. A role that is not `for_prediction` is an answer: between two columns that fit it is
    not guessed.
    """

    name: str
    guesses: tuple[str, ...]
    required: bool
    for_prediction: bool
    help: str


@dataclass(frozen=True)
class Problem:
    """One finding: `what` is wrong, in which file, row (as in `Table.rows`) and column, and its `mend`."""

    level: Literal["error", "warning"]
    code: str
    source: str
    row: int | None
    column: str | None
    what: str
    mend: str

    @property
    def place(self) -> str:
        """`reviews.csv:12`, as editors know it."""
        return self.source if self.row is None else f"{self.source}:{self.row}"


class Report:
    """Problems in order of finding. Of each code and file the first KEPT are kept, the others counted."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], list[Problem]] = {}
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, problem: Problem) -> None:
        """Take a finding in."""
        key = (problem.code, problem.source)
        self._counts[key] += 1
        if self._counts[key] <= KEPT:
            self._kept.setdefault(key, []).append(problem)

    @property
    def problems(self) -> list[Problem]:
        """Errors, then warnings; a kind with more than KEPT ends with one that counts the rest."""
        found = []
        for key, kept in self._kept.items():
            found += kept
            if rest := self._counts[key] - len(kept):
                found.append(dataclasses.replace(kept[-1], row=None, what=f"and {rest:,} more such rows"))
        return sorted(found, key=lambda problem: problem.level != "error")

    @property
    def errors(self) -> list[Problem]:
        """Problems that stop training."""
        return [problem for problem in self.problems if problem.level == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """Problems that do not."""
        return [problem for problem in self.problems if problem.level == "warning"]

    def count(self, level: str) -> int:
        """Findings of a level, those that were not kept included."""
        return sum(self._counts[key] for key, kept in self._kept.items() if kept[0].level == level)

    def to_json(self) -> dict[str, Any]:
        """Counts by level and by code and file, and the kept problems, as plain values."""
        groups = [
            {"level": kept[0].level, "code": code, "source": source, "count": self._counts[code, source]}
            for (code, source), kept in self._kept.items()
        ]
        return {
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "groups": groups,
            "problems": [dataclasses.asdict(problem) for kept in self._kept.values() for problem in kept],
        }

    def lines(self, level: str | None = None) -> list[str]:
        """Plain text for a person: each kind with its count, the first SHOWN of it and the mend; of a level, or all."""
        found = []
        wanted = [item for item in self._kept.items() if level in (None, item[1][0].level)]
        groups = sorted(wanted, key=lambda item: item[1][0].level != "error")
        for (code, source), kept in groups:
            number = self._counts[code, source]
            times = "" if number == 1 else f", {number:,} times"
            found.append(f"{kept[0].level}: {code}{times} in {source}")
            shown = kept[:SHOWN]
            same_mend = len({problem.mend for problem in shown}) == 1
            for problem in shown:
                row = "" if problem.row is None else f"row {problem.row}: "
                found.append(f"    {row}{problem.what}" + ("" if same_mend else f". {problem.mend}"))
            if number > len(shown):
                found.append(f"    and {number - len(shown):,} more")
            if same_mend:
                found.append(f"    mend: {shown[0].mend}")
        return found

    def raise_if_errors(self) -> None:
        """DataError with the first LISTED errors, their mends and the count of the rest."""
        total = self.count("error")
        if not total:
            return
        listed = [problem for kept in self._kept.values() for problem in kept if problem.level == "error"][:LISTED]
        lines = [f"{problem.place}: {problem.what}. {problem.mend}" for problem in listed]
        if total > len(listed):
            lines.append(f"and {total - len(listed):,} more; `modernbert check` lists them")
        raise DataError(f"{'1 problem' if total == 1 else f'{total:,} problems'} in the data:\n  " + "\n  ".join(lines))


Columns = dict[str, Any]  # role -> column name, or a list of names


def map_columns(
    table: Table, roles: Iterable[Role], given: Mapping[str, Any], predict: bool = False
) -> tuple[Columns, list[str]]:
    """The column of each role, and a sentence for each that was guessed.

    `given` maps role names to a column, a list of columns, or None for "guess". With `predict`, roles that a
    prediction does not need are left out. A role that is not required and that nothing fits is left out too.

    Raises ConfigError, naming the columns there are: a given role or column that does not exist, a required
    role that nothing fits, an answer that two columns fit.
    """
    roles = list(roles)
    known = [role.name for role in roles]
    for name in given:
        if name not in known:
            raise ConfigError(f"data.columns.{name}: no such role{_closest(name, known)}; allowed: {', '.join(known)}")
    wanted = [role for role in roles if role.for_prediction or not predict]
    mapping = {role.name: _given(table, role, given[role.name]) for role in wanted if given.get(role.name) is not None}
    notes = []
    for role in wanted:
        if role.name not in mapping:
            column, others = _by_name(table, role, mapping)
            if column is not None:
                mapping[role.name] = column
                also = f"; {' and '.join(map(repr, others))} would fit too" if others else ""
                notes.append(_note(role, column, f"by its name{also}"))
    for role in wanted:
        if role.name not in mapping and role.required:
            column = _by_content(table, role, mapping)
            if column is None:
                raise ConfigError(_nothing_fits(table, role))
            mapping[role.name] = column
            notes.append(_note(role, column, "by its content"))
    return {role.name: mapping[role.name] for role in wanted if role.name in mapping}, notes


def plain_name(name: str) -> str:
    """A column name as names are compared: no case, no white space, no `_` and `-`."""
    return "".join(c for c in name.casefold() if not c.isspace() and c not in "_-\ufeff")


def _note(role: Role, column: str, how: str) -> str:
    return f"{role.name}: column {column!r} (guessed {how}; another: data.columns.{role.name}=…)"


def _given(table: Table, role: Role, value: Any) -> Any:
    """The column or columns that the user named, as they are spelt in the file."""
    if isinstance(value, str):
        return _existing(table, role, value)
    if isinstance(value, Sequence) and value and all(isinstance(name, str) for name in value):
        return [_existing(table, role, name) for name in value]
    raise ConfigError(f"data.columns.{role.name}={value!r}: give the name of a column or a list of names")


def _existing(table: Table, role: Role, name: str) -> str:
    if name in table.columns:
        return name
    alike = [column for column in table.columns if plain_name(column) == plain_name(name)]
    if len(alike) == 1:
        return alike[0]
    raise ConfigError(
        f"data.columns.{role.name}={name}: {table.source} has no such column"
        f"{_closest(name, list(table.columns))}; its columns: {_listed(table)}"
    )


def _by_name(table: Table, role: Role, mapping: Columns) -> tuple[str | None, list[str]]:
    """The first guess among the columns that no role has taken, and the other columns that would fit."""
    taken = {name for value in mapping.values() for name in ([value] if isinstance(value, str) else value)}
    free: dict[str, list[str]] = {}
    for column in table.columns:
        if column not in taken:
            free.setdefault(plain_name(column), []).append(column)
    fitting: list[str] = []
    own = (plain_name(role.name), plain_name(role.name) + "s")
    for guess in dict.fromkeys([*own, *map(plain_name, role.guesses)]):
        first = mapping.get("text") or mapping.get("query") or ""
        if guess in PARTNERS and plain_name(str(first)) not in PARTNERS[guess]:
            continue
        fitting += free.get(guess, [])
    if not fitting:
        return None, []
    alike = len(free[plain_name(fitting[0])]) > 1  # "text" and "Text "
    named_so = plain_name(fitting[0]) in own
    if alike or (len(fitting) > 1 and not named_so and not role.for_prediction):
        choices = " or ".join(f"data.columns.{role.name}={column}" for column in fitting)
        raise ConfigError(
            f"{table.source}: {len(fitting)} columns could be the {role.name}: "
            f"{', '.join(map(repr, fitting))} (all: {_listed(table)}). Set {choices}"
        )
    return fitting[0], [] if named_so else fitting[1:]


def _by_content(table: Table, role: Role, mapping: Columns) -> str | None:
    """The only column of a file, or which of exactly two is the text and which the label; else None."""
    columns = list(table.columns)
    if len(columns) == 1 and role.name == "text":
        return columns[0] if _spread(table, columns[0])[0] else None
    if len(columns) != 2 or role.name not in ("text", "label"):
        return None
    length_of = {column: _spread(table, column) for column in columns}
    text, label = sorted(columns, key=lambda column: -length_of[column][0])
    (long, text_distinct), (short, label_distinct) = length_of[text], length_of[label]
    rows = len(table)
    clear = long >= 15 and long >= 2 * short and text_distinct > rows / 2 and label_distinct <= max(2, rows / 5)
    chosen = {"text": text, "label": label}[role.name]
    return chosen if clear and chosen not in mapping.values() else None


def _spread(table: Table, column: str) -> tuple[float, int]:
    """Mean length in characters (0 where a value is no text or number) and number of distinct values."""
    values = [value for value in table.columns[column] if value is not None]
    if not values or not all(isinstance(value, (str, int, float)) for value in values):
        return 0.0, 0
    return sum(len(str(value)) for value in values) / len(values), len(set(values))


def _nothing_fits(table: Table, role: Role) -> str:
    message = (
        f"{table.source}: no column is clearly the {role.name} ({role.help}); its columns: {_listed(table)}. "
        f"Set data.columns.{role.name}=<column>"
    )
    if any(len(name) > 40 or name.strip().isdigit() for name in table.columns):
        message += ". The first line looks like a row: the file needs a header line with the names of the columns"
    return message


def _closest(name: str, names: Sequence[str]) -> str:
    by_plain = {plain_name(other): other for other in names}
    close = difflib.get_close_matches(plain_name(name), by_plain, n=1, cutoff=0.6)
    return f" (did you mean {by_plain[close[0]]!r}?)" if close else ""


def _listed(table: Table, most: int = 20) -> str:
    names = [repr(name if len(name) <= 40 else name[:39] + "…") for name in table.columns]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
