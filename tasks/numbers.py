"""What happens at a loss or a gradient that is not a number: the rows are named, the batch is kept, and the training
stops or leaves the step out."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from modernbert.errors import ConfigError, DataError
from tasks import state
from tasks.data.examples import Batch

log = logging.getLogger(__name__)

#: Steps left out one after the other before the training stops all the same: then it is not a row, it is the weights.
IN_A_ROW = 10
#: Batches kept of a run that leaves steps out.
KEPT = 5
#: Rows named in a message; all of them are in the file.
NAMED = 20
ADVICE = "Look at these rows, lower optim.lr, or use trainer.precision=32."


@dataclass
class Numbers:
    """Guards the weights of one training.

    Args:
        on_nan: "stop" raises, "skip" leaves the step out and says so; its learning rate passes all the same.
        folder: where batches are kept, as `step-<n>.safetensors` (`tasks.state.read` opens them); None keeps none.
        source, rows: the file of the training examples and where in it each stands; None where that is not known.
        skipped: steps left out so far, and of them one after the other.

    Raises:
        ConfigError: another `on_nan`.
    """

    on_nan: Literal["stop", "skip"] = "stop"
    folder: Path | None = None
    source: str = ""
    rows: Sequence[int] | None = None
    skipped: int = 0
    in_a_row: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        if self.on_nan not in ("stop", "skip"):
            raise ConfigError(f"trainer.on_nan={self.on_nan}: allowed is stop or skip.")

    def sound(self, task: Any, step: Sequence[Batch], number: int, loss: float, norm: float) -> bool:
        """Whether a step may reach the weights.

        Args:
            task: whose gradients these are.
            step: the micro-batches of this process.
            number: of the step, for the message and the file.
            loss: of the step over all processes.
            norm: of its gradient.

        Raises:
            DataError: it may not and the training stops.
        """
        if math.isfinite(loss) and math.isfinite(norm):
            self.in_a_row = 0
            return True
        guilty = culprits(task, step)
        what = f"The gradient is {norm} at step {number}, " if math.isfinite(loss) else f"The loss is {loss} "
        if not math.isfinite(loss):
            what += f"and the gradient is {norm} at step {number}, "
        what += self.places(guilty or [int(i) for batch in step for i in batch.index], bool(guilty))
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        stops = self.on_nan == "stop" or self.in_a_row >= IN_A_ROW
        what += self.keep(task, step, number, loss, norm, guilty, stops)
        if not stops:
            log.warning("%s The step is left out (trainer.on_nan=skip).", what)
            return False
        many = f" {self.in_a_row} steps in a row were left out: the weights themselves are spoilt." * (
            self.on_nan == "skip"
        )
        raise DataError(f"{what}{many} {ADVICE}")

    def places(self, examples: Sequence[int], certain: bool) -> str:
        """The examples in words, by their rows in the file where these are known."""
        more = f" and {len(examples) - NAMED} more" if len(examples) > NAMED else ""
        blame = "whose own loss is not a number" if certain else "all of this process's part of the step"
        if self.rows is None:
            return f"training examples {list(examples[:NAMED])}{more} (positions in the training data; {blame})."
        rows = sorted(int(self.rows[i]) for i in examples)
        return f"rows {', '.join(map(str, rows[:NAMED]))}{more} of {self.source} ({blame})."

    def keep(
        self, task: Any, step: Sequence[Batch], number: int, loss: float, norm: float, guilty: list[int], weights: bool
    ) -> str:
        """Write the batch, with the weights where the training stops; returns the sentence about it."""
        if self.folder is None or self.skipped > KEPT:
            return ""
        examples = [int(i) for batch in step for i in batch.index]
        rows = None if self.rows is None else [int(self.rows[i]) for i in examples]
        about = {"step": number, "loss": loss, "norm": norm, "source": self.source, "rows": rows, "guilty": guilty}
        held: dict[str, Any] = {"batches": [state.as_tensors(batch) for batch in step]}
        if weights:  # of weights that are shared out the first process has all, the others none
            held["weights"] = dict(task.trainer.strategy.lightning_module_state_dict())
        path = self.folder / f"step-{number:08d}{f'-rank{task.global_rank}' if task.global_rank else ''}{state.SUFFIX}"
        try:
            state.write(path, held, about)
        except OSError as error:
            # The rows matter more than the file about them.
            return f" The batch could not be kept ({error.strerror or error})."
        return f" The batch is kept in {path}."


@torch.no_grad()
def culprits(task: Any, step: Sequence[Batch]) -> list[int]:
    """Examples whose own loss is not finite, without dropout; none where the loss of a task is not one of examples.

    In one process only: others would wait for it where a loss looks at all processes.
    """
    found: list[int] = []
    if task.trainer.world_size > 1:
        return found
    task.eval()
    for batch in step:
        try:
            losses = task.loss_sum(task.outputs(batch), batch, reduce=False)
        except NotImplementedError:
            break
        if losses.shape == (len(batch),):
            found += [int(i) for i in batch.index[~torch.isfinite(losses).to(batch.index.device)]]
    task.train()
    return found
