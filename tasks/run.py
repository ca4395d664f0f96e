"""A saved run: a folder that can be moved, predicted from and loaded by other software. What app and ui share."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from modernbert import weights
from modernbert.errors import ConfigError
from modernbert.hardware import bf16_pays
from modernbert.int8 import quantise_linears
from tasks.base import Task
from tasks.data.examples import Batch
from tasks.data.module import AUTO_TOKENS
from tasks.data.readers import Table
from tasks.data.sampler import inference_batches
from tasks.data.tokenise import load_tokenizer

#: Version of task.json; a reader refuses a higher one.
FORMAT = 1
PACKAGES = ("modernbert", "torch", "lightning", "transformers", "tokenizers")


class Run:
    """A trained task with its tokenizer and what is known about it.

    Args:
        folder: where it was loaded from.
        task: in evaluation mode, on its device.
        info: the contents of task.json.
    """

    def __init__(self, folder: Path, task: Task, tokenizer: Any, info: Mapping[str, Any]) -> None:
        self.folder, self.task, self.tokenizer, self.info = folder, task.eval(), tokenizer, info
        self.schema = task.schema

    @property
    def name(self) -> str:
        return str(self.info["task"])

    @classmethod
    def load(cls, folder: str | Path, device: str = "auto", precision: str = "auto") -> Run:
        """Read a run from its folder alone: nothing outside it is needed, no pickle is opened.

        Args:
            device: auto, cpu, cuda or cuda:<number>.
            precision: of its answers, see `choose_precision`.

        Raises:
            ConfigError: the folder is not a run, or one of a newer version; a device or precision that is not there.
        """
        path = Path(folder)
        info = read_info(path)
        encoder = weights.load_encoder(path / "model")
        with described_by(path):
            target = task_class(info["target"])
            schema = target.schema_type.from_json(info["schema"])
            task = target(encoder=encoder, schema=schema, optim=None, **info["settings"])
        task.load_head(weights.read_tensors(path / "model"), strict=True)
        task.read_modules(path / "model", strict=True)
        with described_by(path):
            task.restore(info["fitted"])
        place(task, device, precision)
        return cls(path, task, load_tokenizer(path / "model"), info)

    def answer(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Any]:
        """One output (Label, …) for each text, in order."""
        columns: dict[str, list] = {self.schema.columns["text"]: list(texts)}
        if pairs is not None and self.schema.columns.get("text_pair"):
            columns[self.schema.columns["text_pair"]] = list(pairs)
        return self.outputs(Table("input", columns, list(range(1, len(texts) + 1)), []))

    def outputs(self, table: Table, tokens_per_batch: int | None = None) -> list[Any]:
        """One output for each row; None for a row without text."""
        texts = [table.columns[column] for column in self.task.text_columns(table)]
        good = [i for i, row in enumerate(zip(*texts, strict=True)) if all(has_text(cell) for cell in row)]
        found: list[Any] = [None] * len(table)
        if good:
            examples = self.schema.examples(table.select(good), self.tokenizer, "predict")
            for batch, outputs in forward(self.task, examples, tokens_per_batch):
                index = batch.index.tolist()
                decoded = self.task.decode(outputs, batch, examples.cut[index].tolist())
                for i, output in zip(index, decoded, strict=True):
                    found[good[i]] = output
        return found

    def column_map(self, table: Table, given: Mapping[str, Any] | None) -> Table:
        """The table with its text columns under the names of training.

        Raises:
            ConfigError: a needed column is not there under its own or the given name.
        """
        renamed = dict(table.columns)
        for role in (role for role in self.schema.roles if self.schema.columns.get(role.name)):
            own = self.schema.columns[role.name]
            source = (given or {}).get(role.name) or own
            for name, wanted in zip(as_list(source), as_list(own), strict=True):
                if name in table.columns:
                    renamed[wanted] = table.columns[name]
                elif role.for_prediction:
                    raise ConfigError(
                        f"{table.source} has no column {name!r}; its columns are "
                        f"{', '.join(map(repr, table.columns))}. Set data.columns.{role.name}=<column>."
                    )
        return dataclasses.replace(table, columns=renamed)


def place(task: Task, device: str, precision: str) -> None:
    """Move a task to where it answers, in the precision asked for (see `choose_device`, `choose_precision`)."""
    task.to(choose_device(device))
    task.autocast = choose_precision(precision, task.device.type)
    if precision == "int8":
        quantise_linears(task.encoder.layers)


def forward(
    task: Task, examples: Any, tokens_per_batch: int | None = None, window: int = 4096
) -> Iterator[tuple[Batch, torch.Tensor]]:
    """Batches with their outputs (fp32), like lengths together inside windows of consecutive examples.

    Under `task.autocast`, as `Run.load` chose it; no gradient is kept.
    """
    device = task.device
    budget = tokens_per_batch or AUTO_TOKENS[device.type]
    task.eval()
    with torch.inference_mode(), torch.autocast(device.type, task.autocast, enabled=task.autocast is not None):
        for indices in inference_batches(examples.lengths, budget, window):
            batch = examples.collate(indices.tolist()).to(device)
            yield batch, task.outputs(batch).float()


def save_run(
    folder: Path,
    task: Task,
    tokenizer_folder: Path,
    settings: Mapping[str, Any],
    facts: Mapping[str, Any],
) -> None:
    """Write `model/` and `task.json`; written beside and renamed, so that a torn run is never taken for whole.

    Args:
        settings: the task's plain keyword arguments.
        facts: where data and base weights came from, seed and so on; stands in task.json as it is.
    """
    model = folder / "model"
    beside = folder / "model.part"
    shutil.rmtree(beside, ignore_errors=True)
    weights.save_checkpoint(beside, task.to_hf(), task.hf_config())
    task.write_modules(beside)
    copy_tokenizer(tokenizer_folder, beside, task.schema.max_length, getattr(task.schema, "long", None))
    shutil.rmtree(model, ignore_errors=True)
    beside.rename(model)
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    info = {
        "format": FORMAT,
        "task": task.name,
        "target": f"{type(task).__module__}.{type(task).__qualname__}",
        "settings": dict(settings),
        "schema": task.schema.to_json(),
        "fitted": task.fitted(),
        "packages": versions,
        **facts,
    }
    write_json(folder / "task.json", info)


#: Files that make a tokenizer; others (ONNX copies, images) stay behind.
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt", "vocab.json", "merges.txt",
    "sentencepiece.bpe.model", "spiece.model", "added_tokens.json",
)  # fmt: skip


def copy_tokenizer(source: Path, target: Path, max_length: int, long: str | None = None) -> None:
    """Copy the tokenizer's files; its configuration learns the length limit of the run, and which end is cut."""
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    path = target / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    side = {} if long is None else {"truncation_side": "left" if long == "tail" else "right"}
    write_json(path, settings | {"model_max_length": max_length} | side)


def read_info(folder: Path) -> dict[str, Any]:
    """task.json of a run.

    Raises:
        ConfigError: no such folder, not a run, or a newer format.
    """
    if not (folder / "task.json").is_file():
        near = sorted(str(p.parent) for p in Path("runs").glob("*/*/task.json"))[-3:] if Path("runs").is_dir() else []
        known = f" Saved runs here: {', '.join(near)}." if near else ""
        what = "has no task.json, so it is not a saved run" if folder.is_dir() else "does not exist"
        raise ConfigError(f"run={folder} {what}: give the folder that `modernbert train` printed.{known}")
    with described_by(folder):
        info: dict[str, Any] = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        newer = info.get("format", 0) > FORMAT
    if newer:
        raise ConfigError(f"run={folder} was written by a newer modernbert (format {info['format']}): upgrade first.")
    return info


@contextmanager
def described_by(folder: Path) -> Iterator[None]:
    """What is read of task.json inside: a run may come from a stranger, or from an hour of a full disk."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ConfigError(
            f"run={folder}: task.json is damaged, or of another version ({type(error).__name__}: {error})."
        ) from error


def task_class(target: str) -> Any:
    """The task class of a "tasks.module.Class" name; nothing outside `tasks` is ever imported from a run."""
    module, _, name = target.rpartition(".")
    if not module.startswith("tasks."):
        raise ConfigError(f"A run may only name a class in the package tasks, this one names {target!r}.")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ModuleNotFoundError:
        found = None
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError(f"{target!r} is not a task of this version.")
    return found


def choose_device(device: str) -> torch.device:
    """auto is a GPU where there is one.

    Raises:
        ConfigError: a device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"device={device}: allowed is auto, cpu, cuda or cuda:<number>.")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"device={device}: torch sees no CUDA device here. Use device=cpu.")
    return torch.device(device)


PRECISIONS = ("auto", "32", "bf16", "int8")


def choose_precision(asked: str, device_type: str) -> torch.dtype | None:
    """The type of autocast for answers; None for fp32, and for int8, which is a matter of the layers.

    auto is fp32 on a CPU, so that answers are those of any other software, and bf16 on a GPU that has it.

    Raises:
        ConfigError: none of PRECISIONS, or one that the device has not.
    """
    if str(asked) not in PRECISIONS:
        raise ConfigError(f"precision={asked}: allowed is {', '.join(PRECISIONS)}.")
    if asked == "int8" and device_type != "cpu":
        raise ConfigError("precision=int8 is for the CPU: on a GPU use precision=bf16.")
    pays, why = bf16_pays(device_type)
    if asked == "bf16" and not pays:
        raise ConfigError(f"precision=bf16 would be slower than 32 here: {why}. Use precision=32 or int8.")
    half = asked == "bf16" or (asked == "auto" and device_type == "cuda" and pays)
    return torch.bfloat16 if half else None


def sha256(path: Path) -> str:
    """Of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, value: Any) -> None:
    """Beside and renamed, so that a reader never sees half a file."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    beside.replace(path)


def has_text(cell: Any) -> bool:
    return isinstance(cell, str) and bool(cell.strip())


def as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
