"""A run as sentence-transformers loads it: a SentenceTransformer of dense vectors, or a CrossEncoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from modernbert.config import read_config
from modernbert.packing import Packed
from tasks.export.padded import input_names, no_progress_bar, pad, pad_token


class SentenceModel:
    """The folder in sentence-transformers, behind the packed call of the gate.

    Args:
        folder: the layout of a saved run's model/.
        vectors: dense vectors, else the scores of a CrossEncoder.
    """

    def __init__(self, folder: Path, vectors: bool) -> None:
        import sentence_transformers

        with no_progress_bar():
            made: Any = sentence_transformers.SentenceTransformer if vectors else sentence_transformers.CrossEncoder
            self.model: Any = made(str(folder), device="cpu")
        self.vectors, config = vectors, read_config(folder)
        self.inputs, self.pad_token_id = input_names(config.family), pad_token(config)
        self.names: tuple[str, ...]
        if vectors:
            self.names = (self.model.prompts["query"], self.model.prompts["document"])
        else:
            labels = self.model.config.id2label
            self.names = tuple(str(labels[i]) for i in range(len(labels)))

    def __call__(self, packed: Packed) -> Tensor:
        inputs = pad(packed, self.inputs, self.pad_token_id)
        with torch.inference_mode():
            if self.vectors:
                return self.model(inputs)["sentence_embedding"]
            return self.model.model(**inputs).logits
