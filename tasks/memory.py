"""Training within the memory that is there: activations kept or computed again, and micro-batches that shrink where
they do not fit.

D hidden, F intermediate.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from modernbert.config import EncoderConfig
from modernbert.errors import BackendError, ConfigError
from tasks.data.examples import Batch
from tasks.data.sampler import micro_batches
from tasks.sharding import Sharded

log = logging.getLogger(__name__)

Asked = Literal["auto", "on", "off"]
#: Bytes that a layer keeps for its backward of each token, for each of D and of F. Counted by saved_tensors_hooks over
#: seven shapes of each family (D 64 to 256, F 64 to 1,024, torch 2.13, dropout as published), fitted by least squares.
#: bf16 keeps 3 to 12% less (cached casts of weights aside), for which nothing is taken off.
KEPT_BYTES = {"modernbert": (33, 12), "bert": (41, 8), "roberta": (41, 8)}
#: Of the free memory, what activations may have: the head, fragments and other guests want some too.
USABLE = 0.8
#: What processes tell each other before they exchange gradients; the worst counts for all.
PROVEN, UNPROVEN, FAILED = 0, 1, 2


class ElsewhereError(Exception):
    """Another process has run out of memory before gradients were exchanged: all begin the step again."""


def activation_bytes(config: EncoderConfig, tokens: int) -> int:
    """What an encoder keeps of a micro-batch until its backward, without the head's part.

    tokens * (layers + 1) * (a D + b F) with a, b of `KEPT_BYTES`; the one layer more is for the gradients that the
    backward holds. Peaks of ModernBERT 17M (7 layers, D 256, F 384) in fp32 over this: 1.01 at 64 texts of 64 tokens,
    1.15 at 8 of 512, 1.08 at 2 of 2,048, 1.07 at one of 8,192 (resident size of a CPU process, gradients included).
    """
    per_hidden, per_inner = KEPT_BYTES[config.family]
    return tokens * (config.num_layers + 1) * (per_hidden * config.hidden_size + per_inner * config.intermediate_size)


def free_bytes(device: torch.device) -> int | None:
    """Memory that a process may still take on a device; None where nobody tells (a CPU without Linux' /proc).

    On a CPU the least of what the machine has available, what its control group leaves and what a limit on the
    address space leaves.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    if not Path("/proc/meminfo").is_file():
        return None
    import resource  # not on Windows, which has no /proc either

    found = [_kilobytes("/proc/meminfo", "MemAvailable")]
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        found.append(limit - _kilobytes("/proc/self/status", "VmSize"))
    group = Path("/sys/fs/cgroup")
    if (group / "memory.max").is_file() and (most := (group / "memory.max").read_text().strip()) != "max":
        # Files that were read once count as in use until something else wants the room.
        idle = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
        found.append(int(most) - int((group / "memory.current").read_text()) + (int(idle[1]) if idle else 0))
    return max(0, min(found))


def state_bytes(model: nn.Module, device: torch.device, parts: int = 1) -> int:
    """What a training adds on a device: gradients, AdamW's two moments, and weights that are not there yet.

    Args:
        parts: processes that share the moments, and beside the weights of a step one more copy (`Sharded`).
    """
    sizes = [(p.numel() * p.element_size(), p.device.type == device.type) for p in model.parameters()]
    shared = 2 if parts == 1 else 3 / parts
    return int(sum(size * (shared + (1 if there else 2)) for size, there in sizes))


def recomputes(asked: Asked | bool, config: EncoderConfig, tokens: int, states: int, device: torch.device) -> bool:
    """Whether a training computes activations again instead of keeping them, as trainer.checkpointing asks.

    auto: where `activation_bytes` of the largest micro-batch and `states` are more than `USABLE` of what is
    free. Where nobody tells what is free they are kept: running out of memory turns it on as well (`Memory`).

    Args:
        tokens: of the largest micro-batch.
        states: bytes that come beside activations (`state_bytes`).

    Raises:
        ConfigError: anything but auto, on and off.
    """
    # An unquoted on or off in a YAML file is a truth value.
    wanted = {True: "on", False: "off"}.get(asked, asked) if isinstance(asked, bool) else asked
    if wanted not in ("auto", "on", "off"):
        raise ConfigError(f"trainer.checkpointing={asked}: allowed is auto, on or off.")
    if wanted != "auto":
        return wanted == "on"
    free = free_bytes(device)
    return free is not None and activation_bytes(config, tokens) + states > USABLE * free


def largest_micro_batch(lengths: npt.ArrayLike, batch_size: int, tokens_per_batch: int) -> int:
    """The most tokens that a forward pass of a training can see."""
    sizes = np.sort(np.asarray(lengths, dtype=np.int64))[::-1]
    return max(int(sizes[0]), min(tokens_per_batch, int(sizes[:batch_size].sum())))


def is_out_of_memory(error: BaseException) -> bool:
    """Of any device; a CPU's allocator raises a plain RuntimeError."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    words = ("can't allocate memory", "std::bad_alloc")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


def is_starved(error: BaseException, config: EncoderConfig, batch: Batch | None) -> bool:
    """Whether oneDNN failed on a CPU for want of memory: it gives no reason, so what is free must be less than what the
    micro-batch keeps (met under a limit on the address space, torch 2.13)."""
    words = ("could not create a primitive", "could not execute a primitive", "could not create a memory object")
    if batch is None or not (isinstance(error, RuntimeError) and any(word in str(error) for word in words)):
        return False
    free = free_bytes(torch.device("cpu"))
    return free is not None and free < activation_bytes(config, batch.packed.num_tokens)


@dataclass
class Memory:
    """Runs the steps of one training so that they fit.

    A step that runs out of memory is begun again, without the gradients it had so far, in smaller micro-batches: the
    one that did not fit is halved. Its gradient is the same, as a step's never depends on how it is cut. The smaller
    budget holds for all later steps. An example that does not fit alone turns activation checkpointing on.

    Of several processes all begin again, each with its own budget: they meet before they exchange gradients
    (`tasks.exchange`), and one that runs out of memory before says so there.

    Attributes:
        budget: most cost of a micro-batch (`DataModule.costs`), None until memory ran out.
        allowed: whether activation checkpointing may be turned on.
        running: the micro-batch whose forward or backward runs.
        exchanged: whether other processes have seen a part of this step, which they would then see twice.
        proven: most tokens of a micro-batch that has been through a backward here.
    """

    budget: int | None = None
    allowed: bool = True
    running: Batch | None = field(default=None, repr=False)
    exchanged: bool = field(default=False, repr=False)
    proven: int = 0

    def run(self, task: Any, step: list[Batch], backward: Callable[[], Tensor]) -> Tensor:
        """The loss of a step, whose gradients `backward` leaves; `step` becomes the micro-batches that ran.

        Raises:
            BackendError: an example does not fit alone, or another process has seen a part of the step.
        """
        self.cut(task, step)
        while True:
            self.running, self.exchanged, change = None, False, None
            try:
                loss = backward()
            except ElsewhereError:
                pass
            except (RuntimeError, MemoryError) as error:
                if not (is_out_of_memory(error) or is_starved(error, task.encoder.config, self.running)):
                    raise
                change = self.shrink(task, step)
                if change is None:
                    raise BackendError(self.too_much(task, step)) from error
            else:
                self.proven = max(self.proven, *(batch.packed.num_tokens for batch in step))
                return loss
            # Out here the error is gone, and with its frames the activations they held.
            self.begin_again(task, change)
            self.cut(task, step)

    def begin_again(self, task: Any, change: str | None) -> None:
        """Forget the step so far; where it was this process that failed, say so with what has changed."""
        if change is not None:
            meet(task, FAILED)
            step_number = task.trainer.global_step
            log.warning("out of memory at step %d: %s. What is learned stays the same.", step_number, change)
        self.running = None
        task.zero_grad(set_to_none=True)
        if isinstance(task.trainer.strategy, Sharded):
            task.trainer.strategy.begin_again()
        gc.collect()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def at(self, batch: Batch) -> Batch:
        """Notes that this micro-batch is next."""
        self.running = batch
        return batch

    def shrink(self, task: Any, step: Sequence[Batch]) -> str | None:
        """Choose what lets the step fit; says so, or None where there is nothing left."""
        if self.exchanged:
            return None
        batch = self.running or max(step, key=lambda batch: batch.packed.num_tokens)
        data = getattr(task.trainer, "datamodule", None)
        if data is not None and len(places := positions(data, batch)) > 1:
            cost = int(data.costs[places].sum())
            self.budget = max(1, cost // 2)
            return f"micro-batches now cost at most {self.budget:,} tokens, not {cost:,}, until the training ends"
        encoder = task.encoder
        if self.allowed and not encoder.gradient_checkpointing:
            encoder.gradient_checkpointing = True
            return f"{batch.packed.num_tokens:,} tokens of one example; activations are now computed again, not kept"
        return None

    def cut(self, task: Any, step: list[Batch]) -> None:
        """Cut the micro-batches of a step, in place, that are above the budget."""
        if self.budget is None:
            return
        data, parts = task.trainer.datamodule, []
        for batch in step:
            places = positions(data, batch)
            if len(places) == 1 or int(data.costs[places].sum()) <= self.budget:
                parts.append(batch)
                continue
            for part in micro_batches(data.costs, places, self.budget):
                parts.append(data.examples["train"].collate(part).to(batch.packed.input_ids.device))
        step[:] = parts

    def too_much(self, task: Any, step: Sequence[Batch]) -> str:
        """Why nothing helps."""
        batch = self.running or step[0]
        tokens = f"{batch.packed.num_tokens:,} tokens"
        if self.exchanged:
            return (
                f"out of memory at a micro-batch of {tokens}, when other processes had seen a part of the step, so "
                "that it cannot be begun again: lower data.tokens_per_batch."
            )
        again = "" if task.encoder.gradient_checkpointing else "trainer.checkpointing=on, "
        return (
            f"out of memory for {tokens} of one example, alone in its micro-batch: use {again}a lower data.max_length "
            "(task.long says what happens to longer texts) or a smaller encoder."
        )


def meet(task: Any, level: int) -> int:
    """The worst of what processes say; each of them must come here."""
    if task.trainer.world_size == 1:
        return level
    said = torch.tensor(level, device=task.trainer.strategy.root_device)
    return int(task.trainer.strategy.reduce(said, reduce_op="max"))


def positions(data: Any, batch: Batch) -> npt.NDArray[np.int64]:
    """The places of a batch's examples in the training data."""
    examples = data.examples["train"]
    if hasattr(examples, "positions"):  # where an example is several rows
        return np.asarray(examples.positions(batch), dtype=np.int64)
    return batch.index.cpu().numpy()


def _kilobytes(file: str, name: str) -> int:
    """A line of /proc, in bytes."""
    line = next(line for line in Path(file).read_text().splitlines() if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024
