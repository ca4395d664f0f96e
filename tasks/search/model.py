"""Which model encodes: a saved run, or an encoder as it was published; and how an index remembers it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modernbert.errors import ConfigError
from tasks.embedding import Embedder
from tasks.run import Run, read_info

INDEXES = "indexes"


def open_embedder(
    run: str | None, encoder: Mapping[str, Any], device: str, precision: str = "auto"
) -> tuple[Embedder, dict[str, Any]]:
    """The model of `run`, or of `encoder` (arguments of `Embedder.from_encoder`), and how to open it again.

    Raises:
        ConfigError: neither or both are given, or the run is not one of retrieval.
    """
    given = {key: value for key, value in encoder.items() if value is not None}
    if run is not None and given:
        raise ConfigError(f"run={run} and encoder.{next(iter(given))}: a run brings its encoder; give one of the two.")
    if run is not None:
        return embedder_of_run(run, device, precision), {"run": str(Path(run).resolve()), "precision": precision}
    if "source" not in given:
        raise ConfigError("which model? Give run=<folder of a retrieval run> or encoder.source=<folder or hub name>.")
    found = {"encoder": given, "precision": precision}
    return Embedder.from_encoder(**given, device=device, precision=precision), found


def embedder_of_run(folder: str, device: str, precision: str = "auto") -> Embedder:
    """The model of a saved run of retrieval."""
    run = Run.load(folder, device, precision)
    if run.name != "retrieval":
        raise ConfigError(f"run={folder} is a run of {run.name}: searching needs one of retrieval.")
    return Embedder.from_run(run)


def remembered(model: Mapping[str, Any], index: Path) -> dict[str, Any]:
    """The model as an index keeps it: a run that the index lies in by a relative path, so that they move together."""
    run = Path(model["run"]) if "run" in model else None
    if run is not None and index.resolve().is_relative_to(run):
        return dict(model) | {"run": "/".join([".."] * len(index.resolve().relative_to(run).parts))}
    return dict(model)


def reopen(model: Mapping[str, Any], index: Path, device: str) -> Embedder:
    """The model that an index remembers.

    Raises:
        ConfigError: its run is no longer there.
    """
    precision = model["precision"]
    if "encoder" in model:
        return Embedder.from_encoder(**model["encoder"], device=device, precision=precision)
    folder = index.resolve() / model["run"]  # an absolute path stays as it is
    if not folder.is_dir():
        raise ConfigError(f"index={index} was made by run={folder}, which is not there now: give run=<its new place>.")
    return embedder_of_run(str(folder.resolve()), device, precision)


def index_of_run(run: str) -> Path:
    """The one index in a run's folder.

    Raises:
        ConfigError: there is none, or there are several.
    """
    found = sorted(path.parent for path in Path(run).glob(f"{INDEXES}/*/meta.json"))
    if len(found) == 1:
        return found[0]
    if not found:
        read_info(Path(run))  # whether there is such a run at all
        raise ConfigError(f"run={run} has no index yet: modernbert index run={run} corpus=<documents>, or give index=.")
    raise ConfigError(f"run={run} has {len(found)} indexes: give index= {' or '.join(map(str, found))}.")
