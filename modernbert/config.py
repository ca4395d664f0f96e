"""The architecture of an encoder, read from a Hugging Face config.json.

A field that changes the computation and that the encoder does not implement is refused by its name and value:
a model that runs but computes something else is the worst of all outcomes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from modernbert.errors import EncoderError

Family = Literal["modernbert", "bert", "roberta"]

# model_type of config.json -> the code that runs it. XLM-R is RoBERTa with another vocabulary.
FAMILIES: dict[str, Family] = {
    "modernbert": "modernbert",
    "bert": "bert",
    "roberta": "roberta",
    "xlm-roberta": "roberta",
}
GLOBAL, SLIDING = "full_attention", "sliding_attention"
# What transformers assumes when the field is absent (ModernBertConfig of transformers 5).
DEFAULT_THETA = {GLOBAL: 160_000.0, SLIDING: 10_000.0}
DEFAULT_GLOBAL_EVERY = 3


@dataclass(frozen=True)
class EncoderConfig:
    """What the encoder computes; one object for the three families.

    Dropouts act in training only. `attention_dropout` is the one after the attention block's output projection;
    `mlp_dropout` is after the activation in ModernBERT and after the second projection in BERT, as in transformers.
    """

    family: Family
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    vocab_size: int
    max_positions: int  # usable tokens of one sequence; RoBERTa's offset is already taken off
    pad_token_id: int | None
    norm_eps: float
    norm_bias: bool
    attention_bias: bool
    mlp_bias: bool
    embedding_dropout: float
    attention_dropout: float
    mlp_dropout: float
    initializer_range: float
    initializer_cutoff: float | None  # truncation of the initial normal in standard deviations; None: not truncated
    windows: tuple[int | None, ...]  # a layer: tokens seen on each side (distance <= window), None for all
    thetas: tuple[float, ...]  # a layer: the base of its rotary angles; empty where positions are learned
    type_vocab_size: int  # BERT segments; 0 where there are none
    raw: dict[str, Any]  # config.json as read, for writing back

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.hidden_size // self.num_heads


def read_config(folder: Path | str) -> EncoderConfig:
    """The architecture in `folder`/config.json.

    Raises:
        EncoderError: the file is missing or is no JSON object, a field is missing or of the wrong type, or a field
            asks for a computation that is not implemented.
    """
    path = Path(folder) / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EncoderError(f"{path} is missing: an encoder folder needs config.json and model.safetensors") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise EncoderError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(raw, dict):
        raise EncoderError(f"{path} holds a JSON {type(raw).__name__}, not an object")
    return parse_config(raw, str(path))


def parse_config(raw: dict[str, Any], source: str = "config.json") -> EncoderConfig:
    """The architecture of a config.json already read; `source` names it in errors. Raises as `read_config`."""
    fields = _Fields(raw, source)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise EncoderError(
            f"{source}: model_type={model_type!r} is not implemented; this encoder runs {', '.join(FAMILIES)}"
        )
    _refuse_everywhere(fields)
    config = _modernbert(fields) if model_type == "modernbert" else _bert(fields, FAMILIES[model_type])
    _check_sizes(config, fields)
    return config


#: A configuration from a stranger must not keep us busy before its tensors are found not to fit: no size of an
#: encoder comes near the first, no encoder has a tenth of the second.
LARGEST, MOST_LAYERS = 1 << 24, 1000


class _Fields:
    """Typed access to a raw config; an error names the field, its value and the file."""

    def __init__(self, raw: dict[str, Any], source: str) -> None:
        self.raw, self.source = raw, source

    def number(self, name: str, default: float | None = None, kind: type = float) -> Any:
        value = self.raw.get(name)
        value = default if value is None else value
        if value is None:
            raise EncoderError(f"{self.source}: the field {name} is missing")
        known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST
        if not known or kind(value) != value:
            raise EncoderError(f"{self.source}: {name}={value!r} must be {'an integer' if kind is int else 'a number'}")
        return kind(value)

    def integer(self, name: str, default: int | None = None) -> int:
        return int(self.number(name, default, int))

    def flag(self, name: str, default: bool) -> bool:
        value = self.raw.get(name, default)
        if not isinstance(value, bool):
            raise EncoderError(f"{self.source}: {name}={value!r} must be true or false")
        return value

    def require(self, name: str, allowed: tuple[Any, ...], default: Any = None) -> None:
        value = self.raw.get(name, default)
        if value not in allowed:
            known = " or ".join(repr(a) for a in allowed if a is not None)
            raise EncoderError(f"{self.source}: {name}={value!r} is not implemented; it must be {known}")

    def pad(self, default: int | None) -> int | None:
        value = self.raw.get("pad_token_id", default)
        return None if value is None else self.integer("pad_token_id", default)


def _refuse_everywhere(fields: _Fields) -> None:
    fields.require("is_decoder", (False, None))
    fields.require("is_encoder_decoder", (False, None))
    fields.require("add_cross_attention", (False, None))
    fields.require("rope_scaling", (None,))
    fields.require("pruned_heads", ({}, None))
    fields.require("quantization_config", (None,))
    # Code shipped with a checkpoint may compute anything (jina-embeddings-v3 calls itself xlm-roberta).
    custom = fields.raw.get("auto_map") or {}
    if any(name in custom for name in ("AutoModel", "AutoModelForMaskedLM")):
        raise EncoderError(
            f"{fields.source}: auto_map={custom!r} asks for the checkpoint's own code, which is never run"
        )


def _modernbert(fields: _Fields) -> EncoderConfig:
    fields.require("hidden_activation", ("gelu",), "gelu")
    layers = fields.integer("num_hidden_layers")
    kinds = _layer_kinds(fields, layers)
    theta = _thetas(fields)
    span = fields.integer("local_attention", 128)
    reach = span // 2
    if SLIDING in kinds and reach < 1:
        raise EncoderError(f"{fields.source}: local_attention={span} must be at least 2 (tokens on both sides)")
    return EncoderConfig(
        family="modernbert",
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=layers,
        num_heads=fields.integer("num_attention_heads"),
        vocab_size=fields.integer("vocab_size"),
        max_positions=fields.integer("max_position_embeddings"),
        pad_token_id=fields.pad(50283),
        norm_eps=fields.number("norm_eps", 1e-5),
        norm_bias=fields.flag("norm_bias", False),
        attention_bias=fields.flag("attention_bias", False),
        mlp_bias=fields.flag("mlp_bias", False),
        embedding_dropout=fields.number("embedding_dropout", 0.0),
        attention_dropout=fields.number("attention_dropout", 0.0),
        mlp_dropout=fields.number("mlp_dropout", 0.0),
        initializer_range=fields.number("initializer_range", 0.02),
        initializer_cutoff=fields.number("initializer_cutoff_factor", 2.0),
        windows=tuple(reach if kind == SLIDING else None for kind in kinds),
        thetas=tuple(theta[kind] for kind in kinds),
        type_vocab_size=0,
        raw=fields.raw,
    )


def _layer_kinds(fields: _Fields, layers: int) -> list[str]:
    """`layer_types` of transformers 5, or `global_attn_every_n_layers` of configs before it."""
    kinds = fields.raw.get("layer_types")
    if kinds is None:
        every = fields.integer("global_attn_every_n_layers", DEFAULT_GLOBAL_EVERY)
        if every < 1:
            raise EncoderError(f"{fields.source}: global_attn_every_n_layers={every} must be at least 1")
        return [SLIDING if i % every else GLOBAL for i in range(layers)]
    if not isinstance(kinds, list) or len(kinds) != layers:
        raise EncoderError(f"{fields.source}: layer_types={kinds!r} must list num_hidden_layers={layers} names")
    unknown = sorted({str(kind) for kind in kinds if kind not in (GLOBAL, SLIDING)})
    if unknown:
        raise EncoderError(
            f"{fields.source}: layer_types holds {unknown}, only {GLOBAL!r} and {SLIDING!r} are implemented"
        )
    return kinds


def _thetas(fields: _Fields) -> dict[str, float]:
    """The rotary base of each kind of layer: `rope_parameters`, or the two `*_rope_theta` fields before it."""
    parameters = fields.raw.get("rope_parameters")
    if parameters is None:
        base = fields.number("global_rope_theta", DEFAULT_THETA[GLOBAL])
        # null in an old config means: as the global layers.
        null_local = "local_rope_theta" in fields.raw and fields.raw["local_rope_theta"] is None
        return {
            GLOBAL: base,
            SLIDING: base if null_local else fields.number("local_rope_theta", DEFAULT_THETA[SLIDING]),
        }
    thetas = {}
    for kind, fallback in ((GLOBAL, "global_rope_theta"), (SLIDING, "local_rope_theta")):
        given = parameters.get(kind) if isinstance(parameters, dict) else None
        if given is not None and not isinstance(given, dict):
            raise EncoderError(f"{fields.source}: rope_parameters[{kind!r}]={given!r} must be an object")
        inner = _Fields(given or {}, f"{fields.source}: rope_parameters[{kind!r}]")
        # Another type scales the angles; a factor beside "default" would be read by nobody.
        inner.require("rope_type", ("default",), "default")
        inner.require("partial_rotary_factor", (1.0, None))
        inner.require("factor", (1.0, None))
        thetas[kind] = inner.number("rope_theta", fields.number(fallback, DEFAULT_THETA[kind]))
    return thetas


def _bert(fields: _Fields, family: Family) -> EncoderConfig:
    fields.require("hidden_act", ("gelu",), "gelu")
    fields.require("position_embedding_type", ("absolute", None))
    fields.require("embedding_size", (fields.raw.get("hidden_size"), None))
    layers, dropout = fields.integer("num_hidden_layers"), fields.number("hidden_dropout_prob", 0.1)
    pad = fields.pad(0 if family == "bert" else 1)
    positions = fields.integer("max_position_embeddings", 512)
    if family == "roberta":
        if pad is None:
            raise EncoderError(f"{fields.source}: pad_token_id=None: RoBERTa counts its positions from it")
        positions -= pad + 1
    return EncoderConfig(
        family=family,
        hidden_size=fields.integer("hidden_size"),
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=layers,
        num_heads=fields.integer("num_attention_heads"),
        vocab_size=fields.integer("vocab_size"),
        max_positions=positions,
        pad_token_id=pad,
        norm_eps=fields.number("layer_norm_eps", 1e-12),
        norm_bias=True,
        attention_bias=True,
        mlp_bias=True,
        embedding_dropout=dropout,
        attention_dropout=dropout,
        mlp_dropout=dropout,
        initializer_range=fields.number("initializer_range", 0.02),
        initializer_cutoff=None,
        windows=(None,) * layers,
        thetas=(),
        type_vocab_size=fields.integer("type_vocab_size", 2),
        raw=fields.raw,
    )


def _check_sizes(config: EncoderConfig, fields: _Fields) -> None:
    for name in (
        "hidden_size",
        "intermediate_size",
        "num_layers",
        "num_heads",
        "vocab_size",
        "max_positions",
    ):
        if getattr(config, name) < 1:
            raise EncoderError(f"{fields.source}: {name}={getattr(config, name)} must be at least 1")
    if config.type_vocab_size < 0:
        raise EncoderError(f"{fields.source}: type_vocab_size={config.type_vocab_size} must be at least 0")
    if config.num_layers > MOST_LAYERS:
        raise EncoderError(f"{fields.source}: num_layers={config.num_layers} must be at most {MOST_LAYERS}")
    for name in ("embedding_dropout", "attention_dropout", "mlp_dropout"):
        if not 0.0 <= getattr(config, name) < 1.0:
            raise EncoderError(f"{fields.source}: {name}={getattr(config, name)} must be in [0, 1)")
    if config.hidden_size % config.num_heads:
        raise EncoderError(
            f"{fields.source}: hidden_size={config.hidden_size} is no multiple of "
            f"num_attention_heads={config.num_heads}"
        )
    if config.thetas and config.head_dim % 2:
        raise EncoderError(f"{fields.source}: a head of {config.head_dim} features is odd: rotary positions need pairs")
    fields.require("head_dim", (config.head_dim, None))
    fields.require("num_key_value_heads", (config.num_heads, None))
    pad = config.pad_token_id
    if pad is not None and not -config.vocab_size <= pad < config.vocab_size:
        raise EncoderError(f"{fields.source}: pad_token_id={pad} is none of {config.vocab_size} tokens")
