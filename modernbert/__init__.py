"""Packed (padding-free) encoders of the ModernBERT and BERT families.

encoder = load_encoder(resolve("minilm"))
hidden = encoder(pack([[101, 7592, 102], [101, 2088, 999, 102]]))   # (7, 384)
"""

from __future__ import annotations

from modernbert.config import EncoderConfig, read_config
from modernbert.errors import BackendError, ConfigError, DataError, EncoderError, ModernBertError
from modernbert.packing import Packed, from_padded, pack, split, to_padded, unpack
from modernbert.weights import (
    build_encoder,
    encoder_to_hf,
    load_encoder,
    read_tensors,
    resolve,
    save_checkpoint,
)

__all__ = [
    "BackendError",
    "ConfigError",
    "DataError",
    "EncoderConfig",
    "EncoderError",
    "ModernBertError",
    "Packed",
    "build_encoder",
    "encoder_to_hf",
    "from_padded",
    "load_encoder",
    "pack",
    "read_config",
    "read_tensors",
    "resolve",
    "save_checkpoint",
    "split",
    "to_padded",
    "unpack",
]
