"""Tasks of MTEB (Muennighoff et al. 2023, arXiv:2210.07316) and with it BEIR, scored with a saved dense run.

The package `mteb` has the tasks, their data and their metrics; ours is the encoding, prompts included. N texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from app import console
from modernbert.errors import BackendError, ConfigError
from tasks.data.readers.hub import HTTP_ERROR
from tasks.embedding import Embedder
from tasks.run import Run, write_json
from tasks.vectors import normalise

FOLDER = "mteb"


class RunEncoder:
    """A saved dense run as MTEB's `EncoderProtocol`.

    Texts that a task calls queries have the run's query prefix and length, all others those of documents.

    Raises:
        ConfigError: a run that gives a text more than one vector, or weights of words.
    """

    def __init__(self, run: Run, tokens_per_batch: int | None = None) -> None:
        from mteb.models import ModelMeta

        self.embedder, self.budget = Embedder.from_run(run), tokens_per_batch
        if self.embedder.vector_kind != "dense":
            raise ConfigError(
                f"mteb needs one vector a text: run={run.folder} is of task.kind={self.embedder.kind}, task.split="
                f"{self.embedder.split}. Give a run of task.kind=dense with task.split=none or one vector a document."
            )
        overwrites = {"name": f"modernbert/{run.folder.resolve().name}", "revision": self.embedder.fingerprint[:12]}
        self.mteb_model_meta = ModelMeta.create_empty(overwrites)

    def encode(self, inputs: Iterable[Any], *, prompt_type: Any = None, **kwargs: Any) -> NDArray[np.float32]:
        """(N, D) vectors of the texts of some batches, in their order."""
        texts = [text for batch in inputs for text in batch["text"]]
        role: Any = "query" if getattr(prompt_type, "value", prompt_type) == "query" else "document"
        parts = self.embedder.stream(texts, role, tokens_per_batch=self.budget)
        return torch.cat([part.values.cpu().float() for part in parts]).numpy()

    def similarity(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """(N, M) cosines."""
        return vectors_of(embeddings1) @ vectors_of(embeddings2).t()

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> torch.Tensor:
        """(N,) cosines of each with the one at its own place."""
        return (vectors_of(embeddings1) * vectors_of(embeddings2)).sum(-1)


def vectors_of(values: Any) -> torch.Tensor:
    return normalise(torch.atleast_2d(torch.as_tensor(values)))


def find_tasks(names: Sequence[str]) -> list[Any]:
    """MTEB's tasks by name.

    Raises:
        BackendError: the package is not there.
        ConfigError: it has no task of a name.
    """
    try:
        import mteb
    except ImportError as error:
        raise BackendError("MTEB is not installed: pip install 'modernbert[mteb]'.") from error
    found = []
    for name in names:
        try:
            found.append(mteb.get_task(name))
        except KeyError as error:
            hint = str(error.args[0]).removeprefix("KeyError: ")
            raise ConfigError(f"mteb=[{name}]: {hint} `mteb available-tasks` lists them.") from error
    return found


def load(task: Any) -> None:
    """The data of a task, from the hub or as they were downloaded before.

    Raises:
        BackendError: they cannot be had.
    """
    name = task.metadata.name
    try:
        task.load_data()
    # What datasets raises for a set that is not there, a download that fails, and a damaged file.
    except (OSError, ValueError, RuntimeError, HTTP_ERROR) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise BackendError(
            f"mteb=[{name}]: its data cannot be loaded ({reason}). Is the hub in reach? With HF_HUB_OFFLINE=1 an "
            "earlier download is found."
        ) from error


def score(run: Run, tasks: Sequence[Any], folder: Path, tokens_per_batch: int | None = None) -> dict[str, float]:
    """Score a run; writes <task>.json with all that MTEB measures and metrics.json with the main score of each task.

    Returns:
        The main scores by task.
    """
    import mteb

    model, found = RunEncoder(run, tokens_per_batch), {}
    folder.mkdir(parents=True, exist_ok=True)
    for task in tasks:
        name = task.metadata.name
        console.note(f"{name}: loading")
        load(task)
        result = mteb.evaluate(model, task, co2_tracker=False, cache=None)  # type: ignore[arg-type]
        result.task_results[0].to_disk(folder / f"{name}.json")
        found[name] = float(result.task_results[0].get_score())
        write_json(folder / "metrics.json", {"test": found})
    return found


def main(run: Run, names: Sequence[str], output: str | None, tokens_per_batch: int | None) -> int:
    """Score a run on tasks by name and show the main scores; returns the exit status."""
    tasks = find_tasks(names)
    folder = Path(output) if output else run.folder / "evaluations" / FOLDER
    found = score(run, tasks, folder, tokens_per_batch)
    rows = [[task.metadata.name, task.metadata.main_score, f"{found[task.metadata.name]:.4f}"] for task in tasks]
    console.out().print(console.table(["task", "metric", "score"], rows, right=["score"]))
    console.out().print(f"all of it is in {folder}", soft_wrap=True)
    return 0
