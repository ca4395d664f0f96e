"""Help that teaches: verbs, tasks, and for each verb its examples, groups and keys, read from conf/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from app import console
from app.catalog import Card, Catalog, Key, card

FLAGS = {
    "--help": "this text; with task=… also the keys of that task",
    "--cfg job": "print the composed configuration and stop; --resolve fills in ${…}",
    "--multirun": "one run for each combination of comma lists, as in seed=0,1,2",
    "--config-dir DIR": "a folder laid out like conf/ with YAMLs of your own",
}


def print_verbs(verbs: Mapping[str, str]) -> None:
    """List the verbs: `modernbert` alone."""
    _print(
        Text.assemble(("modernbert", "bold"), " <verb> key=value …"),
        Text(""),
        _two_columns(verbs),
        Text(""),
        Text("modernbert train         lists the tasks, with an example each"),
        Text("modernbert <verb> --help teaches a verb: its keys, their defaults, examples"),
    )


def print_tasks(verb: str) -> None:
    """List the tasks with an example each: `modernbert train` alone."""
    parts: list[RenderableType] = [Text("Choose a task:"), Text("")]
    for task in Catalog().cards("task"):
        parts.append(Text.assemble((f"task={task.name}", "bold"), f"  {task.about}"))
        parts += [_indent(Text(example)) for example in task.examples[:1]]
    parts += [Text(""), Text(f"modernbert {verb} --help lists encoders, trainers, recipes and all keys.")]
    _print(*parts)


def print_help(verb: str, config: str, words: Sequence[str], own: Path | None) -> None:
    """Teach one verb. Groups chosen in `words` show their own keys; a task not chosen, those of the first."""
    catalog = Catalog(own)
    choices = catalog.defaults(config)
    for word in words:
        group, _, chosen = word.partition("=")
        if group in choices and chosen in catalog.options(group):
            choices[group] = chosen
    for group, option in choices.items():
        if option == "???":
            choices[group] = catalog.options(group)[0]
    file = catalog.file(config)
    about = card(file) if file is not None else Card(verb, "", (), False)
    parts: list[RenderableType] = [Text.assemble((f"modernbert {verb}", "bold"), f"  {about.about}")]
    parts += [_title("Examples"), *(_indent(Text(example)) for example in about.examples)]
    if choices:
        parts += [_title("Groups (* is the default)"), _indent(_groups(catalog, choices))]
    parts += [_title("Keys (??? must be given)"), _indent(_keys(catalog.keys(config, choices)))]
    parts += [_title("Flags"), _indent(_two_columns(FLAGS))]
    _print(*parts)


def _groups(catalog: Catalog, choices: Mapping[str, str | None]) -> Table:
    drawn = _columns()
    for group, chosen in choices.items():
        cards = catalog.cards(group)
        if len(cards) == 1 and group != "task":
            continue
        for option in cards:
            mark = " *" if option.name == chosen else ""
            drawn.add_row(Text(f"{group}={option.name}{mark}"), Text(option.about))
    return drawn


def _keys(keys: Sequence[Key]) -> Table:
    """Keys by section; what must be given comes before what can be."""
    sections = list(dict.fromkeys(_section(key) for key in keys))
    sections.sort(key=lambda name: name not in ("data", "task"))
    drawn = _columns()
    for section in sections:
        for key in (key for key in keys if _section(key) == section):
            style = "bold" if key.default == "???" else "cyan"
            drawn.add_row(Text.assemble(f"{key.path}=", (key.default, style)), Text(key.comment))
    return drawn


def _section(key: Key) -> str:
    return key.path.partition(".")[0]


def _two_columns(rows: Mapping[str, str]) -> Table:
    drawn = _columns()
    for name, text in rows.items():
        drawn.add_row(Text(name), Text(text))
    return drawn


def _columns() -> Table:
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    drawn.add_column(no_wrap=True)
    drawn.add_column(overflow="fold")
    return drawn


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _indent(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2), expand=False)


def _print(*parts: RenderableType) -> None:
    console.out().print(Group(*parts))
