"""Shows what the data doctor found."""

from __future__ import annotations

from rich.text import Text

from app import console
from tasks.data.schema import Report


class Doctor:
    """Prints each finding of a report once; errors stop the command, with every warning already shown."""

    def __init__(self) -> None:
        self.shown: set[str] = set()

    def show(self, report: Report) -> None:
        """Print what is new in the report.

        Raises:
            DataError: the report holds errors.
        """
        if not report.errors:
            lines = report.lines()
            for line in lines:
                if line not in self.shown:
                    style = "yellow" if line.startswith("warning") else ""
                    console.err().print(Text(line, style=style), soft_wrap=True)
            self.shown.update(lines)
        report.raise_if_errors()
