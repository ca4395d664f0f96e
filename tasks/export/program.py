"""A run as a `torch.export` program, and compiled by AOTInductor where a C++ compiler is there.

A program needs torch and nothing of ours. The compiled package is machine code for CPUs with the instruction set of
the one it was made on; it starts without tracing or compiling.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert.packing import Packed
from tasks.export.padded import Padded, example_inputs, names_in, pad, unpad

PROGRAM, PACKAGE = "model.pt2", "model.aoti.pt2"
FACTS = "facts.json"


def write_program(padded: Padded, path: Path, facts: Mapping[str, str]) -> None:
    """Write the program with any batch and any length; `facts` (JSON) travel in the file."""
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with calm(), torch.no_grad():
        program = torch.export.export(padded, example_inputs(padded), dynamic_shapes=tuple(axes for _ in padded.inputs))
        torch.export.save(program, path, extra_files={FACTS: json.dumps(facts)})


def compile_program(program: Path, path: Path, facts: Mapping[str, str]) -> None:
    """Compile a program to a package; takes minutes. Its metadata holds `facts` (JSON)."""
    with calm(), torch.no_grad():
        loaded = torch.export.load(program)
        settings: dict[str, Any] = {"aot_inductor.metadata": dict(facts)}
        torch._inductor.aoti_compile_and_package(loaded, package_path=str(path), inductor_configs=settings)


def no_compiler() -> str | None:
    """Why nothing can be compiled here, in a line; None where a C++ compiler is there."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return f"There is no C++ compiler here, so {PACKAGE} was not made: install g++ or clang++ and export again."
    return None


class ProgramModel:
    """A program, or its compiled package, behind the packed call of the gate.

    Attributes:
        machine: what a compiled package needs of a CPU; "" of a program.
    """

    def __init__(self, path: Path, inputs: tuple[str, ...], pad_token_id: int, per_token: bool) -> None:
        self.inputs, self.pad_token_id, self.per_token = inputs, pad_token_id, per_token
        self.run: Callable[..., Tensor]
        self.machine = ""
        with calm():
            if path.name == PACKAGE:
                package: Any = torch._inductor.aoti_load_package(str(path))
                self.run, facts = package, package.loader.get_metadata()
                self.machine = " ".join(facts[key] for key in ("AOTI_PLATFORM", "AOTI_MACHINE", "AOTI_CPU_ISA"))
            else:
                held = {FACTS: ""}
                self.run = torch.export.load(path, extra_files=held).module()
                facts = json.loads(held[FACTS])
        self.names = names_in(facts)

    def __call__(self, packed: Packed) -> Tensor:
        inputs = pad(packed, self.inputs, self.pad_token_id)
        with torch.inference_mode():
            return unpad(self.run(*inputs.values()), packed, self.per_token)


@contextmanager
def calm() -> Iterator[None]:
    """Without torch's remarks about its own internals."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
