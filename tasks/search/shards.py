"""A piece of an index on disk: a folder with the vectors of some documents, their ids and their texts.

It is written beside and renamed, so a shard that has its name is whole.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from modernbert.errors import DataError
from tasks.search.meta import Borders
from tasks.vectors import Vectors

VECTORS, DOCUMENTS = "vectors.safetensors", "documents.parquet"


def write_shard(
    folder: Path, ids: Sequence[str], texts: Sequence[str], vectors: Vectors, borders: Borders | None = None
) -> None:
    """Write a shard as `folder`; one that is there under this name is replaced."""
    beside = folder.with_name(folder.name + ".part")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    save_file(tensors_of(vectors), beside / VECTORS)
    columns = {"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())}
    if borders is not None:
        columns["borders"] = pa.array(borders, pa.list_(pa.int64()))
    pq.write_table(pa.table(columns), beside / DOCUMENTS)
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def read_vectors(folder: Path, kind: str, dimension: int) -> Vectors:
    """The vectors of a shard.

    Raises:
        DataError: the file is not there, cut off or not one of ours.
    """
    try:
        return vectors_of(load_file(folder / VECTORS), kind, dimension)
    except (OSError, KeyError, RuntimeError, SafetensorError) as error:
        raise DataError(f"{folder / VECTORS} cannot be read ({error}): build the index anew.") from error


def read_documents(folder: Path, columns: Sequence[str] = ("id", "text")) -> list[list[Any]]:
    """The ids and texts of a shard, or one of them, or the borders of passages.

    Raises:
        DataError: the file is not there or cut off.
    """
    try:
        table = pq.read_table(folder / DOCUMENTS, columns=list(columns))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{folder / DOCUMENTS} cannot be read ({error}): build the index anew.") from error
    return [table.column(name).to_pylist() for name in columns]


def tensors_of(vectors: Vectors) -> dict[str, Tensor]:
    """Plain tensors, as safetensors keeps them; sparse ones in CSR form."""
    stored = vectors.to("cpu").stored()
    if stored.is_csr:
        values = stored.values
        return {"crow": values.crow_indices(), "columns": values.col_indices(), "weights": values.values()}
    found = {"values": stored.values.contiguous()}
    return found if stored.cu_seqlens is None else found | {"cu_seqlens": stored.cu_seqlens}


def vectors_of(tensors: dict[str, Tensor], kind: str, dimension: int) -> Vectors:
    """What `tensors_of` was given."""
    if kind == "sparse":
        crow = tensors["crow"]
        size = (len(crow) - 1, dimension)
        # Checked, as a place outside of the tensor would be read as it is.
        values = torch.sparse_csr_tensor(crow, tensors["columns"], tensors["weights"], size, check_invariants=True)
        return Vectors("sparse", values)
    return Vectors(kind, tensors["values"], tensors.get("cu_seqlens"))  # type: ignore[arg-type]
