"""Which separator a delimited text uses, told from its header and first records."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass

SEPARATORS = (",", ";", "\t", "|")
NAMES = {",": "','", ";": "';'", "\t": "tab", "|": "'|'"}
# A file of one column has no separator, but csv wants one: NUL, which no file may hold (see encoding.py).
NONE = "\0"


@dataclass(frozen=True)
class Dialect:
    """How records split into cells. `quoted` false: a double quote is a character like any other."""

    separator: str
    quoted: bool = True
    space_after: bool = False  # "a, b": the space belongs to the separator

    @property
    def options(self) -> dict:
        """Arguments of `csv.reader`."""
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return {"delimiter": self.separator, "quoting": quoting, "skipinitialspace": self.space_after}

    @property
    def name(self) -> str:
        """For messages: `separator ';'`."""
        return "one column" if self.separator == NONE else f"separator {NAMES[self.separator]}"

    def notes(self, suffix_separator: str) -> list[str]:
        """What a person should know: anything but what the file's suffix promises."""
        found = [] if self.separator in (suffix_separator, NONE) else [self.name]
        return found + ([] if self.quoted else ["quotes are plain characters"])


def detect_dialect(sample: Sequence[str], suffix_separator: str) -> Dialect:
    """The separator that cuts the header into several cells and the records into as many, best of all.

    `sample` is the first lines of the file, whole. Only the header proposes: a comma in the texts alone is no
    separator. Among proposals the share of records of the header's width decides, then the separator that the
    suffix promises (`,` or tab), then the order of SEPARATORS.
    """
    order = [suffix_separator, *(s for s in SEPARATORS if s != suffix_separator)]
    best, best_score = Dialect(NONE), -1.0
    for separator in order:
        dialect = _with_space(sample, Dialect(separator))
        score = _score(sample, dialect)
        if score > best_score:
            best, best_score = dialect, score
    # Tab-separated files often have plain quotes: where quoting breaks off and every line fits without it.
    plain = Dialect("\t", quoted=False)
    if best.separator == "\t" and _has_stray_quote(sample, best) and _score(sample, plain) == 1.0:
        return plain
    return best


def _with_space(sample: Sequence[str], dialect: Dialect) -> Dialect:
    header = next(csv.reader(sample, **dialect.options), [])
    spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])
    return Dialect(dialect.separator, space_after=spaced)


def _score(sample: Sequence[str], dialect: Dialect) -> float:
    """Share of records as wide as the header; -1 where the header has one cell."""
    records = [cells for cells in csv.reader(sample, **dialect.options) if any(cell.strip() for cell in cells)]
    if not records or len(records[0]) < 2:
        return -1.0
    header, *body = records
    return sum(len(cells) == len(header) for cells in body) / len(body) if body else 1.0


def _has_stray_quote(sample: Sequence[str], dialect: Dialect) -> bool:
    try:
        for _ in csv.reader(sample, strict=True, **dialect.options):
            pass
    except csv.Error:
        return True
    return False
