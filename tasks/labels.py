"""What the label columns of a classification file mean: kinds, names and their order, rows -> targets."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from modernbert.errors import ConfigError, DataError

Kind = Literal["binary", "multiclass", "multilabel", "ordinal", "regression"]
KINDS = ("binary", "multiclass", "multilabel", "ordinal", "regression")
#: More classes than this per 100 rows looks like free text or an id in place of a label.
MAX_CLASSES_PER_ROW = 0.5


@dataclass(frozen=True)
class Labels:
    """Kind and names of the labels; `names` is empty for regression and ascending for ordinal.

    `separator` parts several labels in one cell; `columns` names the 0/1 columns of a multi-label file that has
    one column a label. `mean` and `std` are those of the training values of a regression: the head learns
    standardised values, so that one learning rate fits every scale.
    """

    kind: Kind
    names: tuple[str, ...] = ()
    separator: str = ";"
    columns: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @property
    def outputs(self) -> int:
        """Size of the head's last layer; ordinal has one output for each step between two levels."""
        if self.kind == "regression":
            return 1
        return len(self.names) - 1 if self.kind == "ordinal" else len(self.names)

    def parse(self, cell: Any) -> Any:
        """One cell as this kind reads it: a name, a tuple of names, or a number."""
        if self.kind == "multilabel":
            return split_cell(cell, self.separator)
        return to_number(cell) if self.kind == "regression" else to_name(cell)

    def targets(self, cells: Sequence[Any]) -> np.ndarray:
        """Cells -> (N,) int64 classes or levels, (N, L) float32 multi-hot, or (N,) float32 standardised values.

        Raises:
            DataError: for a label that training did not know (the doctor names the rows before this).
        """
        parsed = [self.parse(cell) for cell in cells]
        if self.kind == "regression":
            return ((np.asarray(parsed, dtype=np.float64) - self.mean) / self.std).astype(np.float32)
        index = {name: i for i, name in enumerate(self.names)}
        unknown = {n for p in parsed for n in (p if isinstance(p, tuple) else (p,))} - set(index)
        if unknown:
            raise DataError(f"labels {sorted(unknown)[:5]} are not among the {len(self.names)} of training.")
        if self.kind == "multilabel":
            hot = np.zeros((len(parsed), len(self.names)), dtype=np.float32)
            for row, names in enumerate(parsed):
                hot[row, [index[n] for n in names]] = 1.0
            return hot
        return np.asarray([index[n] for n in parsed], dtype=np.int64)


def to_name(cell: Any) -> str:
    """A label's name: without surrounding space; True/False and whole floats as a person writes them."""
    if isinstance(cell, float) and cell.is_integer():
        cell = int(cell)
    return str(cell).strip()


def to_number(cell: Any) -> float:
    """A number, or NaN where the cell is not one (the doctor lists those)."""
    try:
        return float(str(cell).strip().replace(",", ".")) if cell is not None else math.nan
    except ValueError:
        return math.nan


def split_cell(cell: Any, separator: str) -> tuple[str, ...]:
    """Several labels of one cell: a list, or text parted by the separator; an empty cell has none."""
    if cell is None:
        return ()
    parts = cell if isinstance(cell, (list, tuple)) else str(cell).split(separator)
    return tuple(dict.fromkeys(name for part in parts if (name := to_name(part))))


def merge_columns(columns: Sequence[Sequence[Any]], names: Sequence[str]) -> list[tuple[str, ...]]:
    """One 0/1 column a label -> a list of names a row."""
    return [tuple(n for n, value in zip(names, row, strict=True) if is_on(value)) for row in zip(*columns, strict=True)]


ON = frozenset({"1", "1.0", "true", "yes", "y", "x"})
OFF = frozenset({"", "0", "0.0", "false", "no", "n", "-", "none"})


def is_on(value: Any) -> bool:
    """Whether a cell of a 0/1 column says yes; `is_switch` tells whether it says anything."""
    return str(value).strip().lower() in ON


def is_switch(value: Any) -> bool:
    """Whether a cell of a 0/1 column is one of the words for yes or no; an empty one is no."""
    return value is None or str(value).strip().lower() in ON | OFF


def fit_labels(cells: Sequence[Any], kind: str, separator: str = ";", columns: Sequence[str] = ()) -> Labels:
    """Decide the kind (unless it is given) and the names, from the training rows alone.

    auto: lists, or cells parted by the separator whose parts come back, are multi-label; numbers with
    decimals are a regression; two names are binary, more are multi-class. Whole numbers stay classes: stars
    from 1 to 5 are levels only where task.kind=ordinal says so.

    Raises:
        ConfigError: unknown kind, or one that the cells do not fit.
        DataError: a single class, or nearly as many classes as rows.
    """
    if kind != "auto" and kind not in KINDS:
        raise ConfigError(f"task.kind={kind}: allowed is auto, {', '.join(KINDS)}.")
    cells = [cell for cell in cells if cell is not None]
    if not cells and not columns:
        raise DataError("The label column is empty in every row.")
    chosen = guess_kind(cells, separator) if kind == "auto" else kind
    if columns or chosen == "multilabel":
        found = sorted({n for c in cells for n in split_cell(c, separator)}, key=natural)
        return Labels("multilabel", tuple(columns) or tuple(found), separator, tuple(columns))
    if chosen == "regression":
        values = np.asarray([v for c in cells if not math.isnan(v := to_number(c))])
        if not len(values):
            raise ConfigError("task.kind=regression, but no label is a number.")
        return Labels("regression", mean=float(values.mean()), std=float(values.std()) or 1.0)
    counts = Counter(to_name(cell) for cell in cells)
    refuse_class_counts(counts, len(cells), chosen)
    names = tuple(sorted(counts, key=natural))
    if chosen == "ordinal":
        return Labels("ordinal", names)
    return Labels("multiclass" if len(names) > 2 else "binary", names)


def guess_kind(cells: Sequence[Any], separator: str) -> Kind:
    """The kind that the cells of the training rows look like."""
    if any(isinstance(cell, (list, tuple)) for cell in cells):
        return "multilabel"
    names = [to_name(cell) for cell in cells]
    several = [split_cell(name, separator) for name in names if separator in name]
    if several:
        alone = {name for name in names if separator not in name}
        repeated = Counter(part for parts in several for part in parts)
        if all(part in alone or repeated[part] > 1 for part in repeated):
            return "multilabel"
    numbers = [to_number(name) for name in names]
    if not any(math.isnan(n) for n in numbers) and any(not n.is_integer() for n in numbers):
        return "regression"
    return "binary" if len(set(names)) == 2 else "multiclass"


def refuse_class_counts(counts: Counter[str], rows: int, kind: str) -> None:
    """One class teaches nothing; nearly as many classes as rows is a wrong column."""
    if len(counts) < 2:
        raise DataError(
            f"Every row has the label {next(iter(counts))!r}: a classifier needs at least two. "
            "Is data.columns.label the right column?"
        )
    if rows >= 50 and len(counts) > MAX_CLASSES_PER_ROW * rows:
        raise DataError(
            f"{len(counts)} different labels in {rows} rows look like text or ids. Choose another "
            "data.columns.label, or task.kind=regression for numbers."
        )
    if kind == "binary" and len(counts) != 2:
        raise ConfigError(f"task.kind=binary, but there are {len(counts)} labels: {sorted(counts)[:6]}.")


def natural(name: str) -> tuple[int, float, str]:
    """Numbers by value before names by letter, so that 10 comes after 9."""
    number = to_number(name)
    return (1, 0.0, name) if math.isnan(number) else (0, number, name)
