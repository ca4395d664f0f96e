"""The tab that searches documents: index a file with progress, ask, and on request let a second run order the hits."""

from __future__ import annotations

import shutil
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from modernbert.errors import ConfigError, DataError
from tasks.answers import Hit, plain_hit
from tasks.data import readers
from tasks.data.ranking import Document
from tasks.data.ranking.corpus import read_corpus
from tasks.embedding import Embedder
from tasks.outputs import output_type
from tasks.run import Run, has_text
from tasks.search.heat import heat_map
from tasks.search.index import Index, choose_engine, is_index
from tasks.search.model import INDEXES
from tasks.search.passage import matching_passages
from tasks.search.rerank import Reranker
from tasks.search.searcher import Searcher
from tasks.vectors import Embedding
from ui.batch import FILES, PROGRESS, counted
from ui.examples import queries_of
from ui.messages import as_message
from ui.ranking import Ranked, place_of, ranking, sides
from ui.renderers import WAITING, answer_components, frame
from ui.tab import State, Tab
from ui.uploads import UPLOADS
from ui.work import Work

MODES = [("by meaning", "dense"), ("by words", "text"), ("by both", "hybrid")]
#: Hits that a second run orders anew: an answer within seconds on two cores.
RERANKED = 50
#: Indexes of saved runs that stay open.
OPEN = 4
NO_DOCUMENTS = "Upload a table with a text column (and id and title, where there are), then make it searchable."


@dataclass(frozen=True)
class Uploaded:
    """What one visitor made searchable: with which run, under which name, where."""

    run: str
    name: str
    searcher: Searcher

    @property
    def folder(self) -> Path:
        return self.searcher.index.folder


def forget(held: Uploaded | None) -> None:
    """Delete what a visitor uploaded."""
    if held is not None:
        shutil.rmtree(held.folder, ignore_errors=True)


class SearchTab(Tab):
    """Search with runs that give vectors."""

    title = "Search"

    def __init__(self, shelf: Any) -> None:
        super().__init__(shelf)
        self.open: OrderedDict[tuple[str, str], Searcher] = OrderedDict()

    def serves(self, run: Run) -> bool:
        return output_type(run.task) is Embedding

    def state(self, run: Run) -> State:
        saved, queries = saved_indexes(run), queries_of(run)
        rerankers = self.shelf.choices("reranking")
        return {
            "documents": {"choices": saved, "value": saved[0] if saved else None},
            "told": {"value": "" if saved else NO_DOCUMENTS},
            "reranker": {"choices": [("no", ""), *rerankers], "value": "", "visible": bool(rerankers)},
            "examples": {"samples": [[query] for query in queries], "visible": bool(queries)},
            "answer": {"value": frame(WAITING)},
            "exact": {"value": None},
        }

    def compose(self, chosen: gr.Dropdown) -> None:
        own = gr.State(None, delete_callback=forget)
        with gr.Row():
            with gr.Column(min_width=300):
                documents = self.part(
                    "documents", gr.Dropdown, choices=[], value=None, label="Documents", allow_custom_value=True,
                    info="What was indexed for this run, or what you upload.",
                )  # fmt: skip
            with gr.Column(min_width=300):
                upload = gr.File(label="Documents to search", file_types=FILES, height=140)
                with gr.Row():
                    start = gr.Button("Make searchable")
                    stop = gr.Button("Stop", visible=False, variant="stop")
        told = self.part("told", gr.Markdown, value="", elem_id="indexed")
        query = gr.Textbox(value="", label="Query", info="Enter searches.", lines=1, max_lines=1)
        with gr.Row():
            mode = gr.Radio(MODES, value="dense", label="Search", min_width=280)
            k = gr.Slider(1, 50, value=10, step=1, label="Hits", min_width=160)
            reranker = self.part(
                "reranker", gr.Dropdown, choices=[("no", "")], value="", label="Order anew by", visible=False,
                info=f"A second run looks at the {RERANKED} best.", allow_custom_value=True, min_width=200,
            )  # fmt: skip
        button = gr.Button("Search", variant="primary")
        examples = self.part(
            "examples", gr.Dataset, components=["textbox"], label="Queries from the run's own rows", samples=[],
            visible=False,
        )  # fmt: skip
        shown = answer_components()
        self.parts["answer"], self.parts["exact"] = shown

        indexing = start.click(
            self.index, [upload, chosen, own], [told, documents, own, stop], api_name="index", show_progress_on=told
        )
        indexing.failure(lambda: gr.update(visible=False), None, stop, api_visibility="private")
        stop.click(self.stopped, None, [told, stop], cancels=[indexing], api_visibility="private")
        asked = [query, mode, k, reranker, documents, own, chosen]
        gr.on([button.click, query.submit], self.search, asked, shown, api_name="search")
        clicked = examples.click(lambda sample: sample[0], examples, query, api_visibility="private")
        clicked.success(self.search, asked, shown, api_visibility="private")

    @staticmethod
    def stopped() -> tuple[str, Any]:
        return "Stopped; nothing was kept.", gr.update(visible=False)

    # -- documents -----------------------------------------------------------------------------------------

    def index(
        self, upload: str | None, name: str, own: Uploaded | None, progress: gr.Progress = PROGRESS
    ) -> Iterator[list[Any]]:
        """Make an uploaded table searchable for this visitor."""
        path = Path(upload or "")
        with as_message(path):
            if upload is None:
                raise DataError("There are no documents yet: upload a table.")
            run = self.shelf.get(name)
            total, folder = readers.count(upload), UPLOADS.new_folder("index")
            embedder, whole = Embedder.from_run(run), False
            try:
                engine, note = choose_engine("auto", total, embedder.vector_kind)
                model = {"run": str(run.folder.resolve())}
                index = Index.create(folder, engine, embedder, model, path.name)
                # Not under the lock: a query would wait for the whole corpus.
                work = Work(lambda advance: index.add(documents_of(upload), embedder, advance=advance))
                with closing(iter(work)) as steps:
                    for done in steps:
                        progress((done, total), desc="Indexing", unit="documents")
                        told = f"{counted(done, 'document')} of {path.name} encoded …"
                        yield [told, gr.update(), None, gr.update(visible=True)]
                whole = True
            finally:
                if not whole:
                    shutil.rmtree(folder, ignore_errors=True)
            forget(own)
            label = f"{path.name} (uploaded)"
            held = Uploaded(name, label, Searcher(index, embedder))
            choices = gr.update(choices=[*saved_indexes(run), label], value=label)
            told = f"**{counted(len(index), 'document')} of {path.name} can be searched.** {note or ''}"
            yield [told, choices, held, gr.update(visible=False)]

    def searcher(self, run: Run, name: str, documents: str | None, own: Uploaded | None) -> Searcher:
        """An index of the run, or what the visitor uploaded.

        Raises:
            ConfigError: neither is there.
        """
        if own is not None and own.name == documents:
            if own.run != name:
                raise ConfigError(f"{own.name} was made searchable for {own.run}: make it searchable for {name} too.")
            return own.searcher
        if not documents or documents not in saved_indexes(run):
            raise ConfigError("There are no documents yet: upload a table and make it searchable.")
        key = (name, documents)
        if key not in self.open:
            self.open[key] = Searcher(Index.open(run.folder / INDEXES / documents), Embedder.from_run(run))
        self.open.move_to_end(key)
        while len(self.open) > OPEN:
            self.open.popitem(last=False)
        return self.open[key]

    # -- searching -----------------------------------------------------------------------------------------

    def search(
        self,
        query: str,
        mode: str,
        k: int,
        reranker: str | None,
        documents: str | None,
        own: Uploaded | None,
        name: str,
    ) -> list[Any]:
        """The hits as HTML, with those of a second run beside them; and their exact numbers."""
        with as_message():
            if not has_text(query):
                raise DataError("The query is empty: say what to look for.")
            run = self.shelf.get(name)
            second = Reranker(self.shelf.get(reranker)) if reranker else None
            with self.shelf.lock:
                searcher = self.searcher(run, name, documents, own)
                (found,) = searcher.search([query], max(k, RERANKED) if second else k, mode)
                columns = [("As found", found[:k])]
                if second is not None:
                    columns.append((f"Ordered anew by {reranker}", second(query, found[:RERANKED])[:k]))
                embedder = None if mode == "text" else searcher.embedder
                details = described(query, [hit for _, hits in columns for hit in hits], embedder)
        ranks = {hit.id: rank for rank, hit in enumerate(found, start=1)}
        shown, exact = [], {}
        for number, (title, hits) in enumerate(columns):
            rows = [
                Ranked(hit.id, hit.text, hit.score, *details[hit.id], before=ranks[hit.id] if number else None)
                for hit in hits
            ]
            probability = number == 1 and second is not None and second.run.task.probability  # type: ignore[union-attr]
            shown.append((title, ranking(rows, f"{title}: {query}", bool(probability))))
            exact["reranked" if number else "hits"] = [plain_hit(hit) for hit in hits]
        return [frame(sides(shown) if len(shown) > 1 else shown[0][1]), exact]


def described(query: str, hits: Sequence[Hit], embedder: Embedder | None) -> Mapping[str, tuple[Any, Any]]:
    """Of each document the place of the matching passage and, with late interaction, the warmth of its words."""
    late = embedder if embedder is not None and embedder.kind == "multi_vector" else None
    if all(hit.start is not None for hit in hits):  # documents are split, and what answers is known
        spans = {hit.id: (hit.text, (hit.start or 0, hit.end or 0)) for hit in hits}
        return {
            name: (span, heat_map(late, query, text, span) if late else None) for name, (text, span) in spans.items()
        }
    texts = {hit.id: hit.text for hit in hits}
    passages = matching_passages(query, list(texts.values()), embedder)
    return {
        name: (place_of(text, passage), heat_map(late, query, text) if late else None)
        for (name, text), passage in zip(texts.items(), passages, strict=True)
    }


def saved_indexes(run: Run) -> list[str]:
    """Names of the indexes in a run's folder."""
    return sorted(path.name for path in (run.folder / INDEXES).glob("*") if is_index(path))


def documents_of(source: str) -> Iterator[Document]:
    """The documents of a table, as they are read."""
    for table in read_corpus(source):
        yield from map(Document, table.columns["id"], table.columns["title"], table.columns["text"])
