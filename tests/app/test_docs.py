"""The documentation against the code: every verb, group, key, default, doctor's code and relative link."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.catalog import Catalog, Key
from app.cli import VERBS
from app.manual import FLAGS

ROOT = Path(__file__).resolve().parents[2]
CATALOG = Catalog()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
DATA = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def section(title: str) -> str:
    """The text under a heading of configuration.md, up to the next one of any level."""
    _, found, rest = CONFIGURATION.partition(f"# {title}\n")
    assert found, f"docs/configuration.md has no heading {title!r}"
    return rest.split("\n#", 1)[0]


def row(key: Key) -> str:
    """How the table row of a key begins; what it means may be said in other words than in conf/."""
    default = key.default.replace("|", "\\|")
    return f"| `{key.path}` | `{default}` | "


def findings() -> Iterator[tuple[str, str]]:
    """(code, level) of every finding of doctor and readers: `Problem(level, code, …)`, or what wraps it."""
    data = ROOT / "tasks" / "data"
    for file in (*sorted(data.glob("doctor/*.py")), *sorted(data.glob("readers/*.py"))):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and len(node.args) > 1:
                level, code = (arg.value if isinstance(arg, ast.Constant) else None for arg in node.args[:2])
                if level in ("error", "warning") and isinstance(code, str):
                    yield code, str(level)


def anchor(heading: str) -> str:
    """The name that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("verb", VERBS)
def test_keys_of_a_verb_are_documented(verb: str) -> None:
    missing = [line for key in CATALOG.keys(VERBS[verb].config, {}) if (line := row(key)) not in section(verb)]
    assert missing == []


@pytest.mark.parametrize("group", [group for group in CATALOG.groups() if group not in ("task", "experiment")])
def test_keys_of_a_group_are_documented(group: str) -> None:
    option = CATALOG.defaults("train")[group]
    missing = [line for key in CATALOG.keys("", {group: option}) if (line := row(key)) not in section(group)]
    assert missing == []


@pytest.mark.parametrize("task", CATALOG.options("task"))
def test_keys_of_a_task_are_documented(task: str) -> None:
    text = section(f"task={task}")
    assert [line for key in CATALOG.keys("", {"task": task}) if (line := row(key)) not in text] == []


@pytest.mark.parametrize("group", CATALOG.groups())
def test_options_of_a_group_are_documented(group: str) -> None:
    text = section("Recipes" if group == "experiment" else group)
    found = re.findall(rf"^\| `{group}=([\w.-]+)` \|", text, re.MULTILINE)
    assert sorted(found) == sorted(CATALOG.options(group))


def test_defaults_of_encoders_are_documented() -> None:
    text = section("encoder")
    for option in CATALOG.options("encoder"):
        keys = {key.path: key.default for key in CATALOG.keys("", {"encoder": option})}
        line = next(line for line in text.splitlines() if line.startswith(f"| `encoder={option}` |"))
        assert line.endswith(f"| `{keys['encoder.source']}` | `{keys['encoder.default_lr']}` |")


def test_no_key_is_documented_that_is_gone() -> None:
    chosen = {f"{group}={option}": {group: option} for group in CATALOG.groups() for option in CATALOG.options(group)}
    keys = [key for choices in chosen.values() for key in CATALOG.keys("", choices)]
    keys += [key for verb in VERBS.values() for key in CATALOG.keys(verb.config, {})]
    documented = set(re.findall(r"^\| `([\w.]+)` \| `", CONFIGURATION, re.MULTILINE))
    assert documented - {key.path for key in keys} == set()


@pytest.mark.parametrize("flag", [*(flag.split()[0] for flag in FLAGS), "--resolve", "--json"])
def test_flags_are_documented(flag: str) -> None:
    assert f"| `{flag}" in section("Flags")


def test_codes_of_the_doctor_are_documented() -> None:
    found = dict(findings())
    assert {"text-empty", "label-conflict"} <= set(found)
    table = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning) \|", DATA, re.MULTILINE))
    assert table == found


@pytest.mark.parametrize("page", PAGES, ids=[page.name for page in PAGES])
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    broken = []
    for link in LINK.findall(text):
        place, _, part = link.partition("#")
        if re.match(r"[a-z]+:", link):
            continue
        target = page.parent / place if place else page
        headings = HEADING.findall(target.read_text(encoding="utf-8")) if part and target.is_file() else []
        if not target.exists() or (part and part not in map(anchor, headings)):
            broken.append(link)
    assert broken == []
