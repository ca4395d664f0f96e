"""What CI installs against a list of advisories that needs no network; `make audit` asks PyPI's."""

from __future__ import annotations

import csv
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version


def pins(text: str) -> dict[str, Version]:
    """Package -> version, of lines `name==version`."""
    found = {}
    for line in filter(None, (line.partition("#")[0].strip() for line in text.splitlines())):
        requirement = Requirement(line)
        (exact,) = requirement.specifier
        assert exact.operator == "==", f"{line}: constraints.txt holds one version of each package"
        found[canonicalize_name(requirement.name)] = Version(exact.version)
    return found


def known_faults(pinned: dict[str, Version]) -> list[str]:
    """What is pinned below the version that mended it."""
    with Path(__file__).with_name("advisories.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        f"{row['package']} {pinned[row['package']]}: {row['advisory']}, {row['what']}; mended in {row['mended_in']}"
        for row in rows
        if row["package"] in pinned and pinned[row["package"]] < Version(row["mended_in"])
    ]


def test_nothing_pinned_has_a_known_fault(root: Path) -> None:
    pinned = pins((root / "constraints.txt").read_text(encoding="utf-8"))
    assert {"torch", "transformers", "gradio", "lightning"} <= set(pinned)
    assert known_faults(pinned) == []


def test_an_old_version_is_named() -> None:
    assert known_faults(pins("torch==2.5.1+cpu\nJinja2==3.1.6  # mended there\n")) == [
        "torch 2.5.1+cpu: CVE-2025-32434, code run by torch.load with weights_only; mended in 2.6.0"
    ]
