"""`modernbert bench faults`: trainings that are cut short, each in its own way, and what comes out when they go on.

One training runs undisturbed. Each other is struck once, at a step drawn by the seed, and resumed; it survives if its
final weights are those of the undisturbed one, bit for bit. Each runs in a process of its own.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from app import console
from app.bench import report
from app.bench.fault_child import Fault
from app.bench.fault_workers import require, strikes, write_shards
from app.bench.train_suite import overrides
from app.checkpoint_files import FOLDER, checkpoints
from app.compose import plain
from app.failures import FAILED, OK, STOPPED, TRY_AGAIN
from modernbert.errors import ConfigError, ModernBertError
from tasks.run import choose_device, sha256

#: Keys of conf/bench_faults.yaml that `modernbert train` has not.
OWN_KEYS = ("faults", "times", "json")
#: A checkpoint in each third step: between the last one and the fault there is work to be done again.
EVERY = 3
KILLED = -9
#: A hang is a failure too. A step of a fault's training takes seconds at most.
LIMIT = 1800  # seconds

#: fault -> (what it is, in words; where it strikes; exit statuses that are right)
FAULTS: dict[str, tuple[str, Fault, tuple[int, ...]]] = {
    "kill": ("SIGKILL in a step", Fault("step", 0), (KILLED,)),
    "terminate": ("SIGTERM, saved between two steps", Fault("step", 0, "SIGTERM"), (TRY_AGAIN,)),
    "interrupt": ("SIGINT, saved between two steps", Fault("step", 0, "SIGINT"), (STOPPED,)),
    "validation": ("SIGKILL while validating", Fault("validation", 0), (KILLED,)),
    "checkpoint": ("SIGKILL while a checkpoint is written", Fault("checkpoint", 0), (KILLED,)),
    "torn": ("SIGKILL, and the last checkpoint torn", Fault("step", 0), (KILLED,)),
    "disk": ("the disk is full", Fault("disk", 0), (FAILED,)),
    "loss": ("a loss that is not a number", Fault("loss", 0), (FAILED,)),
    "process": ("SIGKILL of one of two processes", Fault("process", 0), (FAILED, KILLED)),
}
#: Strikes no training but `predict engine=ray` with what was trained.
WORKER = {"worker": "SIGKILL of one of two workers that score shards"}
SHARDS = "shards"
ALLOWED = {name: what for name, (what, _, _) in FAULTS.items()} | WORKER


@dataclass(frozen=True)
class Whole:
    """A training that nothing disturbed."""

    weights: str  # SHA-256 of model.safetensors
    rows: dict[int, list[int]]  # step -> examples learned from, of the first process
    validations: int


def main(cfg: DictConfig) -> int:
    """Strike and resume; exit status 1 where a training did not survive."""
    config = plain(cfg)
    unknown = [name for name in config["faults"] if name not in ALLOWED]
    if unknown or not config["faults"]:
        raise ConfigError(f"faults={config['faults']}: allowed are {', '.join(ALLOWED)}.")
    if not isinstance(config["times"], int) or config["times"] < 1:
        raise ConfigError(f"times={config['times']}: allowed is 1 or more.")
    with_worker = not WORKER.keys().isdisjoint(config["faults"])
    if with_worker:
        require()
    report.check_target(config["json"])
    settings = {key: value for key, value in config.items() if key not in OWN_KEYS}
    words = [*overrides(settings), f"trainer.checkpoint_every={EVERY}"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="modernbert-faults-") as folder:
        if with_worker:  # rows that are in no table are told before anything is trained
            write_shards(str(config["data"]["train"]), Path(folder) / SHARDS)
        for name in config["faults"]:
            rows.append(measure(name, words, config, Path(folder)))
            console.note(line(rows[-1]))
    device = choose_device("cpu" if config["trainer"]["accelerator"] == "cpu" else "auto")
    found = report.document("faults", device, torch.get_num_threads(), config, rows=rows)
    report.emit(config["json"], found, table(rows))
    return OK if all(row["survived"] == row["times"] for row in rows) else FAILED


def measure(name: str, words: Sequence[str], config: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """One row of the table: a fault struck `times` times, at steps drawn by the seed."""
    times = config["times"]
    words = [*words, *PROCESSES] if name == "process" else list(words)
    whole = undisturbed(words, folder / ("whole-2" if name == "process" else "whole"))
    # Not by hash(name), which differs from process to process.
    draws = random.Random(f"{config['seed']} {name}")
    if name in WORKER:
        outcomes = strikes(folder / "whole", folder / SHARDS, config["data"]["columns"], times, draws)
    else:
        outcomes = [survive([name], draws, words, whole, folder / f"{name}-{i}") for i in range(times)]
    return {
        "fault": name,
        "what": ALLOWED[name],
        "times": times,
        "survived": sum(outcome["survived"] for outcome in outcomes),
        "rows_lost": sum(outcome["lost"] for outcome in outcomes),
        "rows_twice": sum(outcome["twice"] for outcome in outcomes),
        "outcomes": outcomes,
    }


#: What a training of two processes is asked for beside its own words.
PROCESSES = ("trainer.strategy=ddp", "trainer.accelerator=cpu", "trainer.devices=2")


def undisturbed(words: Sequence[str], folder: Path) -> Whole:
    """Train without a fault, or read such a training where it has been done."""
    journal = folder.with_suffix(".jsonl")
    if not folder.is_dir():
        status, said = run(Fault("step", 0, journal=str(journal)), [*words, f"run_dir={folder}"])
        if status != OK:
            raise ModernBertError(f"the training fails without any fault:\n{said[-2000:]}")
    facts = json.loads((folder / "task.json").read_text(encoding="utf-8"))
    steps = read(journal)
    if len(steps) < 2 * EVERY:
        raise ConfigError(f"{len(steps)} steps are too few to cut short: set optim.batch_size or trainer.max_epochs.")
    # There is at least one batch to a validation.
    validations = int(facts["training"]["epochs"]) if "validation" in facts["data"] else 0
    return Whole(sha256(folder / "model" / "model.safetensors"), steps, validations)


def survive(
    names: Sequence[str], draws: random.Random, words: Sequence[str], whole: Whole, folder: Path
) -> dict[str, Any]:
    """Strike one training with each fault in turn, resuming it in between and at last; the outcome as a JSON object."""
    journal = folder.with_suffix(".jsonl")
    line, strikes, good = [*words, f"run_dir={folder}"], [], True
    for number, name in enumerate(names):
        _, fault, statuses = FAULTS[name]
        left = len(whole.rows) - max(map(step_of, checkpoints(folder / FOLDER)), default=0)
        limits = {"validation": whole.validations, "checkpoint": left // EVERY}
        most = max(1, limits.get(fault.place, left - 1) // (len(names) - number))
        fault = replace(fault, at=draws.randint(1, most), journal=str(journal))
        status, said = run(fault, line)
        if name == "torn":
            tear(folder, draws)
        good = good and status in statuses
        strikes.append({"fault": name, "at": fault.at, "status": status, "said": last_lines(said)})
        line = [f"resume={folder}"]
    resumed, said = run(Fault("step", 0, journal=str(journal)), line)
    found = read(journal)
    lost = sum(len(set(rows) - set(found.get(step, ()))) for step, rows in whole.rows.items())
    twice = sum(len(rows) for step, rows in found.items() if rows != whole.rows.get(step))
    weights = folder / "model" / "model.safetensors"
    same = weights.is_file() and sha256(weights) == whole.weights
    good = good and resumed == OK and same and not lost and not twice
    return {"strikes": strikes, "resumed": resumed, "same": same, "survived": good, "lost": lost, "twice": twice,
            "said": [] if good else last_lines(said)}  # fmt: skip


def step_of(path: Path) -> int:
    """The step of a checkpoint, by its name: the file itself may be torn."""
    return int(path.stem.removeprefix("step-"))


def last_lines(said: str) -> list[str]:
    """What a process ended with."""
    return said.strip().splitlines()[-3:]


def tear(folder: Path, draws: random.Random) -> None:
    """Damage the newest checkpoint, where there is one: cut it, or turn a bit of it."""
    found = checkpoints(folder / FOLDER)
    if found:
        data = bytearray(found[-1].read_bytes())
        if draws.random() < 0.5:
            data = data[: draws.randrange(len(data))]
        else:
            data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
        found[-1].write_bytes(data)


def run(fault: Fault, words: Sequence[str]) -> tuple[int, str]:
    """`modernbert train words` with a fault: exit status and all it said; a hang is status 1."""
    command = [sys.executable, "-m", "app.bench.fault_child", *fault.words(), "train", *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT)
    except subprocess.TimeoutExpired:
        return FAILED, f"no end after {LIMIT} s"
    return done.returncode, done.stdout + done.stderr


def read(journal: Path) -> dict[int, list[int]]:
    """step -> examples; of a step that was done again, the last time counts."""
    lines = journal.read_text(encoding="utf-8").splitlines() if journal.is_file() else []
    return {int(step): examples for step, examples in map(json.loads, lines)}


def line(row: Mapping[str, Any]) -> str:
    """One fault as a sentence."""
    return f"{row['what']}: {row['survived']} of {row['times']} survived"


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Faults, times, survivals, rows lost."""
    columns = ["fault", "times", "survived", "rows lost", "rows twice"]
    keys = ("times", "survived", "rows_lost", "rows_twice")
    return console.table(columns, [[row["what"], *(str(row[key]) for key in keys)] for row in rows], right=columns[1:])
