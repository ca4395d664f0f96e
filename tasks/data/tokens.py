"""Token ids of many examples as flat arrays, and the Arrow file that keeps them between runs.

Dimensions: N examples, T tokens.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

log = logging.getLogger(__name__)

# Raise it when the same texts would give other ids or another file: old caches are then not found again.
VERSION = 1


@dataclass(frozen=True)
class Tokens:
    """Token ids of N examples, end to end: example i is `input_ids[offsets[i]:offsets[i + 1]]`.

    The arrays may be read-only views of a memory-mapped file.
    """

    input_ids: npt.NDArray[np.int32]  # (T,)
    offsets: npt.NDArray[np.int64]  # (N+1,)
    segments: npt.NDArray[np.uint8] | None  # (T,) BERT segments of pairs; None means all zero
    full_lengths: npt.NDArray[np.int32]  # (N,) tokens of each example before truncation

    def __len__(self) -> int:
        return len(self.full_lengths)

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(N,) tokens of each example, special ones included."""
        return np.diff(self.offsets).astype(np.int32)

    @property
    def cut(self) -> int:
        """How many examples were truncated."""
        return int((self.full_lengths > self.lengths).sum())

    @property
    def tokens_cut(self) -> int:
        """How many tokens truncation left out."""
        return int(self.full_lengths.sum(dtype=np.int64)) - len(self.input_ids)


def cache_key(tokenizer_json: str, columns: Sequence[Sequence[str]], settings: Sequence[object]) -> str:
    """The name under which tokens are kept: a hash of everything that decides them."""
    digest = hashlib.blake2b(digest_size=16)
    head = f"{VERSION} {list(settings)} {[len(column) for column in columns]} {len(tokenizer_json)} "
    digest.update((head + tokenizer_json).encode())
    for column in columns:
        for text in column:
            data = text.encode()
            digest.update(len(data).to_bytes(8, "little"))  # else ["ab", "c"] and ["a", "bc"] were one
            digest.update(data)
    return digest.hexdigest()


def save_tokens(cache_dir: Path, key: str, tokens: Tokens) -> None:
    """Write the cache file beside its place and rename it, so that no reader ever sees half of one.

    A folder that cannot be written is reported and costs only the time of the next run.
    """
    arrays = {"input_ids": _lists(tokens, tokens.input_ids), "full_length": pa.array(tokens.full_lengths)}
    if tokens.segments is not None:
        arrays["segments"] = _lists(tokens, tokens.segments)
    table = pa.table(arrays).replace_schema_metadata({"crc32": str(_checksum(tokens))})
    partial = cache_dir / f"{key}.{os.getpid()}.partial"
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        os.replace(partial, _place(cache_dir, key))
    except OSError as error:
        with suppress(OSError):  # the reason is in the notice below
            partial.unlink()
        log.warning("tokens are not kept for the next run: %s", error)


def load_tokens(cache_dir: Path, key: str) -> Tokens | None:
    """The tokens kept under `key`, memory-mapped; None if there are none or, with a notice, damaged ones."""
    place = _place(cache_dir, key)
    if not place.exists():
        return None
    try:
        return _read(place)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        log.warning("%s is damaged (%s): tokenising again", place, error)
        return None


def _read(place: Path) -> Tokens:
    table = pa.ipc.open_file(pa.memory_map(str(place))).read_all()
    columns = {name: table.column(name).combine_chunks() for name in table.column_names}
    ids = columns["input_ids"]
    tokens = Tokens(
        input_ids=ids.values.to_numpy(),
        offsets=ids.offsets.to_numpy(),
        segments=columns["segments"].values.to_numpy() if "segments" in columns else None,
        full_lengths=columns["full_length"].to_numpy(),
    )
    if _checksum(tokens) != int(table.schema.metadata[b"crc32"]):
        raise ValueError("its checksum differs")
    return tokens


def _place(cache_dir: Path, key: str) -> Path:
    return cache_dir / f"{key}.arrow"


def _lists(tokens: Tokens, values: npt.NDArray[np.int32] | npt.NDArray[np.uint8]) -> pa.LargeListArray:
    """One list an example: any Arrow reader shows the file as a table of N rows."""
    return pa.LargeListArray.from_arrays(pa.array(tokens.offsets), pa.array(values))


def _checksum(tokens: Tokens) -> int:
    total = 0
    for array in (tokens.input_ids, tokens.offsets, tokens.segments, tokens.full_lengths):
        if array is not None:
            total = zlib.crc32(array.data, total)
    return total
