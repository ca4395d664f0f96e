"""The tab that puts documents in order for a query: pasted, a line each, or uploaded."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import gradio as gr

from modernbert.errors import DataError
from tasks.data.ranking import Document
from tasks.data.readers import Table
from tasks.embedding import Embedder
from tasks.outputs import output_type
from tasks.reranking import Score
from tasks.run import Run, has_text
from tasks.vectors import similarity
from ui.batch import FILES
from ui.examples import lists_of
from ui.messages import as_message
from ui.ranking import Ranked
from ui.renderers import WAITING, answer_components, frame, renderer_of
from ui.search_tab import documents_of
from ui.tab import State, Tab

#: Documents of one query: a minute of a small cross-encoder on two cores.
MOST = 2000
HINT = "One a line."


class RankTab(Tab):
    """Order documents with runs that score pairs."""

    title = "Order documents"

    def serves(self, run: Run) -> bool:
        return output_type(run.task) is Score

    def state(self, run: Run) -> State:
        samples = lists_of(run)
        return {
            "examples": {"samples": [[query] for query, _ in samples], "visible": bool(samples)},
            "answer": {"value": frame(WAITING)},
            "exact": {"value": None},
        }

    def compose(self, chosen: gr.Dropdown) -> None:
        with gr.Row():
            with gr.Column(min_width=300):
                query = gr.Textbox(value="", label="Query", lines=1, max_lines=4)
                documents = gr.Textbox(value="", label="Documents", info=HINT, lines=8, max_lines=30)
                upload = gr.File(label="Or a table of documents", file_types=FILES, height=140)
                button = gr.Button("Put in order", variant="primary")
            with gr.Column(min_width=300):
                shown = answer_components()
                self.parts["answer"], self.parts["exact"] = shown
        examples = self.part(
            "examples", gr.Dataset, components=["textbox"], label="Queries from the run's own rows", type="index",
            samples=[], visible=False,
        )  # fmt: skip
        asked = [query, documents, upload, chosen]
        gr.on([button.click, query.submit], self.rank, asked, shown, api_name="rank")
        clicked = examples.click(
            self.example, [examples, chosen], [query, documents, upload], api_visibility="private"
        )
        clicked.success(self.rank, asked, shown, api_visibility="private")

    def example(self, number: int, name: str) -> tuple[str, str, None]:
        """The query and the documents of an example that was clicked."""
        with as_message():
            query, documents = lists_of(self.shelf.get(name))[number]
        return query, "\n".join(documents), None

    def rank(self, query: str, documents: str, upload: str | None, name: str) -> list[Any]:
        """The documents in order, as HTML and numbers."""
        with as_message(Path(upload or "")):
            run = self.shelf.get(name)
            given = read_lines(documents)
            if upload is not None:
                given += islice((each for each in documents_of(upload) if has_text(each.full)), MOST + 1)
            require_list(query, given)
            with self.shelf.lock:
                rows = put_in_order(run, query, given)
            return renderer_of(run).show(rows, query)


def read_lines(text: str) -> list[Document]:
    """A document for each line that is not empty, called by its number."""
    lines = (line.strip() for line in text.splitlines())
    return [Document(f"line {number}", "", line) for number, line in enumerate(lines, start=1) if line]


def require_list(query: str, documents: Sequence[Document]) -> None:
    """DataError unless there is a query and a list that is not too long."""
    if not has_text(query):
        raise DataError("The query is empty: say what the documents are for.")
    if not documents:
        raise DataError("There are no documents: paste some, one a line, or upload a table.")
    if len(documents) > MOST:
        raise DataError(f"There are more than {MOST:,} documents: search them with a retrieval run first.")


def put_in_order(run: Run, query: str, documents: Sequence[Document]) -> list[Ranked]:
    """Documents by the score of a reranking run, or by the similarity of a retrieval run's vectors; the best first."""
    texts = [document.full for document in documents]
    if output_type(run.task) is Score:
        table = Table("pairs", {"query": [query] * len(texts), "document": texts}, list(range(1, len(texts) + 1)))
        found = [(score.value, score.cut) for score in run.outputs(table)]
    else:
        embedder = Embedder.from_run(run)
        scores = similarity(embedder.encode([query], "query"), embedder.encode(texts, "document"))[0]
        found = [(score, False) for score in scores.tolist()]
    rows = [
        Ranked(document.id, text, value, cut=cut)
        for document, text, (value, cut) in zip(documents, texts, found, strict=True)
    ]
    return sorted(rows, key=lambda row: -row.score)
