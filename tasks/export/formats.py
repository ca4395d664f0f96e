"""One export: written beside its folder, put through the gate, then renamed. A refused one leaves nothing."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from modernbert.errors import ConfigError
from tasks.export import onnx, openvino_ir, program
from tasks.export.card import write_export_card
from tasks.export.gate import Model, Parity, check, is_vectors, names_of, refuse
from tasks.export.head import HeadModel, write_head
from tasks.export.onnx import OnnxModel
from tasks.export.padded import ARCHITECTURES, Padded, TorchModel, input_names, pad_token
from tasks.export.quantise import write_int8
from tasks.export.rows import Rows
from tasks.export.sentence import SentenceModel
from tasks.export.tokens import check_tokens
from tasks.run import Run, copy_tokenizer, write_json

FORMATS = {
    "transformers": "a folder for transformers and the hub",
    "sentence-transformers": "a folder for SentenceTransformer or CrossEncoder; of retrieval and reranking",
    "onnx": "one fp32 graph with pooling and head inside, for any ONNX runtime",
    "onnx-int8": "the same with 8-bit weights: smaller, quicker on CPUs",
    "onnx-fp16": "the same in half precision: half the size, for GPUs",
    "torch": "a torch.export program, and compiled where a C++ compiler is there",
    "openvino": "OpenVINO's own format, for Intel CPUs",
    "head": "the head's tensors alone, to put on an encoder that is already loaded",
}
#: Float formats whose outputs must agree to gate.TOLERANCE. Half precision keeps 11 bits, so fp16 cannot.
EXACT = ("transformers", "sentence-transformers", "onnx", "torch", "openvino", "head")
ONNX = ("onnx", "onnxruntime", "onnxscript")
#: What a format needs beside this package, and the extras that install it.
NEEDS = dict.fromkeys(("onnx", "onnx-int8", "onnx-fp16"), (ONNX, "onnx")) | {
    "openvino": ((*ONNX, "openvino"), "onnx,openvino"),
    "sentence-transformers": (("sentence_transformers",), "peers"),
}
WEIGHTS = (".onnx", ".data", ".safetensors", ".pt2", ".bin")


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
        packages, extras = NEEDS.get(name, ((), ""))
        if missing := [package for package in packages if importlib.util.find_spec(package) is None]:
            raise ConfigError(f"format={name} needs {', '.join(missing)}: pip install 'modernbert[{extras}]'.")
    return names


def require_fit(run: Run, name: str) -> None:
    """
    Raises:
        ConfigError: the run's model cannot be written in this format.
    """
    task, vectors = run.task, is_vectors(run)
    if task.pipeline not in ARCHITECTURES or (vectors and task.kind != "dense"):
        kind = getattr(task, "kind", task.pipeline)
        raise ConfigError(
            f"format={name}: a run of task.kind={kind} is not exported yet, as nothing but this package computes its "
            "scores; dense retrieval, cross-encoders, classification and named entities are."
        )
    if vectors and name == "head":
        raise ConfigError("format=head is for logits: a retrieval run has no head to share, use sentence-transformers.")
    if name == "sentence-transformers" and not task.ranks:
        raise ConfigError(f"format={name} is for retrieval and reranking: for {run.name} use format=transformers.")
    if getattr(task, "attention", None) is not None and name != "head":
        raise ConfigError(
            f"format={name} has no place for the scores by which task.merging=attention weighs windows: use "
            "format=head, or train with task.merging=mean or max."
        )


class Exporter:
    """Writes a run in one format after the other; a context manager, as it keeps the fp32 graph between them.

    Args:
        run: on the CPU.
        rows: labelled rows for the gate.
        max_metric_drop: what an export may lose of the task's headline metric.
    """

    def __init__(self, run: Run, rows: Rows, max_metric_drop: float = 0.005) -> None:
        self.run, self.rows, self.max_metric_drop = run, rows, max_metric_drop
        self.model = run.folder / "model"
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
        require_fit(self.run, name)
        require_free(folder)
        beside = folder.with_name(folder.name + ".part")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        try:
            copy_tokenizer(self.model, beside, self.run.schema.max_length)
            shutil.copyfile(self.run.folder / "task.json", beside / "task.json")
            parity = self.write(name, beside)
            parity = dataclasses.replace(parity, checks=(*parity.checks, check_tokens(self.rows, beside)))
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
        if name == "onnx-int8":
            shutil.copyfile(self.model / "config.json", folder / "config.json")
            return write_int8(self.graph, folder / onnx.FILE, self.rows, self.max_metric_drop)
        if name == "head":
            write_head(self.run, folder)
        elif name in ("transformers", "sentence-transformers"):
            shutil.copytree(self.model, folder, dirs_exist_ok=True)
        else:
            shutil.copyfile(self.model / "config.json", folder / "config.json")
            self.write_graph(name, folder)
        parity = self.check(name, open_export(self.run, name, folder))
        return self.compile(folder, parity) if name == "torch" else parity

    def write_graph(self, name: str, folder: Path) -> None:
        if name == "onnx":
            for path in self.graph.parent.iterdir():  # the graph, and its weights where they are a file of their own
                shutil.copyfile(path, folder / path.name)
        elif name == "onnx-fp16":
            onnx.write_half(self.graph, folder / onnx.FILE)
        elif name == "openvino":
            openvino_ir.write_ir(self.graph, folder / openvino_ir.FILE, self.facts)
        else:
            program.write_program(self.padded, folder / program.PROGRAM, self.facts)

    def check(self, name: str, model: Model) -> Parity:
        return check(self.rows, model, name, name in EXACT, self.max_metric_drop)

    def compile(self, folder: Path, parity: Parity) -> Parity:
        """The compiled package beside a program, through the same gate; or why there is none."""
        if why := program.no_compiler():
            return dataclasses.replace(parity, notes=(why,))
        path = folder / program.PACKAGE
        program.compile_program(folder / program.PROGRAM, path, self.facts)
        model = open_program(self.run, path)
        found = self.check("torch", model)
        named = [dataclasses.replace(item, name=f"compiled: {item.name}") for item in found.checks]
        note = f"{program.PACKAGE} is for {model.machine}, the CPU that it was compiled on."
        return dataclasses.replace(parity, checks=(*parity.checks, *named), notes=(note,))

    @functools.cached_property
    def padded(self) -> Padded:
        return Padded(self.model, self.run.task.pipeline)

    @functools.cached_property
    def facts(self) -> dict[str, str]:
        """What a file says about itself: values as JSON."""
        _, names = names_of(self.run)
        plain: dict[str, Any] = {
            "task": self.run.name,
            "prefixes" if is_vectors(self.run) else "labels": list(names),
            "max_length": self.run.schema.max_length,
            "pooling": getattr(self.run.task.head, "pool", None),
        }
        return {key: json.dumps(value) for key, value in plain.items()}

    @functools.cached_property
    def graph(self) -> Path:
        """The fp32 graph, from which the other ONNX formats are made."""
        path = Path(self.scratch.name) / onnx.FILE
        onnx.write_graph(self.padded, path, self.facts)
        return path


def open_export(run: Run, name: str, folder: Path) -> Model:
    """An export from its folder, as the gate and the stopwatch call it."""
    if name == "head":
        return HeadModel(folder, run.task.encoder)
    if name == "transformers":
        return TorchModel(Padded(folder, run.task.pipeline))
    if name == "sentence-transformers":
        return SentenceModel(folder, is_vectors(run))
    if name == "torch":
        return open_program(run, folder / program.PROGRAM)
    if name == "openvino":
        return openvino_ir.OpenVinoModel(folder / openvino_ir.FILE, pad_token(run.task.encoder.config))
    return OnnxModel(folder / onnx.FILE, pad_token(run.task.encoder.config))


def open_program(run: Run, path: Path) -> program.ProgramModel:
    """A program or a compiled package of a run."""
    config, per_token = run.task.encoder.config, ARCHITECTURES[run.task.pipeline].per_token
    return program.ProgramModel(path, input_names(config.family), pad_token(config), per_token)


def bytes_of(folder: Path) -> int:
    """Of the weights: the largest files of a format are those."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.suffix in WEIGHTS)


def require_free(folder: Path) -> None:
    """Nothing is overwritten.

    Raises:
        ConfigError: the folder is there and not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"output={folder} is there already and not empty: name a new folder, or delete it.")
