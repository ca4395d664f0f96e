"""`python -m app.bench.fault_child <fault as JSON> <words>`: `modernbert <words>`, with one thing that goes wrong.

For `modernbert bench faults` and the tests: what fails is the process, the disk or the numbers, never a stand-in.
"""

from __future__ import annotations

import json
import math
import os
import resource
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

#: Where a fault strikes: at the end of a training step (its learning done, nothing saved), in a batch of a validation,
#: between the writing of a checkpoint and its renaming; or what fails: the disk, the loss, one process of several.
Place = Literal["step", "validation", "checkpoint", "disk", "loss", "process"]
#: No checkpoint fits any more, a log file does.
FULL_AT = 16_384  # bytes


@dataclass(frozen=True)
class Fault:
    """What happens to one process.

    Args:
        place: where, or what fails.
        at: the step, the validation batch or the checkpoint, from 1; 0 for never.
        signal: what the process sends to itself.
        journal: file to which each training step's number and examples are appended, after it; of the first process.
    """

    place: Place
    at: int
    signal: str = "SIGKILL"
    journal: str | None = None

    def words(self) -> list[str]:
        """The command line of the child, without the verb's own words."""
        return [json.dumps(asdict(self))]

    def strike(self) -> None:
        if self.place == "disk":
            resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_AT, resource.RLIM_INFINITY))
        elif self.place != "process" or os.environ.get("LOCAL_RANK") == "1":
            os.kill(os.getpid(), getattr(signal, self.signal))

    def install(self) -> None:
        """Put the fault where it will strike."""
        from tasks import state
        from tasks.base import Task

        counts = {"step": 0, "validation": 0, "checkpoint": 0}
        train, validate, digest = Task.training_step, Task.validation_step, state._digest
        backward = Task.backward_step

        def training_step(task: Task, step: list[Any], number: int) -> None:
            counts["step"] += 1
            done = task.trainer.fit_loop.epoch_loop.batch_progress.total.completed
            train(task, step, number)
            self.note(done, [int(i) for batch in step for i in batch.index])
            if self.place in ("step", "disk", "process") and counts["step"] == self.at:
                self.strike()

        def backward_step(task: Task, step: list[Any], total: float) -> Any:
            loss = backward(task, step, total)
            return loss * math.nan if self.place == "loss" and counts["step"] == self.at else loss

        def validation_step(task: Task, batch: Any, number: int) -> None:
            counts["validation"] += 1
            if self.place == "validation" and counts["validation"] == self.at:
                self.strike()
            validate(task, batch, number)

        def digest_of(path: Path) -> str:
            counts["checkpoint"] += path.name.endswith(".part")
            if self.place == "checkpoint" and counts["checkpoint"] == self.at:
                self.strike()
            return digest(path)

        for name, function in (
            ("training_step", training_step),
            ("validation_step", validation_step),
            ("backward_step", backward_step),
        ):
            setattr(Task, name, function)
        state._digest = digest_of

    def note(self, step: int, examples: list[int]) -> None:
        """One line of the journal, whole even where the process ends right after it."""
        if self.journal is not None and os.environ.get("LOCAL_RANK", "0") == "0":
            with Path(self.journal).open("a", encoding="utf-8") as file:
                file.write(json.dumps([step, examples]) + "\n")


def main(argv: Sequence[str]) -> int:
    """Run the words after the fault; returns their exit status."""
    from app import cli

    Fault(**json.loads(argv[0])).install()
    return cli.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
