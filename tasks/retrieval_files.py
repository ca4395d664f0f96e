"""What a retrieval model leaves beside its checkpoint, and takes from there: modules of sentence-transformers, and what
those have no place for."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from modernbert.errors import ConfigError
from tasks import st_layout
from tasks.data.tokenise import load_tokenizer
from tasks.embedders import DenseHead, MultiVectorHead, SparseHead, new_head, punctuation_ids
from tasks.st_layout import Layout
from tasks.vectors import Kind

if TYPE_CHECKING:
    from tasks.retrieval import Retrieval

#: How passages are weighed (task.merging=attention). Other software reads documents whole.
PASSAGES = "passages.safetensors"


def layout_of(task: Retrieval) -> Layout:
    """What the sentence-transformers modules of this model compute."""
    schema, head = task.schema, task.head
    lengths = schema.max_length, schema.query_max_length
    common = (schema.query_prefix, schema.document_prefix, *lengths, task.skip_punctuation, schema.query_expansion)
    if isinstance(head, SparseHead):
        return Layout(task.kind, "mean", {}, "identity", *common)
    tensors = {} if head.projection is None else {f"linear.{k}": v for k, v in head.projection.state_dict().items()}
    if isinstance(head, MultiVectorHead):
        return Layout(task.kind, "mean", tensors, "identity", *common)
    return Layout(task.kind, head.pool, tensors, head.activation, *common)


def pooler_of(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """BERT's pooler, which nothing of ours reads, but transformers would say that it is missing."""
    found = {name.removeprefix(prefix): value for name, value in tensors.items()}
    return {name: value for name, value in found.items() if name.startswith("pooler.")}


def write(task: Retrieval, folder: Path) -> None:
    """The modules, and the weights of passages where these are learned."""
    versions = {"pytorch": torch.__version__, "transformers": importlib.metadata.version("transformers")}
    st_layout.write_layout(folder, layout_of(task), task.encoder.config.hidden_size, versions)
    attention = getattr(task.head, "attention", None)
    if attention is not None:
        save_file({name: value.cpu().contiguous() for name, value in attention.state_dict().items()}, folder / PASSAGES)


def read(task: Retrieval, folder: Path, strict: bool) -> None:
    """Pooling and projection as the modules of a checkpoint have them, where the task's keys leave it open.

    Raises:
        ConfigError: a saved run without its modules.
    """
    found = st_layout.read_layout(folder)
    if strict and (found is None or found.kind != task.kind):
        raise ConfigError(f"{folder} has no modules of a {task.kind} model beside its weights: save the run again.")
    if found is not None and found.kind == task.kind and task.kind != "sparse":
        pooling = task.asked_pooling or found.pooling
        head = new_head(task.encoder, found, task.asked_projection, pooling, task.merging)
        task.head = head.to(task.device)
        task.objective.check_size(task.head.size)
    if isinstance(task.head, DenseHead) and task.head.attention is not None:
        read_attention(task.head.attention, folder / PASSAGES, strict)
    if task.kind == "multi_vector" and task.skip_punctuation:
        task.punctuation = torch.tensor(punctuation_ids(load_tokenizer(folder)), device=task.device)
    if task.kind == "sparse":
        task.words = list(load_tokenizer(folder).convert_ids_to_tokens(list(range(task.head.size))))


def usage(kind: Kind, text: str) -> str:
    """How a model is asked about a text without a line of ours."""
    name = st_layout.MODELS[kind]
    call = f"model.similarity(model.encode_query([{text!r}]), model.encode_document(['It comes on Monday.']))"
    return f'from sentence_transformers import {name}\n\nmodel = {name}("model")\n{call}'


def read_attention(attention: torch.nn.Linear, path: Path, strict: bool) -> None:
    """How passages are weighed; an encoder that was not trained for it begins with their mean."""
    if path.is_file():
        attention.load_state_dict(load_file(path))
    elif strict:
        raise ConfigError(f"{path} is missing, which says how passages are weighed: save the run again.")
