"""What a suite hands back: a table to read, a JSON document to keep, and the machine they are true for."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from app import console
from modernbert.errors import ConfigError
from tasks.run import write_json

#: Version of the JSON document; readers of old results look at it.
FORMAT = 1
PACKAGES = ("modernbert", "torch", "transformers", "sentence-transformers", "accelerate", "packed-encoders")


def machine(device: torch.device, threads: int) -> dict[str, Any]:
    """What the figures depend on: processor, device, threads, versions."""
    return {
        "cpu": _cpu_name(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": threads,
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
    }


def document(suite: str, device: torch.device, threads: int, settings: dict[str, Any], **found: Any) -> dict[str, Any]:
    """The JSON document of a suite: where, when and how, then what was found."""
    return {
        "format": FORMAT,
        "suite": suite,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": ["modernbert", *sys.argv[1:]],
        "machine": machine(device, threads),
        "settings": settings,
        **found,
    }


def check_target(target: bool | str | None) -> None:
    """Refuse a place for the JSON document before hours of measuring, not after them."""
    if isinstance(target, str) and not Path(target).expanduser().absolute().parent.is_dir():
        raise ConfigError(f"json={target}: the folder is not there; name an existing one, or use --json.")


def emit(target: bool | str | None, document: dict[str, Any], table: Table, remarks: tuple[str, ...] = ()) -> None:
    """Show the table, or with json=true the document in its place; json=<file> also writes the document."""
    if target is True:
        print(json.dumps(document, indent=2, ensure_ascii=False))
        return
    about = document["machine"]
    threads = f"{about['threads']} thread{'s' if about['threads'] > 1 else ''}"
    console.out().print(f"{about['device']}, {about['cpu']}, {threads}, {_versions(about)}\n")
    console.out().print(table)
    for remark in remarks:
        console.out().print(remark)
    if isinstance(target, str):
        path = Path(target).expanduser()
        write_json(path, document)
        console.note(f"written: {path}")


def _versions(about: dict[str, Any]) -> str:
    shown = ("torch", "transformers")
    return ", ".join(f"{name} {about['packages'][name]}" for name in shown if name in about["packages"])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_name() -> str:
    """platform.processor() is empty or just the architecture on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(errors="replace").splitlines() if info.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())
