"""What the YAML files under conf/ say about themselves: options, keys, defaults, comments, examples.

The files are read as text, not composed: help and the listing of tasks need neither Hydra nor torch. A file
opens with comment lines: first what it is, then `Example: …`; each key carries a comment on its own line.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from app.usage import UsageError

CONF = Path(__file__).resolve().parents[1] / "conf"


@dataclass(frozen=True)
class Key:
    """One key as a person types it, with its default as written and its comment."""

    path: str
    default: str
    value: Any
    comment: str


@dataclass(frozen=True)
class Card:
    """The opening comment of a YAML file."""

    name: str
    about: str
    examples: tuple[str, ...]
    is_global: bool


def card(file: Path) -> Card:
    """Read the comment lines a file opens with."""
    about: list[str] = []
    examples: list[str] = []
    is_global = False
    for line in file.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        text = line.lstrip("#").strip()
        if text.startswith("@package"):
            is_global = text.split()[1] == "_global_"
        elif text.startswith("Example:"):
            examples.append(text.removeprefix("Example:").strip())
        else:
            about.append(text)
    return Card(file.stem, " ".join(about), tuple(examples), is_global)


class Catalog:
    """The configuration files of the package, and of a user's own folder where one is given."""

    def __init__(self, own: Path | None = None) -> None:
        self.folders = [CONF] if own is None else [CONF, own]

    def groups(self) -> list[str]:
        """Names of all groups, such as `encoder`."""
        return sorted({f.parent.name for root in self.folders for f in root.glob("*/*.yaml")})

    def options(self, group: str) -> list[str]:
        """What `group=` accepts; a name that starts with an underscore is a shared part, not an option."""
        names = {f.stem for root in self.folders for f in (root / group).glob("*.yaml")}
        return sorted((n for n in names if not n.startswith("_")), key=natural)

    def file(self, *parts: str) -> Path | None:
        """The YAML file of a verb or of a group's option; the package's own files win."""
        found = (root.joinpath(*parts).with_name(parts[-1] + ".yaml") for root in self.folders)
        return next((f for f in found if f.is_file()), None)

    def cards(self, group: str) -> list[Card]:
        """The opening comments of all options of a group."""
        files = (self.file(group, option) for option in self.options(group))
        return [card(f) for f in files if f is not None]

    def defaults(self, config: str) -> dict[str, str | None]:
        """The groups of a verb with the option each takes when nothing is said: `???` must be chosen."""
        file = self.file(config)
        entries = _load(file).get("defaults", []) if file is not None else []
        return {g: o for e in entries if isinstance(e, dict) for g, o in e.items()}

    def overridden(self, group: str, option: str | None) -> dict[str, str | None]:
        """Groups that an option chooses for others (`override /task: …` in a recipe)."""
        file = self.file(group, option) if option not in (None, "???") else None
        entries = _load(file).get("defaults", []) if file is not None else []
        pairs = (pair for e in entries if isinstance(e, dict) for pair in e.items())
        return {g.removeprefix("override").strip(" /"): o for g, o in pairs if g.startswith("override")}

    def keys(self, config: str, choices: Mapping[str, str | None]) -> list[Key]:
        """Every key of a verb with the groups chosen as in `choices`; later files win, as in Hydra."""
        keys: dict[str, Key] = {}
        for file, package in self._files(config, choices):
            for key in _keys(file, package):
                # A preset's comment tells where its value is from; the first one tells what the key is.
                comment = keys[key.path].comment if key.path in keys else key.comment
                keys[key.path] = Key(key.path, key.default, key.value, comment)
        return list(keys.values())

    def _files(self, config: str, choices: Mapping[str, str | None]) -> Iterator[tuple[Path, str]]:
        file = self.file(config)
        if file is not None:
            yield file, ""
        for group, option in choices.items():
            yield from self._option_files(group, option)

    def _option_files(self, group: str, option: str | None) -> Iterator[tuple[Path, str]]:
        file = self.file(group, option) if option not in (None, "???") else None
        if file is None:
            return
        for entry in _load(file).get("defaults", []):
            if isinstance(entry, str) and entry != "_self_":
                yield from self._option_files(group, entry)
        yield file, "" if card(file).is_global else group


def natural(name: str) -> tuple[str, float, str]:
    """Sort key that puts ettin-17m before ettin-150m and that before ettin-1b."""
    stem, _, size = name.rpartition("-")
    unit = {"m": 1.0, "b": 1000.0}.get(size[-1:])
    if unit is not None and size[:-1].isdigit():
        return stem, float(size[:-1]) * unit, name
    return name, 0.0, name


def leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Key paths of a nested mapping; an empty mapping is a leaf."""
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping) and value:
            yield from leaves(value, path + ".")
        else:
            yield path


def _load(file: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise UsageError(f"{file} is not YAML: {' '.join(str(error).split())}.") from error
    return loaded if isinstance(loaded, dict) else {}


def _keys(file: Path, package: str) -> Iterator[Key]:
    text = file.read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if isinstance(root, yaml.MappingNode):
        yield from _walk(root, f"{package}." if package else "", text.splitlines())


def _walk(node: yaml.MappingNode, prefix: str, lines: Sequence[str]) -> Iterator[Key]:
    for name, value in node.value:
        if name.value in ("defaults", "_target_"):
            continue
        path = f"{prefix}{name.value}"
        if isinstance(value, yaml.MappingNode) and value.value and not value.flow_style:
            yield from _walk(value, path + ".", lines)
            continue
        # What follows the value on its line is its comment.
        start, end = value.start_mark, value.end_mark
        written = lines[start.line][start.column : end.column] if start.line == end.line else "…"
        comment = lines[end.line][end.column :].strip().lstrip("#").strip() if end.line < len(lines) else ""
        yield Key(path, written, yaml.safe_load(written) if written != "…" else None, comment)
