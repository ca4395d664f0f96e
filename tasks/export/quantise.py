"""int8 by ONNX Runtime's dynamic quantisation, and which layers to blame where it hurts.

Weights are int8 per output channel, activations are measured at run time. The head stays in float: it is a thousandth
of the weights and its errors go straight into the logits. Layers that cost too much of the metric stay in float too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tasks.export.gate import MIXED, Parity, Rows, check, refuse
from tasks.export.onnx import OnnxModel, quiet, read_graph
from tasks.export.padded import pad_token

#: Most groups of consecutive layers that are tried one by one; each trial quantises the model again.
MOST_GROUPS = 8
#: Batches that tell one group's drift from another's.
TRIAL_BATCHES = 2
EMBEDDINGS = "embeddings"
SCOPES = "pkg.torch.onnx.name_scopes"


def write_int8(source: Path, path: Path, rows: Rows, max_metric_drop: float) -> Parity:
    """Quantise a graph, with as few groups of layers in float as keep the metric.

    Where the gate refuses the whole, each group is left in float in turn; those that take away most of the drift
    stay there: 1, 2, 4 … of them, up to half.

    Raises:
        ParityError: half of the groups in float are not enough; it names each group's share of the drift.
    """
    model = read_graph(source)
    groups = find_groups(model, rows.run.task.encoder.config.vocab_size)

    def attempt(kept: Collection[str]) -> OnnxModel:
        quantise(source, path, groups, kept)
        return OnnxModel(path, pad_token(rows.run.task.encoder.config))

    parity = check(rows, attempt(()), "onnx-int8", False, max_metric_drop)
    if parity.passed:
        return parity
    whole = drift(rows, attempt(()))
    saved = {group: 1 - drift(rows, attempt((group,))) / whole for group in groups}
    blamed = sorted(saved, key=lambda group: -saved[group])
    for count in (2**i for i in range(len(groups)) if 2**i <= max(1, len(groups) // 2)):
        kept = tuple(blamed[:count])
        again = check(rows, attempt(kept), "onnx-int8", False, max_metric_drop)
        if again.passed:
            return Parity(again.format, again.rows, again.checks, again.metric, kept, saved)
    shares = ", ".join(f"{group} {saved[group]:.0%}" for group in blamed[:5])
    raise refuse(parity, f"\nLayers responsible (share of the drift that goes when they stay in float): {shares}.")


def drift(rows: Rows, model: OnnxModel) -> float:
    """Mean absolute difference of the logits over the first batches."""
    batches = rows.ragged[:TRIAL_BATCHES]
    parts = [(model(b.packed) - e).abs().mean() for b, e in zip(batches, rows.expected[MIXED], strict=False)]
    return max(float(sum(parts)) / len(parts), 1e-12)


def quantise(source: Path, path: Path, groups: Mapping[str, list[str]], kept: Collection[str]) -> None:
    """Write `source` with the nodes of all groups but `kept` in int8."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    chosen = [name for group, names in groups.items() if group not in kept for name in names]
    with quiet():
        quantize_dynamic(
            read_graph(source),
            path,
            op_types_to_quantize=["MatMul", "Gather"],
            nodes_to_quantize=chosen,
            per_channel=True,
            # Seven bits: eight overflow the 16-bit sums of x86 CPUs without VNNI, which the gate, run on another
            # CPU, would not see. Signed weights: unsigned ones took twice the time (ONNX Runtime 1.31, AVX-512 VNNI).
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def find_groups(model: Any, vocab_size: int) -> dict[str, list[str]]:
    """Nodes with weights worth quantising: the word embeddings, and the encoder's layers in at most MOST_GROUPS."""
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    embeddings: list[str] = []
    layers: dict[int, list[str]] = {}
    for node in model.graph.node:
        if node.op_type == "Gather" and weights.get(node.input[0], ())[:1] == (vocab_size,):
            embeddings.append(node.name)
        elif node.op_type == "MatMul" and node.input[1] in weights:
            number = layer_of(node)
            if number is not None:
                layers.setdefault(number, []).append(node.name)
    step = -(-len(layers) // MOST_GROUPS)
    groups = {EMBEDDINGS: embeddings} if embeddings else {}
    for first in range(0, len(layers), max(step, 1)):
        last = min(first + step, len(layers)) - 1
        title = f"layer {first}" if first == last else f"layers {first} to {last}"
        groups[title] = [name for number in range(first, last + 1) for name in layers[number]]
    return groups


def layer_of(node: Any) -> int | None:
    """The encoder layer a node was exported from, by the exporter's own record of module names."""
    recorded = {entry.key: entry.value for entry in node.metadata_props}.get(SCOPES, "[]")
    found = [match for scope in ast.literal_eval(recorded) if (match := re.search(r"\.layers?\.(\d+)", scope))]
    return int(found[0].group(1)) if found else None
