"""int8 by ONNX Runtime's dynamic quantisation, and which layers to leave in float where it hurts.

Weights are int8 per output channel, activations are measured at run time. The head stays in float: it is a thousandth
of the weights and its errors go straight into the logits. Layers that cost too much of the metric stay in float too.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tasks.export.gate import Parity, check, refuse
from tasks.export.onnx import OnnxModel, quiet, read_graph
from tasks.export.padded import pad_token
from tasks.export.rows import MIXED, Rows

#: Most groups of consecutive layers; three parts of each are tried apart, and each trial quantises the model again.
MOST_GROUPS = 6
#: Batches that tell one group's drift from another's.
TRIAL_BATCHES = 2
EMBEDDINGS, FEED_FORWARD = "embeddings", "feed-forward"
SCOPES = "pkg.torch.onnx.name_scopes"


def write_int8(source: Path, path: Path, rows: Rows, max_metric_drop: float) -> Parity:
    """Quantise a graph, with as few groups of layers in float as keep the metric.

    Where the gate refuses the whole, each group is quantised by itself, which says how far it alone moves the
    outputs. Then they stay in float one more at a time, the one that moves most first, until the gate passes.
    (Leaving one out of the whole says less: errors of layers cancel, and shares came out negative.)

    Raises:
        ParityError: nothing is left to quantise; it names each group's share of the drift.
    """
    model = read_graph(source)
    groups = find_groups(model, rows.run.task.encoder.config.vocab_size)

    def attempt(kept: Collection[str]) -> OnnxModel:
        quantise(source, path, groups, kept)
        return OnnxModel(path, pad_token(rows.run.task.encoder.config))

    parity = check(rows, attempt(()), "onnx-int8", False, max_metric_drop)
    if parity.passed:
        return parity
    alone = {group: drift(rows, attempt([other for other in groups if other != group])) for group in groups}
    shares = {group: value / sum(alone.values()) for group, value in alone.items()}
    ranked = sorted(shares, key=lambda group: -shares[group])
    for count in range(1, len(groups)):
        kept = ranked[:count]
        again = check(rows, attempt(kept), "onnx-int8", False, max_metric_drop)
        if again.passed:
            lost = parity.metric["run"] - parity.metric["export"]
            note = (
                f"{count} of {len(groups)} groups of layers stay in float ({', '.join(kept)}), as {rows.headline} "
                f"changed by {-lost:+.4f} with all of them in int8."
            )
            return dataclasses.replace(again, kept_in_float=tuple(kept), drift=shares, notes=(note,))
    told = ", ".join(f"{group} {shares[group]:.0%}" for group in ranked[:5])
    raise refuse(parity, f"\nLayers responsible (share of the drift): {told}.")


def drift(rows: Rows, model: OnnxModel) -> float:
    """Mean squared difference of the outputs over the first batches: errors of layers add up in squares."""
    batches = rows.ragged[:TRIAL_BATCHES]
    parts = [(model(b.packed) - e).square().mean() for b, e in zip(batches, rows.expected[MIXED], strict=False)]
    return max(float(sum(parts)) / len(parts), 1e-24)


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
    """Nodes with weights worth quantising: the word embeddings, and of at most MOST_GROUPS groups of consecutive
    layers the attention, and what leads into and out of the wide middle of the feed-forward part.

    The way out is apart: a few of its inputs are far larger than the rest, and one scale for all serves these badly.
    """
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    embeddings: list[str] = []
    layers: dict[int, dict[str, list[str]]] = {}
    for node in model.graph.node:
        if node.op_type == "Gather" and weights.get(node.input[0], ())[:1] == (vocab_size,):
            embeddings.append(node.name)
        elif node.op_type == "MatMul" and node.input[1] in weights and (found := layer_of(node)):
            number, part = found
            if part == FEED_FORWARD:
                rows, columns = weights[node.input[1]]
                part = f"{part} {'out' if rows > columns else 'in'}"
            layers.setdefault(number, {}).setdefault(part, []).append(node.name)
    step = -(-len(layers) // MOST_GROUPS)
    groups = {EMBEDDINGS: embeddings} if embeddings else {}
    for first in range(0, len(layers), max(step, 1)):
        last = min(first + step, len(layers)) - 1
        title = f"layer {first}" if first == last else f"layers {first} to {last}"
        for part in layers[first]:
            names = [name for number in range(first, last + 1) for name in layers[number].get(part, ())]
            groups[f"{part} of {title}"] = names
    return groups


def layer_of(node: Any) -> tuple[int, str] | None:
    """The encoder layer a node was exported from and its part, by the exporter's own record of module names."""
    recorded = {entry.key: entry.value for entry in node.metadata_props}.get(SCOPES, "[]")
    scopes = [scope for scope in ast.literal_eval(recorded) if re.search(r"\.layers?\.\d+", scope)]
    if not scopes:
        return None
    number = re.search(r"\.layers?\.(\d+)", scopes[0])
    assert number is not None
    return int(number[1]), "attention" if re.search(r"\.att(n|ention)\b", " ".join(scopes)) else FEED_FORWARD
