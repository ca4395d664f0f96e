"""A run for OpenVINO: its intermediate representation, made from the fp32 ONNX graph."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert.packing import Packed
from tasks.export.padded import names_in, pad, unpad

FILE = "model.xml"
#: Without it OpenVINO computes in bf16 on CPUs with AMX, which moves a logit by 5e-3 (measured on MiniLM, 2026.4).
FULL = {"INFERENCE_PRECISION_HINT": "f32"}
#: Where in the file our facts stand.
OURS = "modernbert"


def write_ir(graph: Path, path: Path, facts: Mapping[str, str]) -> None:
    """Convert an ONNX graph; weights stay fp32 in a file beside (.bin). `facts` (JSON) go into the .xml."""
    import openvino

    model = openvino.convert_model(graph)
    model.set_rt_info(json.dumps(facts), [OURS, "facts"])
    openvino.save_model(model, path, compress_to_fp16=False)


class OpenVinoModel:
    """The model on the CPU in fp32, with as many threads as torch uses, behind the packed call of the gate."""

    def __init__(self, path: Path, pad_token_id: int) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        settings = FULL | {"INFERENCE_NUM_THREADS": torch.get_num_threads()}
        self.compiled: Any = core.compile_model(model, "CPU", settings)
        self.pad_token_id = pad_token_id
        self.inputs = [node.get_any_name() for node in self.compiled.inputs]
        self.per_token = len(self.compiled.outputs[0].get_partial_shape()) == 3
        self.names = names_in(json.loads(model.get_rt_info([OURS, "facts"]).astype(str)))

    def __call__(self, packed: Packed) -> Tensor:
        feeds = {name: value.numpy() for name, value in pad(packed, self.inputs, self.pad_token_id).items()}
        found = torch.from_numpy(self.compiled(feeds)[0].copy())
        return unpad(found, packed, self.per_token)
