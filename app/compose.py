"""From the words on the command line to a composed configuration, by Hydra's compose API.

Hydra's own messages speak of its search path and its struct flag; a person who mistyped a key needs the right
key: every word is checked against the keys and options of conf/ first, and Hydra composes what is left.
"""

from __future__ import annotations

import itertools
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from app.catalog import Catalog, Key, card, leaves
from app.usage import UsageError, closest

# `encoder=./folder` and `data=rows.csv` are natural slips: the key that takes such a value.
SOURCE_KEY = {"encoder": "encoder.source", "data": "data.train", "task": "data.train"}

#: Seeds that numpy's generators take.
SEEDS = 1 << 32


def parse(words: Sequence[str]) -> list[Override]:
    """Parse `key=value` words by Hydra's grammar.

    Raises:
        UsageError: a word is no override, or changes the set of keys (`+key`, `~key`) or Hydra itself.
    """
    parser = OverridesParser.create()
    overrides = []
    for word in words:
        if "=" not in word and not word.startswith("~"):
            raise UsageError(f"'{word}' is not key=value.{_word_hint(word)}")
        try:
            override = parser.parse_override(word)
        except (OverrideParseException, HydraException) as error:
            raise UsageError(_malformed(word)) from error
        key = override.key_or_group
        if override.is_delete():
            raise UsageError(f"'{word}': keys are not taken away; to switch one off, write {key}=null.")
        if key == "hydra" or key.startswith("hydra."):
            raise UsageError(f"'{word}': hydra.* has no effect here; --config-dir adds your own YAMLs.")
        overrides.append(override)
    return overrides


def expand(overrides: Sequence[Override]) -> list[list[str]]:
    """One list of words for each combination of the comma lists, in order (the last key varies fastest)."""
    choices: list[list[str]] = []
    for override in overrides:
        if not override.is_sweep_override():
            choices.append([str(override.input_line)])
        elif override.is_discrete_sweep():
            key = override.get_key_element()
            choices.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            raise UsageError(f"'{override.input_line}': an interval has no end; list the values: key=a,b,c.")
    return [list(words) for words in itertools.product(*choices)]


def compose(config: str, words: Sequence[str], own: Path | None = None, complete: bool = True) -> DictConfig:
    """Compose one configuration.

    Args:
        config: name of the verb's YAML in conf/.
        words: overrides, `key=value`.
        own: a folder of the user's own YAMLs, laid out like conf/.
        complete: refuse keys that are still `???`.

    Raises:
        UsageError: an unknown key, group or option, a value of the wrong kind, or a missing key.
    """
    if own is not None and not own.is_dir():
        raise UsageError(f"--config-dir {own}: there is no such folder.")
    catalog = Catalog(own)
    overrides = parse(words)
    for override in overrides:
        if override.is_sweep_override():
            raise UsageError(_sweep_without_multirun(override))
    choices = _choices(config, overrides, catalog)
    known = {key.path: key for key in catalog.keys(config, choices)}
    _check_keys(overrides, choices, known)
    forced = [_forced(word, override, known) for word, override in zip(words, overrides, strict=True)]
    cfg = _hydra(config, forced, own)
    if own is not None:
        _check_own_files(cfg, config, choices)
    _check_values(cfg, overrides, known)
    if complete:
        _check_complete(cfg, config, catalog, known)
    return cfg


def plain(cfg: DictConfig, resolve: bool = True) -> dict[str, Any]:
    """The configuration as plain dicts and lists: what leaves app/ never carries OmegaConf."""
    container = OmegaConf.to_container(cfg, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _forced(word: str, override: Override, known: Mapping[str, Key]) -> str:
    """A key below one that is `{}` by default is new to Hydra and is forced: `++data.columns.text=body`."""
    below = any(_is_open(key) and override.key_or_group.startswith(key.path + ".") for key in known.values())
    return f"++{word.lstrip('+')}" if below else word


def _hydra(config: str, words: Sequence[str], own: Path | None) -> DictConfig:
    words = list(words)
    if own is not None:
        quoted = str(own.resolve()).replace("\\", "/").replace("'", "\\'")
        words.append(f"hydra.searchpath=['file://{quoted}']")
    try:
        with warnings.catch_warnings(), initialize_config_module("conf", version_base="1.3"):
            return hydra_compose(config, overrides=words)
    except (HydraException, OmegaConfBaseException, OSError, ValueError) as error:
        # What remains after our own checks is a mistake inside a YAML file of the user.
        raise UsageError(" ".join(str(error).split())) from error


def _choices(config: str, overrides: Sequence[Override], catalog: Catalog) -> dict[str, str | None]:
    """The option of each group: the verb's defaults, a recipe's own overrides, then the command line."""
    choices = catalog.defaults(config)
    given = {o.key_or_group: o for o in overrides if o.key_or_group in choices}
    for group, override in given.items():
        value = override.value()
        if value is None and catalog.defaults(config)[group] is None:
            choices[group] = None
            continue
        if value not in catalog.options(group):
            raise UsageError(_wrong_option(group, override, catalog))
        choices[group] = str(value)
    for group, option in list(choices.items()):
        for other, chosen in catalog.overridden(group, option).items():
            if other not in given:
                choices[other] = chosen
    for group, option in choices.items():
        if option == "???":
            slip = closest(group, [o.key_or_group for o in overrides if "." not in o.key_or_group])
            if slip is not None and slip not in choices:
                raise UsageError(f"'{slip}' is not a key. Did you mean {group}?")
            names = " | ".join(catalog.options(group))
            raise UsageError(f"{group} is missing: {group}={names}.\n{_example(config, catalog)}")
    return choices


def _check_keys(overrides: Sequence[Override], choices: Mapping[str, str | None], known: Mapping[str, Key]) -> None:
    paths = sorted({*known, *choices})
    for override in overrides:
        key = override.key_or_group
        # `task.class_weights={spam: 2}` replaces a leaf; `data.columns={text: body}` merges into a branch.
        if key in choices or key in known or any(_within(path, key) for path in known):
            continue
        if any(_is_open(owner) and _within(key, owner.path) for owner in known.values()):
            continue
        parent, _, last = key.rpartition(".")
        if parent in known and known[parent].value is None:
            raise UsageError(f"'{key}' is not a key, '{parent}' is: {parent}={{{last}: …}}.")
        best = closest(key, paths)
        hint = f"Did you mean {best}?" if best else "--help lists all keys."
        raise UsageError(f"'{key}' is not a key. {hint}")


def _check_own_files(cfg: DictConfig, config: str, choices: Mapping[str, str | None]) -> None:
    """Files of a user have the keys that ours have: one more is read by nothing, one less is missed later."""
    packaged = Catalog()
    defaults = packaged.defaults(config)
    usual = {g: o if packaged.file(g, o or "") else defaults[g] for g, o in choices.items()}
    expected = {key.path for key in packaged.keys(config, usual)}
    found = set(leaves(plain(cfg, resolve=False)))
    for path in sorted(found):
        # A task owns its keys and its columns; what is below a leaf of ours is that leaf's value.
        if path.startswith(("task.", "data.columns.")) or any(_within(path, p) for p in expected):
            continue
        best = closest(path, sorted(expected))
        hint = f" Did you mean {best}?" if best else ""
        raise UsageError(f"'{path}', set in a file under --config-dir, is not a key.{hint}")
    for path in sorted(expected):
        if not path.startswith(("task.", "data.columns.")) and not any(_within(f, path) for f in found):
            raise UsageError(f"'{path}' is missing in your file; start it with `defaults: [_shared, _self_]`.")


def _is_open(key: Key) -> bool:
    """Whether a person may add keys below it."""
    return key.value == {}


def _within(path: str, parent: str) -> bool:
    return path == parent or path.startswith(parent + ".")


def _check_values(cfg: DictConfig, overrides: Sequence[Override], known: Mapping[str, Key]) -> None:
    """Refuse a word where a number or true/false is wanted, and an interpolation that leads nowhere."""
    for override in overrides:
        key = known.get(override.key_or_group)
        if key is None:
            continue
        try:
            value = OmegaConf.select(cfg, key.path, throw_on_missing=False)
        except OmegaConfBaseException as error:
            raise UsageError(f"'{override.input_line}': {str(error).splitlines()[0]}.") from error
        target = re.fullmatch(r"\$\{([\w.]+)\}", key.default)
        default = known.get(target[1], key) if target else key
        wanted = _wanted(default.value, value)
        if key.path == "seed" and (value is None or (wanted is None and not 0 <= value < SEEDS)):
            wanted = f"a whole number from 0 to {SEEDS - 1:,}"
        if wanted:
            raise UsageError(f"'{override.input_line}': {key.path} is {wanted}, as {default.default}.")


def _wanted(default: Any, value: Any) -> str | None:
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(default, int) and isinstance(value, (str, float, bool)):
        return "a whole number"
    if isinstance(default, float) and isinstance(value, (str, bool)):
        return "a number"
    return None


def _check_complete(cfg: DictConfig, config: str, catalog: Catalog, known: Mapping[str, Key]) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg), key=list(known).index)
    if missing:
        named = "; ".join(f"{path}= ({known[path].comment})" for path in missing)
        raise UsageError(f"missing: {named}.\n{_example(config, catalog)}")


def _example(config: str, catalog: Catalog) -> str:
    file = catalog.file(config)
    examples = card(file).examples if file is not None else ()
    return f"Example: {examples[0]}" if examples else f"See modernbert {config} --help."


def _wrong_option(group: str, override: Override, catalog: Catalog) -> str:
    value = str(override.value())
    options = catalog.options(group)
    best = closest(value, options)
    message = f"'{override.input_line}': {group} has no option '{value}'."
    if best is not None:
        return f"{message} Did you mean {group}={best}?"
    if group in SOURCE_KEY and any(mark in value for mark in "/.\\"):
        return f"{message} Did you mean {SOURCE_KEY[group]}={value}?"
    return f"{message} There are: {', '.join(options)}."


def _word_hint(word: str) -> str:
    if word.startswith("-"):
        return " Flags are --help, --cfg job, --resolve, --config-dir DIR and --multirun."
    if Path(word).suffix:
        return f" Did you mean data.train={word}?"
    return " Example: data.train=reviews.csv"


def _malformed(word: str) -> str:
    key, _, value = word.partition("=")
    if not value.startswith(("[", "{", "'", '"')):
        escaped = value.replace("'", "\\'")
        return f"'{word}' cannot be read: quote a value with ()[]{{}},:= in it: \"{key}='{escaped}'\""
    return f"'{word}' cannot be read: a list is key=[a,b], a mapping key={{a: 1}}, a text key=\"'…'\"."


def _sweep_without_multirun(override: Override) -> str:
    key, _, value = str(override.input_line).partition("=")
    return (
        f"'{override.input_line}' has several values. One run for each: add --multirun. "
        f"A list: {key}=[{value}]. One text with a comma: \"{key}='{value}'\"."
    )
