"""Where a run comes from: hashes of data and base weights, packages, git; and whether two runs share it."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from modernbert.errors import ConfigError
from tasks import run as runs
from tasks.data.readers import Table

FILE = "origin.json"
#: Each can change what is learned by a rounding or more.
PACKAGES = ("modernbert", "torch", "lightning", "transformers", "tokenizers", "numpy", "safetensors")


def find(cfg: DictConfig, base: Path, tables: Mapping[str, Table]) -> dict[str, Any]:
    """What a run is made of, as JSON.

    `files` has the SHA-256 of whatever under `data` is a file or a folder here, `rows` that of the rows of each split
    that is not (a set of the Hugging Face hub), `base` that of each weights file of the encoder.
    """
    sources = {f"data.{key}": value for key, value in cfg.data.items() if isinstance(value, str) and value != "auto"}
    files = {key: digest(Path(source).expanduser()) for key, source in sources.items() if _is_here(source)}
    return {
        "files": {key: {"source": sources[key], "sha256": value} for key, value in files.items()},
        "rows": {
            split: {"source": table.source, "sha256": rows_digest(table)}
            for split, table in tables.items()
            if not _is_here(table.source)
        },
        "base": {path.name: runs.sha256(path) for path in sorted(base.glob("*.safetensors"))},
        "seed": cfg.seed,
        "packages": versions(),
        "git": git_state(),
    }


def require_same(run: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Notes on packages and code that differ.

    Raises:
        ConfigError: other data, or other base weights, than those the run was made of.
    """
    for kind, what in (("files", "file"), ("rows", "data set")):
        for key in sorted({*before[kind], *now[kind]}):
            old, new = before[kind].get(key), now[kind].get(key)
            if old is None or new is None or old["sha256"] != new["sha256"]:
                raise ConfigError(
                    f"{key}={(old or new)['source']}: this {what} is not the one that {run} was made of (its SHA-256 "
                    f"was {_short(old)}, is {_short(new)}). Put the old one back, or train a new run."
                )
    if before["base"] != now["base"]:
        raise ConfigError(
            f"the weights of the base encoder are not those that {run} was made of. Give encoder.revision of a hub "
            "model, or train a new run."
        )
    changed = [
        f"{name} was {before['packages'].get(name)}, is {version}"
        for name, version in now["packages"].items()
        if before["packages"].get(name) != version
    ]
    if before["git"] != now["git"]:
        changed.append(f"the code was {_in_words(before['git'])}, is {_in_words(now['git'])}")
    return changed


def read(run: Path) -> dict[str, Any] | None:
    """What `find` found when a run began; None where it stopped before that was written."""
    path = run / FILE
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found


def digest(path: Path) -> str:
    """SHA-256 of a file; of a folder that of its files' names and hashes, hidden ones left out."""
    if path.is_file():
        return runs.sha256(path)
    total = hashlib.sha256()
    for file in sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith(".")):
        total.update(f"{file.relative_to(path).as_posix()}\0{runs.sha256(file)}\n".encode())
    return total.hexdigest()


def rows_digest(table: Table) -> str:
    """SHA-256 of the rows themselves, in order."""
    total = hashlib.sha256()
    for name, values in table.columns.items():
        total.update(json.dumps([name, len(values)]).encode())
        for value in values:
            total.update(repr(value).encode("utf-8", "surrogatepass") + b"\0")
    return total.hexdigest()


def versions() -> dict[str, str]:
    """Of the packages, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # modernbert itself, where it runs from a checkout that is not installed
    return found


def git_state() -> dict[str, Any] | None:
    """Commit and whether files differ from it, of the checkout that this code runs from; None where it is none."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return None
    try:
        commit = _git(folder, ["rev-parse", "HEAD"])
        changed = _git(folder, ["status", "--porcelain", "--untracked-files=no"])
    except (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return None  # no git here, or a checkout it does not trust: then the version has to do
    return {"commit": commit.strip(), "changed": bool(changed.strip())}


def _git(folder: Path, words: Iterable[str]) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *words],
        capture_output=True, text=True, check=True, timeout=10,
    )  # fmt: skip
    return done.stdout


def _is_here(source: str) -> bool:
    return not source.startswith("hf:") and Path(source).expanduser().exists()


def _short(held: Mapping[str, Any] | None) -> str:
    return f"{held['sha256'][:12]}…" if held else "not there"


def _in_words(git: Mapping[str, Any] | None) -> str:
    if git is None:
        return "no checkout"
    return git["commit"][:12] + (" with changes" if git["changed"] else "")
