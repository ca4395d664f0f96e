"""A data set of the Hugging Face hub by the optional package `datasets`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants
from huggingface_hub.errors import HfHubHTTPError

from modernbert.errors import DataError
from tasks.data.readers.parquet import values
from tasks.data.readers.source import HubSet
from tasks.data.readers.table import Table

# The base error of whichever HTTP client this version of huggingface_hub is built on.
HTTP_ERROR: type[Exception] = HfHubHTTPError.__mro__[1]
TIMEOUT = 10  # seconds; datasets itself tries six times, for 24 seconds


def tables(data: HubSet, chunk: int) -> Iterator[Table]:
    """Tables of at most `chunk` rows; numbers of a class column become the names that the set declares."""
    dataset, notes = _load(data)
    classes = {name: feature.names for name, feature in dataset.features.items() if hasattr(feature, "names")}
    notes += [f"column {name!r}: numbers replaced by the class names of the data set" for name in classes]
    arrow = dataset.with_format("arrow")
    for start in range(0, len(dataset), chunk):
        part = arrow[start : start + chunk]
        columns = {name: values(part[name]) for name in part.column_names}
        for name, names in classes.items():
            columns[name] = [None if i is None or i < 0 else names[i] for i in columns[name]]  # -1: unlabelled
        yield Table(data.source, columns, list(range(start + 1, start + 1 + len(part))), list(notes))


def count(data: HubSet) -> int | None:
    """Rows of the split."""
    return len(_load(data)[0])


def _load(data: HubSet) -> tuple[Any, list[str]]:
    """The split and what to tell about it. DataError where it cannot be had."""
    lead = data.source if data.source.startswith("hf:") else f"there is no file {data.source}; as a data set"
    if importlib.util.find_spec("datasets") is None:
        raise DataError(f"{lead}: reading the Hugging Face hub needs pip install 'modernbert[hub]'")
    if not Path(data.name).exists() and not constants.HF_HUB_OFFLINE:
        _look_for(data.name, lead)
    import datasets

    try:
        dataset = datasets.load_dataset(data.name, data.config, split=data.split)
    # What it raises for a config or split that is not there, a damaged file and a download that fails.
    except (OSError, ValueError, RuntimeError, HTTP_ERROR, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        raise DataError(f"{lead}: cannot load {data.name!r}, split {data.split!r}: {reason}") from error
    if not len(dataset):
        raise DataError(f"{data.source}: the split {data.split!r} has no rows")
    return dataset, [f"Hugging Face data set {data.name!r}, split {data.split!r}"]


def _look_for(name: str, lead: str) -> None:
    """DataError at once where the hub is out of reach or has no such data set."""
    try:
        HfApi().dataset_info(name, timeout=TIMEOUT)
    except (HTTP_ERROR, OSError, ValueError) as error:
        if isinstance(error, (HfHubHTTPError, ValueError)):
            reason = "is not on the hub, or needs access: check the name and `hf auth login`"
        else:
            reason = "cannot be looked for, the hub is out of reach: HF_HUB_OFFLINE=1 finds an earlier download"
        raise DataError(f"{lead}: {name!r} {reason}; or name a local file") from error
