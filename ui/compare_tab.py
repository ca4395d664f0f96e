"""The tab of two runs: their answers to the same input side by side, and whether one is better on their test rows."""

from __future__ import annotations

from typing import Any

import gradio as gr

from modernbert.errors import ConfigError
from tasks.answers import Label, Span
from tasks.comparison import compare
from tasks.outputs import output_type
from tasks.run import Run
from tasks.verdict import HEADERS, difference_rows, verdict
from ui.markup import escape, table
from ui.messages import as_message
from ui.rank_tab import HINT, put_in_order, read_lines, require_list
from ui.ranking import sides
from ui.renderers import WAITING, answer_components, frame, renderer_of
from ui.tab import State, Tab
from ui.text_tab import asked_texts, text_names

OWN = "the rows of their training"


class CompareTab(Tab):
    """The chosen run beside another one of its task."""

    title = "Compare"

    def serves(self, run: Run) -> bool:
        return bool(self.others(run))

    def others(self, run: Run) -> list[tuple[str, str]]:
        return self.shelf.choices(run.name, but=self.shelf.name_of(run))

    def state(self, run: Run) -> State:
        others = self.others(run)
        reads = output_type(run.task) in (Label, Span)
        names = text_names(run) if reads else [""]
        evaluations = sorted(path.name for path in (run.folder / "evaluations").glob("*") if path.is_dir())
        return {
            "other": {"choices": others, "value": others[0][1]},
            "first": {"label": names[0] or "Query", "lines": 3 if reads else 1},
            "second": {"visible": len(names) > 1},
            "documents": {"visible": not reads},
            "evaluation": {"choices": [(OWN, ""), *evaluations], "value": "", "visible": bool(evaluations)},
            "answer": {"value": frame(WAITING)},
            "exact": {"value": None},
            "paired": {"value": ""},
        }

    def compose(self, chosen: gr.Dropdown) -> None:
        other = self.part("other", gr.Dropdown, choices=[], value=None, label="Other run", allow_custom_value=True)
        gr.Markdown("### The same input")
        first = self.part("first", gr.Textbox, value="", label="Text", lines=3, max_lines=20)
        second = self.part("second", gr.Textbox, value="", label="Second text", lines=3, max_lines=20, visible=False)
        documents = self.part(
            "documents", gr.Textbox, value="", label="Documents", info=HINT, lines=6, max_lines=30, visible=False
        )
        button = gr.Button("Ask both", variant="primary")
        shown = answer_components()
        self.parts["answer"], self.parts["exact"] = shown
        gr.Markdown(
            "### Their test rows\nIs one better, or can it be chance? Both must have been scored on the same rows."
        )
        evaluation = self.part(
            "evaluation", gr.Dropdown, choices=[(OWN, "")], value="", label="Rows", visible=False,
            allow_custom_value=True,
        )  # fmt: skip
        test = gr.Button("Compare on these rows")
        paired = self.part("paired", gr.HTML, value="", label="Comparison", apply_default_css=False)
        asked = [first, second, documents, other, chosen]
        gr.on([button.click, first.submit], self.both, asked, shown, api_name="both")
        test.click(self.paired, [evaluation, other, chosen], paired, api_name="paired", show_progress_on=paired)

    def both(self, first: str, second: str, documents: str, other: str | None, name: str) -> list[Any]:
        """The answers of both runs, side by side and as numbers."""
        columns, exact = [], {}
        with as_message():
            for each in (name, other):
                run = self.shelf.get(each)
                shown, numbers = self.answered(run, first, second, documents)
                columns.append((each or "", shown))
                exact[each] = numbers
        return [frame(sides(columns)), exact]

    def answered(self, run: Run, first: str, second: str, documents: str) -> list[Any]:
        """One run's answer as its own tab shows it."""
        if output_type(run.task) in (Label, Span):
            texts = asked_texts(run, first, second)
            with self.shelf.lock:
                found = run.answer([texts[0]], texts[1:] or None)[0]
            return renderer_of(run).show(found, *texts)
        given = read_lines(documents)
        require_list(first, given)
        with self.shelf.lock:
            rows = put_in_order(run, first, given)
        return renderer_of(run).show(rows, first)

    def paired(self, evaluation: str | None, other: str | None, name: str) -> str:
        """Differences with intervals and p-values, over the rows that both were scored on."""
        with as_message():
            if other is None or other not in self.shelf.folders:
                raise ConfigError(f"There is no run {other!r} here: choose one of the list.")
            folders = self.shelf.folders[name], self.shelf.folders[other]
            found = compare(*folders, evaluation or None)
        said = escape(verdict(name, other, found))
        headers = ["metric", name, other, *HEADERS]
        note = "Differences are the other run less this one; the interval is the paired bootstrap."
        drawn = table("Comparison", headers, difference_rows(found))
        return frame(f'<p class="verdict small">{said}</p>{drawn}<p class="quiet">{note}</p>')
