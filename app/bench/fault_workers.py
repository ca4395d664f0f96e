"""The fault `worker` of `modernbert bench faults`: while shards are scored by Ray, a worker is killed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app.failures import FAILED, OK
from modernbert.errors import ConfigError
from tasks.data import readers

SHARDS, ROWS, WORKERS = 6, 500, 2
#: Tells the rows apart, whatever the file holds.
NUMBER = "number of the row"
#: Of Ray's start, and of what is scored.
LIMIT = 600  # seconds


def strikes(
    run: Path, shards: Path, columns: Mapping[str, Any], times: int, draws: random.Random
) -> list[dict[str, Any]]:
    """Score shards with a run, and kill a worker on the way; an outcome each time."""
    outcomes = []
    for number in range(times):
        output, after = shards.with_name(f"scored-{number}"), draws.randint(1, SHARDS // 2)
        words = [f"run={run}", f"input={shards}", f"output={output}", "engine=ray", f"workers={WORKERS}", "device=cpu"]
        words += [f"data.columns.{role}={json.dumps(name)}" for role, name in columns.items() if name]
        status, killed, said = strike(words, output, after)
        found = [row for part in sorted(output.glob("*.parquet")) for row in pq.read_table(part)[NUMBER].to_pylist()]
        lost, twice = SHARDS * ROWS - len(set(found)), len(found) - len(set(found))
        good = status == OK and killed and not lost and not twice
        outcomes.append({"after": after, "status": status, "killed": killed, "survived": good, "lost": lost,
                         "twice": twice, "said": [] if good else said.strip().splitlines()[-3:]})  # fmt: skip
    return outcomes


def require() -> None:
    """Refuse to begin where a worker could not be found.

    Raises:
        ConfigError: there is no Ray, or no /proc.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ConfigError("faults=[worker] needs Ray: pip install 'modernbert[ray]', or leave it out.") from error
    if not Path("/proc/self/stat").exists():
        raise ConfigError("faults=[worker] finds the worker in /proc, which this system has not: leave it out.")


def write_shards(source: str, folder: Path) -> Path:
    """The rows of a file, repeated as often as it takes, in Parquet shards; each row has its number."""
    table = readers.read(source)
    folder.mkdir()
    columns = {name: list(islice(cycle(cells), SHARDS * ROWS)) for name, cells in table.columns.items()}
    whole = pa.table(columns | {NUMBER: list(range(SHARDS * ROWS))})
    for shard in range(SHARDS):
        pq.write_table(whole.slice(shard * ROWS, ROWS), folder / f"part-{shard}.parquet")
    return folder


def strike(words: Sequence[str], output: Path, after: int) -> tuple[int, bool, str]:
    """`modernbert predict words`, with a worker killed once `after` shards are there: exit status, whether one was
    killed before the last shard was there, and all that was said."""
    command, killed, end = [sys.executable, "-m", "app.cli", "predict", *words], False, time.monotonic() + LIMIT
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while process.poll() is None and time.monotonic() < end and not killed:
            there = len(list(output.glob("*.parquet")))
            if after <= there < SHARDS and (workers := workers_of(process.pid)):
                os.kill(workers[0], signal.SIGKILL)
                killed = True
            time.sleep(0.01)
        try:
            said, _ = process.communicate(timeout=max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            return FAILED, killed, f"no end after {LIMIT} s"
    return process.returncode, killed, said


def workers_of(root: int) -> list[int]:
    """The processes under `root` in which Ray runs what scores."""
    parents, titles = {}, {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                titles[int(entry.name)] = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:  # it has ended
                continue
    under, more = {root}, {root}
    while more := {pid for pid, parent in parents.items() if parent in more} - under:
        under |= more
    return [pid for pid in sorted(under) if "Guarded" in titles.get(pid, "") and titles[pid].startswith("ray::")]
