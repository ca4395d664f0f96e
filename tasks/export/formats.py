"""One export: written beside its folder, put through the gate, then renamed. A refused one leaves nothing."""

from __future__ import annotations

import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from modernbert.errors import ConfigError
from tasks.export import onnx
from tasks.export.card import write_export_card
from tasks.export.gate import Model, Parity, Rows, check, refuse
from tasks.export.head import HeadModel, write_head
from tasks.export.onnx import FILE, OnnxModel
from tasks.export.padded import Padded, TorchModel, pad_token
from tasks.export.quantise import write_int8
from tasks.run import Run, copy_tokenizer, write_json

FORMATS = {
    "transformers": "a folder for transformers.pipeline and the hub",
    "onnx": "one fp32 graph with pooling and head inside, for any ONNX runtime",
    "onnx-int8": "the same with 8-bit weights: smaller, quicker on CPUs",
    "onnx-fp16": "the same in half precision: half the size, for GPUs",
    "head": "the head's tensors alone, to put on an encoder that is already loaded",
}
#: Float formats whose logits must agree to gate.TOLERANCE. Half precision keeps 11 bits, so fp16 cannot.
EXACT = ("transformers", "onnx", "head")


def choose_formats(asked: str | Sequence[str]) -> list[str]:
    """The formats of `format=…`, a name or a list of names.

    Raises:
        ConfigError: none, one that is not known, or one whose packages are missing.
    """
    names = [asked] if isinstance(asked, str) else list(dict.fromkeys(asked))
    if unknown := [name for name in names if name not in FORMATS]:
        raise ConfigError(f"format={', '.join(map(str, unknown))}: allowed is one or more of {', '.join(FORMATS)}.")
    if not names:
        raise ConfigError(f"format=[] is empty: give one or more of {', '.join(FORMATS)}.")
    for name in names:
        if name.startswith("onnx"):
            onnx.require_onnx(name)
    return names


class Exporter:
    """Writes a run in one format after the other; a context manager, as it keeps the fp32 graph between them.

    Args:
        run: on the CPU.
        rows: labelled rows for the gate.
        max_metric_drop: what an export may lose of the task's headline metric.
    """

    def __init__(self, run: Run, rows: Rows, max_metric_drop: float = 0.005) -> None:
        self.run, self.rows, self.max_metric_drop = run, rows, max_metric_drop
        self.scratch = tempfile.TemporaryDirectory(prefix="modernbert-export-")

    def __enter__(self) -> Exporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.scratch.cleanup()

    def export(self, name: str, folder: Path) -> Parity:
        """Write one format into a new folder.

        Raises:
            ParityError: the gate refuses it; the folder is not there.
            ConfigError: the folder is there and not empty, or the model cannot be written so.
        """
        require_free(folder)
        beside = folder.with_name(folder.name + ".part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            copy_tokenizer(self.run.folder / "model", beside, self.run.schema.max_length)
            shutil.copyfile(self.run.folder / "task.json", beside / "task.json")
            parity = self.write(name, beside)
            if not parity.passed:
                raise refuse(parity)
            write_json(beside / "parity.json", parity.to_json())
            write_export_card(self.run, beside, folder.absolute().name, parity)
            if folder.exists():
                folder.rmdir()
            beside.rename(folder)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        return parity

    def write(self, name: str, folder: Path) -> Parity:
        """The files of a format, and what the gate says of them."""
        model = self.run.folder / "model"
        if name == "head":
            write_head(self.run, folder)
        elif name == "transformers":
            shutil.copytree(model, folder, dirs_exist_ok=True)
        else:
            shutil.copyfile(model / "config.json", folder / "config.json")
        if name == "onnx":
            for path in self.graph.parent.iterdir():  # the graph, and its weights where they are a file of their own
                shutil.copyfile(path, folder / path.name)
        elif name == "onnx-fp16":
            onnx.write_half(self.graph, folder / FILE)
        elif name == "onnx-int8":
            return write_int8(self.graph, folder / FILE, self.rows, self.max_metric_drop)
        return check(self.rows, open_export(self.run, name, folder), name, name in EXACT, self.max_metric_drop)

    @functools.cached_property
    def graph(self) -> Path:
        """The fp32 graph, from which the other ONNX formats are made."""
        padded = Padded(self.run.folder / "model", self.run.task.pipeline)
        facts: dict[str, Any] = {
            "task": self.run.name,
            "labels": list(padded.labels),
            "max_length": self.run.schema.max_length,
            "pooling": getattr(self.run.task.head, "pool", None),
        }
        path = Path(self.scratch.name) / FILE
        onnx.write_graph(padded, path, facts)
        return path


def open_export(run: Run, name: str, folder: Path) -> Model:
    """An export from its folder, as the gate and the stopwatch call it."""
    if name == "head":
        return HeadModel(folder, run.task.encoder)
    if name == "transformers":
        return TorchModel(folder, run.task.pipeline)
    return OnnxModel(folder / FILE, pad_token(run.task.encoder.config))


def require_free(folder: Path) -> None:
    """Nothing is overwritten.

    Raises:
        ConfigError: the folder is there and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"output={folder} is there already and not empty: name a new folder, or delete it.")
