"""A run as an ONNX graph: `torch.onnx.export(dynamo=True)` of the padded module, any batch and any length.

The graph has standard operators only, so that any runtime takes it; ONNX Runtime fuses them while it loads. Its
metadata carries the labels in order, the length limit and the pooling.

B sequences, S longest sequence, L outputs.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.packing import Packed
from tasks.export.padded import Padded, example_inputs, names_in, pad, unpad

#: The first with Gelu as one operator; ONNX Runtime reads it since 1.17 (2024).
OPSET = 20
#: A protobuf file ends at 2 GiB; larger weights go into a file beside the graph, which only plain `onnx` does.
LARGEST_GRAPH = 1_900_000_000
FILE = "model.onnx"


def write_graph(padded: Padded, path: Path, facts: Mapping[str, str]) -> None:
    """Write the fp32 graph with named dynamic axes and `facts` (JSON) as its metadata."""
    axes = {0: "batch", 1: "sequence"}
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            padded,
            example_inputs(padded),
            dynamo=True,
            input_names=list(padded.inputs),
            output_names=[padded.output],
            dynamic_shapes=tuple(axes for _ in padded.inputs),
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # dynamo=True always gives one
    for node in program.model.graph:
        for inner in node.outputs:
            # The exporter names what looks up the words "embedding" too, and does not see that the name is taken.
            if inner.name == padded.output and not inner.is_graph_output():
                inner.name = f"{padded.output}_of_words"
    for key, value in facts.items():
        program.model.metadata_props[key] = value
    program.save(path, external_data=size(padded) > LARGEST_GRAPH)


def size(padded: Padded) -> int:
    """Bytes of the weights in fp32."""
    return sum(parameter.numel() * 4 for parameter in padded.parameters())


def write_half(source: Path, path: Path) -> None:
    """The graph with weights and arithmetic in fp16; logits stay fp32.

    Raises:
        ConfigError: a graph too large for one file.
    """
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = read_graph(source)
    with quiet():
        onnx.save(convert_float_to_float16(model, keep_io_types=True), path)


def read_graph(path: Path) -> Any:
    """The graph as a ModelProto, without the shapes of its inner values.

    The dynamo exporter writes them also for the weights; a tool that transposes one then contradicts what is
    written and onnx's shape inference stops (seen with onnxruntime 1.31 and onnx 1.23). They are inferred anew.

    Raises:
        ConfigError: a graph too large for one file.
    """
    import onnx

    if path.with_name(path.name + ".data").is_file():
        raise ConfigError(
            f"the weights are larger than {LARGEST_GRAPH / 1e9} GB, which one ONNX file cannot hold: use format=onnx."
        )
    model = onnx.load(path)
    del model.graph.value_info[:]
    return model


class OnnxModel:
    """A graph in ONNX Runtime on the CPU, with as many threads as torch uses, behind the packed call of the gate.

    Args:
        path: of the graph.
        pad_token_id: what padding holds.
    """

    def __init__(self, path: Path, pad_token_id: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; it warns of every operator it moves
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.pad_token_id = pad_token_id
        self.inputs = [node.name for node in self.session.get_inputs()]
        self.per_token = len(self.session.get_outputs()[0].shape) == 3
        self.names = names_in(self.session.get_modelmeta().custom_metadata_map)

    def __call__(self, packed: Packed) -> Tensor:
        feeds = {name: value.numpy() for name, value in pad(packed, self.inputs, self.pad_token_id).items()}
        found = torch.from_numpy(self.session.run(None, feeds)[0])
        return unpad(found, packed, self.per_token)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' remarks about packages that are not needed and about their own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
