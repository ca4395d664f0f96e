"""Shows what the data doctor found."""

from __future__ import annotations

from rich.text import Text

from app import console
from tasks.data.schema import Report


class Doctor:
    """Prints each warning of a report once; then errors, if there are any, stop the command."""

    def __init__(self) -> None:
        self.shown: set[str] = set()

    def show(self, report: Report) -> None:
        """Print what is new in the report.

        Raises:
            DataError: the report holds errors.
        """
        lines = report.lines("warning")
        for line in lines:
            if line not in self.shown:
                style = "yellow" if line.startswith("warning") else ""
                console.err().print(Text(line, style=style), soft_wrap=True)
        self.shown.update(lines)
        report.raise_if_errors()
