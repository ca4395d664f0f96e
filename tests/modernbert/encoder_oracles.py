"""Tiny random transformers models, the oracle of the encoder's parity tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    RobertaConfig,
    RobertaModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

VOCABULARY = 97
RAGGED = (1, 63, 64, 65, 128, 129, 300)
KINDS = ("modernbert", "modernbert-biased", "bert", "roberta", "xlm-roberta")


def oracle(kind: str, **changes: Any) -> PreTrainedModel:
    """A random model of transformers whose norms and biases are not the identity, in evaluation mode."""
    shared = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    if kind.startswith("modernbert"):
        biased = kind.endswith("biased")
        special = {
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "cls_token_id": 1,
            "sep_token_id": 2,
        }
        options = {"intermediate_size": 48, "norm_bias": biased, "attention_bias": biased, "mlp_bias": biased}
        model = ModernBertModel(_config(ModernBertConfig, shared, special, options, changes))
    else:
        classes = {"bert": (BertConfig, BertModel), "roberta": (RobertaConfig, RobertaModel)}
        config, build = classes.get(kind, (XLMRobertaConfig, XLMRobertaModel))
        options = {"intermediate_size": 64, "max_position_embeddings": 512, "type_vocab_size": 2}
        model = build(_config(config, shared, options, changes), add_pooling_layer=False)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Far from the initial values, so that a tensor left out or swapped shows.
            scale = 0.3 if weight.dim() == 1 else 0.08
            weight.add_(torch.randn(weight.shape) * scale)
            assert torch.isfinite(weight).all(), name
    return model.eval()


def _config(kind: type, *options: dict[str, Any]) -> Any:
    merged: dict[str, Any] = {}
    for some in options:
        merged.update(some)
    return kind(**merged, attn_implementation="eager")


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def sequences(lengths: Sequence[int], vocabulary: int = VOCABULARY) -> list[Tensor]:
    # From 3 on: 0, 1 and 2 are padding in one family or another.
    return [torch.randint(3, vocabulary, (length,)) for length in lengths]


def expected(model: PreTrainedModel, rows: Sequence[Tensor], **inputs: Sequence[Tensor]) -> Tensor:
    """(T, D) of the oracle, one sequence at a time (transformers lets packed sequences see each other on a CPU)."""
    out = []
    for i, row in enumerate(rows):
        more = {name: values[i][None] for name, values in inputs.items()}
        out.append(model(input_ids=row[None], **more).last_hidden_state[0])
    return torch.cat(out)


def assert_gradients_agree(found: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float) -> None:
    """Every gradient agrees relative to its own largest entry.

    A key bias shifts all scores of a query alike, so without rotary positions its true gradient is zero and only
    rounding is left: it is held against the scale of the query bias's gradient.
    """
    assert set(found) == set(wanted)
    for name, value in wanted.items():
        scale = wanted[name.replace("self.key.bias", "self.query.bias")].abs().max().clamp_min(1e-12)
        assert (found[name] - value).abs().max() / scale < tolerance, name


def relative(found: Tensor, wanted: Tensor) -> float:
    """Largest difference against the largest value wanted."""
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-12))
