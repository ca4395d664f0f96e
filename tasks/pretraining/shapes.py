"""Encoders that can be trained from scratch: their config.json, for transformers as for us."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modernbert.config import read_config
from modernbert.errors import ConfigError
from tasks.pretraining.tokenizer import SPECIALS

#: ModernBERT's architecture at two sizes; what stands here is what differs from MODERNBERT.
#: `pocket`: 19.4M parameters, 39 MB in fp16 with its tokenizer. Width, depth, heads and the biases are MiniLM's, so
#: that it can start from MiniLM's layers; its MLP is three quarters of MiniLM's, its vocabulary two thirds.
#: `tiny` is for trials: a run through all steps takes seconds.
SHAPES: dict[str, dict[str, Any]] = {
    "pocket": {
        "vocab_size": 20_480,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 1_152,
        "norm_bias": True,
        "attention_bias": True,
        "mlp_bias": True,
        "local_rope_theta": 160_000.0,
    },
    "tiny": {
        "vocab_size": 1_024,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 96,
    },
}
MODERNBERT: dict[str, Any] = {
    "model_type": "modernbert",
    "architectures": ["ModernBertForMaskedLM"],
    "max_position_embeddings": 8_192,
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
    "norm_bias": False,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "embedding_dropout": 0.0,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
    "initializer_range": 0.02,
    "initializer_cutoff_factor": 2.0,
    "decoder_bias": True,
    "classifier_pooling": "mean",
    "classifier_bias": False,
    "classifier_activation": "gelu",
    "classifier_dropout": 0.0,
    "tie_word_embeddings": True,
}


def shape_config(shape: str) -> dict[str, Any]:
    """config.json of a shape by its name, or of a folder (or file) that holds one.

    Raises:
        ConfigError: neither a name nor a place.
        EncoderError: the file asks for what is not implemented.
    """
    if shape in SHAPES:
        ids = {f"{name.strip('[]').lower()}_token_id": i for i, name in enumerate(SPECIALS)}
        del ids["unk_token_id"], ids["mask_token_id"]
        ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
        raw = MODERNBERT | ids | SHAPES[shape]
        # transformers 5 reads these two; older ones, and we, the fields above.
        kinds = {"full_attention": raw["global_rope_theta"], "sliding_attention": raw["local_rope_theta"]}
        every = raw["global_attn_every_n_layers"]
        return raw | {
            "layer_types": [list(kinds)[i % every != 0] for i in range(raw["num_hidden_layers"])],
            "rope_parameters": {kind: {"rope_type": "default", "rope_theta": theta} for kind, theta in kinds.items()},
        }
    path = Path(shape).expanduser()
    if path.is_dir():
        return read_config(path).raw
    if path.is_file():
        raw = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(raw, dict):
            return raw
    raise ConfigError(f"shape={shape}: allowed is {', '.join(SHAPES)}, or a folder or file with a config.json")
