"""Collects the rows of a file that cannot be read, so that one error lists the first of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from modernbert.errors import DataError

LISTED = 10


@dataclass
class Malformed:
    """Bad rows of one file. Iteration over the file goes on after one, to list its fellows."""

    source: str
    listed: list[str] = field(default_factory=list)
    count: int = 0

    def add(self, what: str) -> None:
        """`what` begins with where: `line 12: …`."""
        self.count += 1
        if self.count <= LISTED:
            self.listed.append(what)

    def raise_if_any(self, mend: str) -> None:
        """DataError with the first rows, the count of the rest and the mend."""
        if not self.count:
            return
        rows = "1 row" if self.count == 1 else f"{self.count} rows"
        rest = [f"and {self.count - LISTED} more"] if self.count > LISTED else []
        lines = "\n  ".join([*self.listed, *rest])
        raise DataError(f"{self.source}: {rows} cannot be read\n  {lines}\n{mend}.")
