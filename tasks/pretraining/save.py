"""An encoder as a folder that transformers, sentence-transformers and `encoder.source` take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert.weights import Encoder, encoder_to_hf, save_checkpoint
from tasks.run import write_json

FAMILY = {"modernbert": "ModernBert", "bert": "Bert", "roberta": "Roberta"}


def save_encoder(
    folder: Path, encoder: Encoder, half: bool, head: Mapping[str, Tensor] | None = None, pooled: bool = False
) -> None:
    """Write config.json and model.safetensors; the tokenizer is there already.

    Args:
        half: in float16, which is read back as float32; half the bytes, and what a small encoder is shipped in.
        head: tensors of a masked-language head under their Hugging Face names; the architecture says so.
        pooled: mean-pooled vectors mean something: write the modules by which sentence-transformers takes them.
    """
    tensors = encoder_to_hf(encoder) | dict(head or {})
    if half:
        tensors = {name: value.to(torch.float16) for name, value in tensors.items()}
    family = "XLMRoberta" if encoder.config.raw.get("model_type") == "xlm-roberta" else FAMILY[encoder.config.family]
    raw: dict[str, Any] = dict(encoder.config.raw)
    raw["architectures"] = [family + ("ForMaskedLM" if head else "Model")]
    raw.pop("torch_dtype", None)
    raw["dtype"] = "float16" if half else "float32"
    save_checkpoint(folder, tensors, raw)
    if pooled:
        _sentence_modules(folder, encoder)


def _sentence_modules(folder: Path, encoder: Encoder) -> None:
    """Transformer and mean pooling, by sentence-transformers' own file names."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    write_json(folder / "modules.json", modules)
    (folder / "1_Pooling").mkdir(exist_ok=True)
    pooling = {"word_embedding_dimension": encoder.config.hidden_size, "pooling_mode_mean_tokens": True}
    write_json(folder / "1_Pooling" / "config.json", pooling)
