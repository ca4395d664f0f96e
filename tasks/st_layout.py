"""The files by which sentence-transformers finds its modules in a model folder: written for a saved run, and read from
a checkpoint that comes with them.

Layout of sentence-transformers 6 (modules.json names the modules in order, each with a folder of its own); dense models
also load in its versions 2 to 5.
"""

from __future__ import annotations

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from safetensors.torch import save_file
from torch import Tensor

from modernbert.errors import EncoderError
from modernbert.weights import read_tensors
from tasks.run import write_json
from tasks.vectors import Kind

MODULES, SETTINGS, TRANSFORMER = "modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"
#: Names under which the classes are found: the old ones, which every version knows, and those of version 6.
OLD, NEW, POOLS = "sentence_transformers.models.", "sentence_transformers.base.modules.", {"cls", "mean"}
ACTIVATIONS = {"torch.nn.modules.linear.Identity": "identity", "torch.nn.modules.activation.Tanh": "tanh"}
#: The classes of its models.
MODELS = {"dense": "SentenceTransformer", "multi_vector": "MultiVectorEncoder", "sparse": "SparseEncoder"}
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


@dataclass(frozen=True)
class Layout:
    """What the modules of a folder compute.

    Attributes:
        kind: which of its models it is.
        pooling: of a dense one.
        projection: tensors of its dense layer (linear.weight, linear.bias), or none.
        activation: of that layer, identity or tanh.
        query_prefix, document_prefix: its prompts.
        max_length, query_max_length: tokens of a text; None where it does not say.
        skips_punctuation: of a multi-vector one, in documents.
        query_expansion: tokens that queries of a multi-vector one are filled up to with the mask; 0 for none.
    """

    kind: Kind
    pooling: Literal["cls", "mean"] = "mean"
    projection: Mapping[str, Tensor] = field(default_factory=dict)
    activation: Literal["identity", "tanh"] = "identity"
    query_prefix: str = ""
    document_prefix: str = ""
    max_length: int | None = None
    query_max_length: int | None = None
    skips_punctuation: bool = True
    query_expansion: int = 0


def write_layout(folder: Path, layout: Layout, size: int, versions: Mapping[str, str]) -> None:
    """Write the module files beside a checkpoint.

    Args:
        folder: holds config.json, model.safetensors and the tokenizer.
        size: of the encoder's token vectors.
        versions: of torch and transformers, as the settings file names them.
    """
    modules: list[tuple[str, str, dict[str, Any], Mapping[str, Tensor]]] = []
    dense = projection_settings(layout, size)
    if layout.kind == "dense":
        modules.append((OLD + "Pooling", "Pooling", pooling_settings(layout.pooling, size), {}))
        if layout.projection:
            modules.append((OLD + "Dense", "Dense", dense, layout.projection))
        modules.append((OLD + "Normalize", "Normalize", feature("sentence_embedding"), {}))
    elif layout.kind == "multi_vector":
        modules.append((NEW + "dense.Dense", "Dense", dense | feature("token_embeddings"), layout.projection))
        modules.append((NEW + "normalize.Normalize", "Normalize", feature("token_embeddings"), {}))
        words = list(string.punctuation) if layout.skips_punctuation else []
        mask = {"skiplist_words": words, "skiplist_tasks": ["document"], "keep_only_token_ids": None}
        name = "sentence_transformers.multi_vector_encoder.modules.multi_vector_mask.MultiVectorMask"
        modules.append((name, "MultiVectorMask", mask, {}))
    else:
        pool = {"pooling_strategy": "max", "activation_function": "relu", "embedding_dimension": None}
        name = "sentence_transformers.sparse_encoder.modules.splade_pooling.SpladePooling"
        modules.append((name, "SpladePooling", pool, {}))
    first = OLD + "Transformer" if layout.kind == "dense" else NEW + "transformer.Transformer"
    listed = [{"idx": 0, "name": "0", "path": "", "type": first}]
    for place, (type_, name, settings, tensors) in enumerate(modules, start=1):
        path = f"{place}_{name}"
        listed.append({"idx": place, "name": str(place), "path": path, "type": type_})
        (folder / path).mkdir(parents=True, exist_ok=True)
        write_json(folder / path / "config.json", settings)
        if tensors:
            whole = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
            save_file(whole, folder / path / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / MODULES, listed)
    write_json(folder / TRANSFORMER, transformer_settings(layout))
    write_json(folder / SETTINGS, model_settings(layout, versions))


def pooling_settings(pooling: str, size: int) -> dict[str, Any]:
    """1_Pooling/config.json, in the keys of before version 6, which every version reads."""
    modes = {"cls_token": "cls", "mean_tokens": "mean", "max_tokens": "max", "mean_sqrt_len_tokens": "sqrt"}
    switches = {f"pooling_mode_{name}": mode == pooling for name, mode in modes.items()}
    return {"word_embedding_dimension": size} | switches | {"include_prompt": True}


def projection_settings(layout: Layout, size: int) -> dict[str, Any]:
    """config.json of the dense layer."""
    if not layout.projection:
        return {}
    name = next(path for path, activation in ACTIVATIONS.items() if activation == layout.activation)
    out = len(layout.projection["linear.weight"])
    has_bias = "linear.bias" in layout.projection
    return {"in_features": size, "out_features": out, "bias": has_bias, "activation_function": name}


def feature(name: str) -> dict[str, str]:
    """Which of the passed values a module reads and writes."""
    return {"module_input_name": name, "module_output_name": name}


def transformer_settings(layout: Layout) -> dict[str, Any]:
    """sentence_bert_config.json: lengths, and for sparse models that the masked-language head is wanted."""
    settings: dict[str, Any] = {"max_seq_length": layout.max_length, "do_lower_case": False}
    if layout.kind == "sparse":
        output = {"text": {"method": "forward", "method_output_name": "logits"}}
        settings |= {"transformer_task": "fill-mask", "modality_config": output}
        settings["module_output_name"] = "token_embeddings"
    if layout.query_expansion:
        settings["query_expansion"] = {"strategy": "fixed", "attend": True, "length": layout.query_expansion}
    elif layout.query_max_length is not None:
        settings["query_length"] = layout.query_max_length
    return settings


def model_settings(layout: Layout, versions: Mapping[str, str]) -> dict[str, Any]:
    """config_sentence_transformers.json: which model it is, prompts and similarity."""
    similarity = {"dense": "cosine", "multi_vector": "maxsim", "sparse": "dot"}
    return {
        "model_type": MODELS[layout.kind],
        # The version the layout is of; nothing of it needs to be installed here.
        "__version__": {"sentence_transformers": "6.0.0", **versions},
        "prompts": {"query": layout.query_prefix, "document": layout.document_prefix},
        "default_prompt_name": None,
        "similarity_fn_name": similarity[layout.kind],
    }


def read_layout(folder: Path) -> Layout | None:
    """What the modules of a checkpoint folder compute; None where it has none (a plain encoder).

    Raises:
        EncoderError: a module, or a setting of one, that would compute something else than we do.
    """
    if not (folder / MODULES).is_file():
        return None
    modules = [
        (str(module["type"]).rpartition(".")[2], folder / module["path"]) for module in read_json(folder / MODULES)
    ]
    names = [name for name, _ in modules]
    paths = dict(modules)
    known = {"Transformer", "MLMTransformer", "Pooling", "Dense", "Normalize", "MultiVectorMask", "SpladePooling"}
    odd = [name for name in names if name not in known or names.count(name) > 1]
    if odd or not names or names[0] not in ("Transformer", "MLMTransformer"):
        raise EncoderError(
            f"{folder / MODULES} asks for {', '.join(names)}: implemented are a Transformer with Pooling (cls or "
            "mean), at most one Dense layer and Normalize, or those of multi-vector and SPLADE models."
        )
    kind: Kind = "sparse" if "SpladePooling" in names else "dense" if "Pooling" in names else "multi_vector"
    settings, transformer = (read_json(folder / name) for name in (SETTINGS, TRANSFORMER))
    prompts = settings.get("prompts") or {}
    words = read_json(paths["MultiVectorMask"] / "config.json") if "MultiVectorMask" in paths else {}
    if kind == "dense":
        refuse_dot(folder, settings, names)
    found: dict[str, Any] = {}
    if kind == "sparse":
        refuse_pooling(
            paths["SpladePooling"] / "config.json", {"pooling_strategy": "max", "activation_function": "relu"}
        )
    if kind == "dense":
        found["pooling"] = read_pooling(paths["Pooling"] / "config.json")
    if "Dense" in paths:
        found |= read_projection(paths["Dense"])
    return Layout(
        kind,
        **found,
        query_prefix=prompts.get("query") or "",
        document_prefix=next((prompts[name] for name in DOCUMENT_PROMPTS if prompts.get(name)), ""),
        max_length=transformer.get("max_seq_length"),
        query_max_length=transformer.get("query_length"),
        skips_punctuation=bool(words.get("skiplist_words")),
        query_expansion=read_expansion(folder, transformer),
    )


def read_expansion(folder: Path, transformer: Mapping[str, Any]) -> int:
    """Tokens that queries are filled up to; 0 for none."""
    asked = transformer.get("query_expansion")
    if asked is None:
        return 0
    if asked.get("strategy") != "fixed" or not asked.get("attend") or asked.get("token") is not None:
        raise EncoderError(
            f"{folder / TRANSFORMER}: query_expansion={asked} is not implemented; it must be of strategy fixed, with "
            "the tokenizer's mask, attended to."
        )
    return int(asked["length"])


def read_pooling(path: Path) -> str:
    """cls or mean."""
    settings = read_json(path)
    legacy = {"cls_token": "cls", "mean_tokens": "mean"}
    modes = settings.get("pooling_mode")
    if modes is None:
        on = [
            key.removeprefix("pooling_mode_")
            for key, value in settings.items()
            if key.startswith("pooling_mode_") and value
        ]
        modes = [legacy.get(mode, mode) for mode in on] or ["mean"]
    modes = [modes] if isinstance(modes, str) else list(modes)
    if len(modes) != 1 or modes[0] not in POOLS or settings.get("include_prompt", True) is not True:
        raise EncoderError(f"{path}: {settings} is not implemented; pooling must be cls or mean, the prompt included.")
    return modes[0]


def read_projection(folder: Path) -> dict[str, Any]:
    """Tensors and activation of a dense layer."""
    settings = read_json(folder / "config.json")
    activation = ACTIVATIONS.get(settings.get("activation_function", "torch.nn.modules.activation.Tanh"))
    if activation is None or settings.get("use_residual"):
        raise EncoderError(
            f"{folder / 'config.json'}: {settings} is not implemented; the activation must be Tanh or Identity."
        )
    return {"projection": read_tensors(folder), "activation": activation}


def refuse_dot(folder: Path, settings: Mapping[str, Any], names: Sequence[str]) -> None:
    """A model of dot products of unequal lengths is another model once its vectors are normalised."""
    if "Normalize" not in names and settings.get("similarity_fn_name") in ("dot", "dot_score"):
        raise EncoderError(
            f"{folder} compares vectors of any length by dot product; here they are normalised, so it would answer "
            "otherwise. Choose an encoder made for cosine similarity."
        )


def refuse_pooling(path: Path, wanted: Mapping[str, str]) -> None:
    """EncoderError unless a settings file says what is wanted, or nothing."""
    settings = read_json(path)
    if odd := {key: settings[key] for key, value in wanted.items() if settings.get(key, value) != value}:
        raise EncoderError(f"{path}: {odd} is not implemented; it must be {dict(wanted)}.")


def read_json(path: Path) -> Any:
    """A JSON file; {} where there is none.

    Raises:
        EncoderError: it cannot be read.
    """
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"{path} cannot be read as JSON: {error}") from error
