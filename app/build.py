"""The only place that turns a configuration into objects of ours."""

from __future__ import annotations

from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from modernbert.errors import ConfigError

TASKS = "tasks."


def build_task(cfg: DictConfig, **parts: Any) -> Any:
    """Build `cfg.task`, handing it `parts` (encoder, schema, optim …) beside its own keys.

    Raises:
        ConfigError: `task._target_` is missing or outside tasks/, or the task refuses a value.
    """
    target = str(cfg.task.get("_target_"))
    if not target.startswith(TASKS):
        raise ConfigError(f"task._target_={target}: allowed is a class under {TASKS}*, as tasks.ner.Ner.")
    # The parts are given in a second call: Hydra would turn a dataclass among them into a configuration, and
    # would wrap an error of the constructor in one of its own.
    keys = {key: value for key, value in cfg.task.items() if key != "name"}
    build = instantiate(keys, _partial_=True, _convert_="all")
    return build(**parts)
