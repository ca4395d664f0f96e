"""The state of a training as one safetensors file: tensors, and around them plain values as JSON in its header.

No pickle: what such a file can hold is numbers, text, lists, tuples and dicts of them, so reading one from a stranger
runs nothing. A file is written beside its place, hashed and renamed; its SHA-256 lies beside it, as sha256sum reads it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from modernbert.errors import ModernBertError

#: Version of the layout below; a reader refuses another one.
FORMAT = "1"
SUFFIX = ".safetensors"
PLAIN = (type(None), bool, int, float, str)


class StateError(ModernBertError):
    """A state that cannot be written in this format, or a file that is not one, or is damaged."""


def write(path: Path, state: Mapping[str, Any], about: Mapping[str, Any] | None = None) -> None:
    """Write a state, complete or not at all; the file there before stays until the new one is whole.

    Args:
        path: ends in .safetensors; its folder is made. The SHA-256 goes to the same name with .sha256 behind it.
        state: nested dicts, lists and tuples of tensors and plain values.
        about: plain values that `read_about` gives without reading the tensors.

    Raises:
        StateError: a value of another kind.
        OSError: the disk is full, or not to be written; nothing is left of the attempt.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = _Tensors()
    tree = json.dumps(_encode(dict(state), tensors, "state"))
    header = {"format": FORMAT, "about": json.dumps(dict(about or {})), "tree": tree}
    beside = path.with_name(path.name + ".part")
    try:
        try:
            save_file(tensors.by_name, beside, metadata=header)
        except SafetensorError as error:  # how its own writer tells of a full disk
            raise OSError(_errno(error), f"cannot be written: {error}", str(path)) from error
        _sync(beside)
        note = checksum_path(path)
        note_beside = note.with_name(note.name + ".part")
        note_beside.write_text(f"{_digest(beside)}  {path.name}\n", encoding="utf-8")
        _sync(note_beside)
        # The checksum first: a state without one counts as torn, one with an older file's does not match it.
        note_beside.replace(note)
        beside.replace(path)
        _sync(path.parent)
    finally:
        for left in (beside, checksum_path(path).with_name(checksum_path(path).name + ".part")):
            left.unlink(missing_ok=True)


def read(path: Path) -> dict[str, Any]:
    """The state in a file, its tensors on the CPU.

    Raises:
        StateError: the file is not one of `write`, or of another version.
    """
    header = _header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        state: dict[str, Any] = _decode(json.loads(header["tree"]), tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StateError(f"{path} is not a state of a training, or is damaged: {error!r}") from error
    return state


def read_about(path: Path) -> dict[str, Any]:
    """What `write` was told about the state; the tensors are not read."""
    about: dict[str, Any] = json.loads(_header(path)["about"])
    return about


def remove(path: Path) -> None:
    """The file and its checksum, where they are."""
    path.unlink(missing_ok=True)
    checksum_path(path).unlink(missing_ok=True)


def checksum_path(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def torn(path: Path) -> str | None:
    """Why a file is not the one that was written, in words; None if it is."""
    note = checksum_path(path)
    if not path.is_file():
        return "it is not there"
    if not note.is_file():
        return f"{note.name} is not there"
    stated = note.read_text(encoding="utf-8", errors="replace").split(" ")[0]
    found = _digest(path)
    return None if found == stated else f"its SHA-256 is {found[:12]}…, {note.name} says {stated[:12]}…"


def _header(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise StateError(f"{path} cannot be read: {error}") from error
    if header.get("format") != FORMAT or not {"about", "tree"} <= header.keys():
        raise StateError(f"{path} is not a state of a training, or of another version (format {header.get('format')})")
    return header


class _Tensors:
    """The tensors of a state, numbered in order of meeting."""

    def __init__(self) -> None:
        self.by_name: dict[str, Tensor] = {}
        self.storages: set[int] = set()

    def add(self, value: Tensor) -> str:
        """Its name; one that shares memory with another (tied weights) is copied, as safetensors refuses those."""
        value = value.detach().cpu().contiguous()
        storage = value.untyped_storage()
        if storage.data_ptr() in self.storages or storage.nbytes() != value.numel() * value.element_size():
            value = value.clone()
        self.storages.add(value.untyped_storage().data_ptr())
        name = str(len(self.by_name))
        self.by_name[name] = value
        return name


def _encode(value: Any, tensors: _Tensors, place: str) -> Any:
    """`value` as JSON: a list stands for itself, any other structure is an object of one key that names it."""
    if isinstance(value, Tensor):
        return {"tensor": tensors.add(value)}
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                raise StateError(f"{place} has the key {key!r}: a state has text and whole numbers as keys")
        return {"dict": [[key, _encode(item, tensors, f"{place}.{key}")] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [_encode(item, tensors, f"{place}[{i}]") for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    raise StateError(
        f"{place} is a {type(value).__name__}: a state holds tensors, numbers, text, lists, tuples and dicts, "
        "nothing that needs pickle"
    )


def _decode(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(item, tensors) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, held),) = value.items()
    if kind == "tensor":
        return tensors[held]
    if kind == "tuple":
        return tuple(_decode(item, tensors) for item in held)
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in held}
    raise ValueError(f"unknown kind {kind!r}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    """To the disk itself, so that a rename is never there before what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _errno(error: Exception) -> int | None:
    """The number in "I/O error: No space left on device (os error 28)"."""
    number = str(error).rpartition("os error ")[2].partition(")")[0]
    return int(number) if number.isdigit() else None


def as_tensors(value: Any) -> Any:
    """Dataclasses as dicts, so that a batch of any task can be written."""
    if isinstance(value, (Tensor, *PLAIN)):
        return value
    if hasattr(value, "__dataclass_fields__"):
        return {name: as_tensors(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, Mapping):
        return {key: as_tensors(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_tensors(item) for item in value]
    return torch.as_tensor(value)
