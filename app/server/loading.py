"""What takes seconds: imports of torch and Gradio, weights, the page. Runs in a thread while the server listens."""

from __future__ import annotations

from typing import Any

from app.server.context import Context, Served
from app.server.engines import QueuedRun
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.answers import Label, Span
from tasks.data.module import AUTO_TOKENS
from tasks.embedding import Embedder
from tasks.outputs import output_type
from tasks.reranking import Score
from tasks.run import Run
from tasks.vectors import Embedding
from ui.ports import address

#: What a task gives -> the routes that answer it.
ROUTES: dict[type, tuple[str, ...]] = {
    Label: ("/predict", "/batch"),
    Span: ("/entities", "/batch"),
    Score: ("/rerank", "/batch"),
}
#: Of an embedder, by its kind.
VECTORS = {"dense": "/embed", "multi_vector": "/embed_all", "sparse": "/embed_sparse"}


def load(context: Context) -> None:
    """Load the runs into the context, and let the queue begin.

    Raises:
        ConfigError: a folder that is no run, or a task that no route answers.
    """
    settings = context.settings
    use_threads(settings.threads)
    runs = {name: Run.load(folder, settings.device, settings.precision) for name, folder in settings.runs.items()}
    device = next(iter(runs.values())).task.device.type
    tokens = AUTO_TOKENS[device] if settings.tokens_per_batch == "auto" else settings.tokens_per_batch
    for name, run in runs.items():
        context.runs[name] = serve(name, run, context, tokens)
    if settings.index is not None:
        open_index(context, settings.index)
    context.batcher.start(tokens)


def serve(name: str, run: Run, context: Context, tokens: int) -> Served:
    """A run with its routes.

    Raises:
        ConfigError: a task that no route answers.
    """
    queued, kind = QueuedRun(name, run, context.batcher, tokens), output_type(run.task)
    if kind is Embedding:
        embedder = Embedder.from_run(run)
        return Served(name, queued, (VECTORS[embedder.vector_kind], "/batch"), embedder)
    if kind not in ROUTES:
        raise ConfigError(f"run={run.folder}: no route answers task={run.name}. Use `modernbert predict`.")
    return Served(name, queued, ROUTES[kind])


def open_index(context: Context, folder: str) -> None:
    """Let the retrieval run that made an index answer `/search` with it.

    Raises:
        ConfigError: no index, or none of the runs made it.
    """
    from app.server.searching import Finder

    able = [served for served in context.runs.values() if served.embedder is not None]
    if not able:
        raise ConfigError(f"index={folder}: none of the runs is one of retrieval; add the one that made it to run=.")
    problems: list[ConfigError] = []
    for served in able:
        assert served.embedder is not None
        try:
            context.finder = Finder(folder, served.embedder)
        except ConfigError as problem:
            problems.append(problem)
        else:
            served.routes = ("/search", *served.routes)
            return
    raise problems[0]


def warm_up(context: Context) -> None:
    """The first answer of each run: it allocates, and it is late; better here than for a client."""
    from tasks.data.readers import Table

    for served in context.runs.values():
        columns: dict[str, list[Any]] = {column: ["warm up"] for column in served.run.schema.text_columns()}
        served.run.outputs(Table("warm-up", columns, [1]))


def build_page(context: Context) -> Any:
    """The page of all runs, to be mounted."""
    from ui.mount import mountable

    settings = context.settings
    runs = {name: served.run for name, served in context.runs.items()}
    return mountable(runs, settings.host, settings.port, settings.limits.upload)


def announcement(context: Context) -> str:
    """The line that says where it is."""
    settings = context.settings
    what = " and ".join(map(str, settings.runs.values()))
    verb = "is" if len(settings.runs) == 1 else "are"
    return f"{what} {verb} at {address(settings.host, settings.port)}  (Ctrl-C stops)"
