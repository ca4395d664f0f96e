"""The encoders that are measured: one architecture, one set of weights, in ours and in transformers.

Dimensions: D hidden, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modernbert import build_encoder, pack
from modernbert.config import EncoderConfig, parse_config
from modernbert.errors import BackendError, ConfigError
from modernbert.sources import EMBEDDED, resolve
from modernbert.weights import Encoder

#: Largest difference between the two on the same weights in fp32 (parity tests hold the encoder to 1e-4).
AGREEMENT = 1e-3
CHECKED_LENGTHS = (7, 70, 200)


@dataclass(frozen=True)
class Shape:
    """A ModernBERT with random weights; `tokens` makes a cell of seconds on 2 cores."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    tokens: int = 8192


SHAPES = {
    "17m": Shape(256, 7, 4, 384),
    "32m": Shape(384, 10, 6, 576),
    "base": Shape(768, 22, 12, 1152, tokens=4096),
}
#: Beyond so many tokens a sequence, base runs on so many layers: 22 would take minutes on a CPU, and every
#: layer costs the same. Stated in its rows.
DEEP_LENGTH, DEEP_LAYERS = 2048, 6


@dataclass(frozen=True)
class Pair:
    """The same encoder twice, on one device, in fp32."""

    ours: Encoder
    theirs: Any  # transformers.PreTrainedModel
    config: EncoderConfig


def known(name: str) -> bool:
    """Whether a name is a shape, or the source of a checkpoint: the embedded one, a folder, a hub name."""
    return name in SHAPES or name == EMBEDDED or "/" in name


def check_names(names: Sequence[str]) -> None:
    """Refuse a name that is neither a shape nor a checkpoint."""
    for name in names:
        if not known(name):
            allowed = ", ".join([*SHAPES, EMBEDDED])
            raise ConfigError(f"shapes={name}: allowed are {allowed}, a folder (./…), a hub name (owner/name).")


def usual_tokens(name: str) -> int:
    """Tokens of a cell on a CPU."""
    return SHAPES[name].tokens if name in SHAPES else 8192


def layers_at(name: str, longest: int, device: torch.device) -> int | None:
    """How many layers a shape runs on at this length; None for all."""
    capped = name == "base" and longest > DEEP_LENGTH and device.type == "cpu"
    return DEEP_LAYERS if capped else None


def build(name: str, layers: int | None, attention: str, device: torch.device, seed: int = 0) -> Pair:
    """Build both sides with equal weights and prove that they compute the same.

    Args:
        attention: what transformers runs, such as sdpa.

    Raises:
        BackendError: the outputs differ by more than `AGREEMENT`: a comparison would mean nothing.
        EncoderError: a checkpoint that cannot be found or is not implemented.
    """
    torch.manual_seed(seed)
    theirs = _random(SHAPES[name], layers, attention) if name in SHAPES else _pretrained(name, attention)
    config = parse_config(theirs.config.to_dict(), name)
    ours = build_encoder(config)
    ours.load_state_dict(ours.from_hf(theirs.state_dict()))
    pair = Pair(ours.to(device).eval(), theirs.to(device).eval(), config)
    _check_agreement(name, pair, device)
    return pair


def _random(shape: Shape, layers: int | None, attention: str) -> Any:
    from transformers import ModernBertConfig, ModernBertModel

    # Vocabulary, window (128) and the rhythm of global layers (every third) are ModernBERT's own defaults.
    sizes: dict[str, Any] = {
        "hidden_size": shape.hidden,
        "num_hidden_layers": layers or shape.layers,
        "num_attention_heads": shape.heads,
        "intermediate_size": shape.intermediate,
        "attn_implementation": attention,
    }
    return ModernBertModel(ModernBertConfig(**sizes))


def _pretrained(name: str, attention: str) -> Any:
    from transformers import AutoConfig, AutoModel

    from app.bench.quiet import quiet_transformers

    quiet_transformers()
    folder = resolve(name)
    options: dict[str, Any] = {}
    if AutoConfig.from_pretrained(folder).model_type != "modernbert":
        # Ours has no pooler, which nothing here reads, and no dropout of attention probabilities, which costs
        # transformers its fast attention: without both, the two compute the same.
        options = {"add_pooling_layer": False, "attention_probs_dropout_prob": 0.0}
    return AutoModel.from_pretrained(folder, attn_implementation=attention, dtype=torch.float32, **options)


@torch.inference_mode()
def _check_agreement(name: str, pair: Pair, device: torch.device) -> None:
    most = min(300, pair.config.max_positions)
    rows = [torch.randint(5, 1000, (length,)) for length in CHECKED_LENGTHS if length <= most]
    ours = pair.ours(pack(rows).to(device)).float()
    half = torch.autocast(device.type, dtype=torch.bfloat16, enabled=_half_only(pair.theirs))
    with half:
        theirs = [pair.theirs(input_ids=row[None].to(device)).last_hidden_state[0] for row in rows]
    difference = float((ours - torch.cat(theirs).float()).abs().max())
    # Attention that runs in half precision only is held to bf16's three digits instead.
    allowed = 0.2 if _half_only(pair.theirs) else AGREEMENT
    if not difference <= allowed:
        raise BackendError(
            f"{name}: ours and transformers differ by {difference:.1e} on equal weights (allowed {allowed:.0e}): "
            "timing different computations says nothing. Please report this."
        )


def _half_only(model: Any) -> bool:
    return str(model.config._attn_implementation).startswith("flash")
