"""The YAML files: every option composes, fits what it builds, and is explained."""

from __future__ import annotations

import importlib
import inspect
import shlex
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from app import resume
from app.catalog import CONF, Catalog, card, leaves, natural
from app.cli import VERBS, find_verb
from app.compose import compose, plain

CATALOG = Catalog()
CONFIGS = sorted({verb.config for verb in VERBS.values()})
OPTIONS = [(group, option) for group in CATALOG.groups() for option in CATALOG.options(group)]
TASKS = CATALOG.options("task")
FILES = sorted(path.relative_to(CONF).as_posix() for path in CONF.rglob("*.yaml"))


def composed(group: str, option: str) -> dict:
    words = [f"{group}={option}"]
    if group not in ("task", "experiment"):
        words.append(f"task={TASKS[0]}")
    return plain(compose("train", words, complete=False), resolve=False)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_option_composes_to_the_documented_keys(group: str, option: str) -> None:
    config = composed(group, option)
    choices = CATALOG.defaults("train") | {"task": TASKS[0], group: option} | CATALOG.overridden(group, option)
    documented = {key.path for key in CATALOG.keys("train", choices)}
    assert {path for path in leaves(config) if path != "task._target_"} == documented


@pytest.mark.parametrize("task", TASKS)
def test_task_fits_its_target(task: str) -> None:
    keys = composed("task", task)["task"]
    module, _, name = keys.pop("_target_").rpartition(".")
    try:
        target = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        pytest.xfail(f"{module} is not written yet")
    assert keys.pop("name") == task
    inspect.signature(target).bind_partial(**keys)


def test_sections_fit_what_reads_them() -> None:
    from tasks.data.module import DataSettings
    from tasks.optim import Optim

    config = composed("task", TASKS[0])
    inspect.signature(DataSettings).bind(**config["data"])
    optim = {key: value for key, value in config["optim"].items() if key not in ("name", "batch_size")}
    inspect.signature(Optim).bind(**optim)


@pytest.mark.parametrize("file", FILES)
def test_file_says_what_it_is(file: str) -> None:
    about = card(CONF / file).about
    assert about.endswith(".")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_key_is_explained(config: str) -> None:
    choices = {g: CATALOG.options(g)[0] for g in CATALOG.defaults(config)}
    unexplained = [key.path for key in CATALOG.keys(config, choices) if not key.comment]
    assert unexplained == []


@pytest.mark.parametrize("file", [f for f in FILES if "/" not in f or f.startswith(("task/", "experiment/"))])
def test_every_example_is_a_command_that_composes(file: str) -> None:
    examples = card(CONF / file).examples
    assert examples
    for example in examples:
        program, *words = shlex.split(example)
        assert program == "modernbert"
        verb, words = find_verb(words)
        words = [{"--json": "json=true"}.get(word, word) for word in words]
        if "--multirun" in words:
            words = [word for word in words if "," not in word and word != "--multirun"]
        if verb == "train" and resume.asked(words):
            continue  # takes every key from the run that it names
        compose(VERBS[verb].config, words)


def test_learning_rate_follows_the_encoder() -> None:
    words = ["task=classification", "data.train=x.csv"]
    assert compose("train", [*words, "encoder=modernbert-large"]).optim.lr == 3e-5
    assert compose("train", [*words, "encoder=modernbert-large", "optim.lr=1e-5"]).optim.lr == 1e-5


def test_recipe_chooses_its_task_and_columns() -> None:
    config = compose("train", ["experiment=clinc150", "data.train=x.csv"])
    assert (config.task.name, config.data.columns.label) == ("classification", "intent")


def test_conf_is_package_data() -> None:
    # An installed wheel must carry the YAMLs: the package-data pattern has to reach every one of them.
    import tomllib

    root = Path(CONF).parent
    patterns = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["conf"]
    assert {f for p in patterns for f in CONF.glob(p)} == set(CONF.rglob("*.yaml"))


def test_sizes_sort_by_size() -> None:
    names = ["ettin-1b", "ettin-150m", "ettin-17m", "minilm", "bert-base"]
    assert sorted(names, key=natural) == ["bert-base", "ettin-17m", "ettin-150m", "ettin-1b", "minilm"]


def test_plain_resolves() -> None:
    config = OmegaConf.create({"a": {"b": 1}, "c": "${a.b}"})
    assert plain(config) == {"a": {"b": 1}, "c": 1}
