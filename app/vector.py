"""`modernbert vector`: what trainings added to a base encoder, scaled, added up, or taken away."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from app import console
from app.failures import OK
from app.soup import output_folder, recipe, write_run
from modernbert import weights
from modernbert.errors import ConfigError
from tasks.merging import Model, add_vectors, encoder_tensors, read_model, require_on_base, tensor_differences
from tasks.run import copy_tokenizer


def main(cfg: DictConfig) -> int:
    """base + sum of scale * (run - base), as an encoder or as a run; returns the exit status."""
    folder = weights.resolve(cfg.base, cfg.revision)
    base, models = read_model(folder), [read_model(Path(str(run)).expanduser()) for run in cfg.runs]
    scales = check_scales(list(cfg.scales), len(models))
    for model in models:
        require_on_base(base, model)
    start, moved = encoder_tensors(base.folder), [encoder_tensors(model.folder) for model in models]
    for model, tensors in zip(models, moved, strict=True):
        if found := tensor_differences(start, tensors):
            raise ConfigError(f"runs: {model.name} is no training of base={base.name}: {'; '.join(found)}")
    merged = add_vectors(start, moved, scales)
    output = output_folder(cfg.output, models)
    terms = " ".join(f"{scale:+g} * ({model.name} - base)" for scale, model in zip(scales, models, strict=True))
    if cfg.head is None:
        weights.save_checkpoint(output, merged, base.config)
        copy_tokenizer(base.folder, output, weights.load_encoder(base.folder).config.max_positions)
        console.out().print(f"base {terms}\ntrain with encoder.source={output}", soft_wrap=True)
        return OK
    owner = head_owner(str(cfg.head), models)
    made = recipe(models) | {"base": base.weights, "scales": scales}
    write_run(output, owner, owner.tensors | merged, {"vector": made})
    console.out().print(f"base {terms}, with the head of {owner.name}\nrun={output}", soft_wrap=True)
    return OK


def check_scales(given: list[float], count: int) -> list[float]:
    """One scale for each run; a single one is for all.

    Raises:
        ConfigError: another number of them, or no run.
    """
    if not count:
        raise ConfigError("runs: give at least one saved run or encoder: runs=[a]")
    scales = [float(scale) for scale in given]
    if len(scales) not in (1, count):
        raise ConfigError(f"scales: {len(scales)} for {count} runs; give one for each, or one for all")
    return scales * (count if len(scales) == 1 else 1)


def head_owner(head: str, models: list[Model]) -> Model:
    """The run whose head and task the result gets.

    Raises:
        ConfigError: it is none of `runs`, or an encoder without a head.
    """
    for model in models:
        if Path(model.name).resolve() == Path(head).expanduser().resolve():
            if model.info is None:
                raise ConfigError(f"head={head} is an encoder: only a saved run has a head")
            return model
    raise ConfigError(f"head={head}: name one of runs, {', '.join(model.name for model in models)}")
