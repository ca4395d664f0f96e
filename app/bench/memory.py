"""Peak memory of one side, measured in a process of its own: `python -m app.bench.memory <job as JSON>`.

What is counted is what one call needs above weights and optimiser state: activations, gradients, work space.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from app.bench import child
from app.bench.measure import Work
from app.bench.shapes import build
from app.bench.sides import Mode, Setting, side
from app.bench.workload import workload
from app.threads import use_threads

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5): writing 5 sets the peak resident size back to the present one


@dataclass(frozen=True)
class Job:
    """One cell and side of the encoder suite, in plain values."""

    shape: str
    layers: int | None
    length: str | int
    tokens: int
    batch_size: int | None
    mode: Mode
    side: str
    device: str
    attention: str
    adamw: str
    threads: int | None


def peak(job: Job) -> int | None:
    """Bytes that one call of a side needs at most; None where no one tells (a CPU without Linux' /proc)."""
    if job.device == "cpu" and not CLEAR.exists():
        return None
    return int(json.loads(child.run("app.bench.memory", [json.dumps(asdict(job))]))["peak_bytes"])


def main(words: list[str]) -> None:
    job = Job(**json.loads(words[0]))
    use_threads(job.threads)
    device = torch.device(job.device)
    pair = build(job.shape, job.layers, job.attention, device)
    setting = Setting(device, job.adamw)
    work = workload(job.length, job.tokens, setting.budget, job.batch_size)
    run = side(job.side, pair, work, job.mode, setting)
    run()  # makes the optimiser's state, and whatever else is built once
    for model in (pair.ours, pair.theirs):
        model.zero_grad(set_to_none=True)
    print(json.dumps({"peak_bytes": measure(run, device)}))


def measure(run: Work, device: torch.device) -> int:
    """The most memory that is in use during a call, less what is in use before it, in bytes."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    give_back()
    CLEAR.write_text(RESET_PEAK)
    before = resident("VmRSS")
    run()
    return max(0, resident("VmHWM") - before)


def give_back() -> None:
    """Return freed memory to the system: what the allocator keeps would hide what the next call takes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc; others return it by themselves
    if trim is not None:
        trim(0)


def resident(field: str) -> int:
    """VmRSS (now) or VmHWM (at most) of this process, in bytes."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(sys.argv[1:])
