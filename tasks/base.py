"""The contract of a task: what a subclass gives, what it may give, and Lightning's hooks over both.

B examples of a batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from modernbert.weights import Encoder, encoder_to_hf
from tasks import training
from tasks.data.examples import Batch
from tasks.data.readers import Table
from tasks.data.writers import with_columns
from tasks.heads import head_to_hf, load_head
from tasks.memory import Memory
from tasks.metrics import WorstErrors
from tasks.numbers import Numbers
from tasks.optim import Optim, parameter_groups
from tasks.sharding import Sharded
from tasks.training import Throughput


class Task(L.LightningModule):
    """An encoder, a head, a loss and metrics.

    A subclass gives `forward`, `loss_sum`, `units`, `new_report` and `decode`; its `schema` (a plain dataclass)
    says what the rows mean and can be written as JSON.

    One optimiser step is a list of packed micro-batches. The gradient is that of the sum of losses over the
    whole step divided by the whole step's units (examples, labelled tokens …), whatever the split into
    micro-batches and ranks, so memory settings never change what is learned.
    """

    schema_type: ClassVar[Any]
    #: The transformers pipeline that a saved run loads in, and the metrics that a summary shows, in order.
    pipeline: ClassVar[str]
    pipeline_options: ClassVar[str] = ""
    #: The library by which the model card loads it.
    library: ClassVar[str] = "transformers"
    #: Whether the outputs of a split mean something only together, as a ranking: then the task itself measures them.
    ranks: ClassVar[bool] = False
    #: Whether the head reads the word table too (tied), so that every row of it has a gradient in each step.
    uses_word_table: bool = False
    #: What a person does with a saved run: purpose -> words of `modernbert`, with {run} for its folder.
    next_steps: ClassVar[Mapping[str, str]] = {
        "try it in the browser": "ui run={run}",
        "score new rows": "predict run={run} input=new.csv output=scored.csv",
        "take it elsewhere": "export run={run} format=transformers",
    }
    shown: tuple[str, ...]
    name: str
    schema: Any
    encoder: Encoder
    head: nn.Module

    def __init__(self, encoder: Encoder, head: nn.Module, optim: Optim | None) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.encoder, self.head, self.optim = encoder, head, optim
        self.throughput = Throughput()
        #: Of answers; training has the trainer's own precision.
        self.autocast: torch.dtype | None = None
        self.numbers = Numbers()
        self.memory = Memory()
        self.reports: dict[str, Any] = {}
        self.history: list[dict[str, float]] = []
        self.epoch_losses: list[Tensor] = []

    # -- what a task gives ---------------------------------------------------------------------------------

    def outputs(self, batch: Batch) -> Tensor:
        """What the model says of a batch; where long texts are read in windows, these are merged."""
        return batch.merge(self(batch.packed))

    def loss_sum(self, outputs: Tensor, batch: Batch, reduce: bool = True) -> Tensor:
        """Loss summed over the batch's units, a scalar in fp32; without `reduce` that of each example (B,)."""
        raise NotImplementedError

    def units(self, batch: Batch) -> float:
        """What the summed loss is divided by: the examples, or the sum of their weights."""
        raise NotImplementedError

    def new_report(self, split: str) -> Any:
        """An empty streaming report of a split (`tasks.metrics.Report`)."""
        raise NotImplementedError

    def update_report(self, report: Any, outputs: Tensor, batch: Batch) -> None:
        """Add a batch's outputs to a report."""
        raise NotImplementedError

    def measure(self, report: Any, worst: WorstErrors, outputs: Tensor, batch: Batch) -> None:
        """Add a batch's outputs to a report, and its wrong examples to the worst errors."""
        raise NotImplementedError

    def measure_ranking(
        self,
        examples: Any,
        table: Table,
        split: str,
        folder: Path,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Any:
        """What `tasks.evaluation.evaluate` does for other tasks: writes the files of a split, returns its report."""
        raise NotImplementedError

    def describe(self, value: Any) -> str:
        """A target or a prediction, as `measure` gave it to the worst errors, in words."""
        raise NotImplementedError

    def fit(self, report: Any) -> bool:
        """Fit what is fitted on validation rows; True if that changes the predictions."""
        return False

    def confusions(self, report: Any, most: int) -> list[dict[str, Any]]:
        """The pairs of labels that are mixed up most: true, predicted, count, support."""
        return []

    def plot(self, report: Any, folder: Path) -> None:
        """Draw what the report shows into a run's folder."""

    def decode(self, outputs: Tensor, batch: Batch, cut: Sequence[bool]) -> list[Any]:
        """Output types (Label, a list of Span, Hit), one an example of the batch; `cut` says which were cut short."""
        raise NotImplementedError

    def text_columns(self, table: Table) -> list[str]:
        """The columns of a table that must hold text for a row to be answered."""
        return self.schema.text_columns()

    def to_columns(self, outputs: Sequence[Any | None]) -> dict[str, list[Any]]:
        """Outputs as columns of a table; None stands for a row that could not be read."""
        raise NotImplementedError

    def decisions(self, outputs: Sequence[Any]) -> list[Any]:
        """What was decided, without scores: equal for two models that answer alike."""
        return self.to_columns(outputs)["prediction"]

    def readable(self, table: Table, outputs: Sequence[Any]) -> dict[str, list[Any]]:
        """predictions.csv: labelled rows and what was predicted for them, for a person."""
        return with_columns(table, {"row": table.rows} | self.to_columns(outputs))

    def error_columns(self, errors: Sequence[Mapping[str, Any]], table: Table) -> dict[str, list[Any]]:
        """worst_errors.csv from the rows of `tasks.metrics.WorstErrors`, each with its row of `table`."""
        return {
            "row": table.rows,
            "loss": [round(error["loss"], 4) for error in errors],
            "right": [self.describe(error["gold"]) for error in errors],
            "predicted": [self.describe(error["predicted"]) for error in errors],
        } | {column: table.columns[column] for column in self.schema.text_columns()}

    def hf_config(self) -> dict[str, Any]:
        """config.json by which transformers builds the same model."""
        raise NotImplementedError

    def usage(self, text: str) -> str:
        """A few lines of Python for the model card: the model without a line of ours, on a text."""
        call = f'pipeline("{self.pipeline}", model="model"{self.pipeline_options})'
        return f"from transformers import pipeline\n\n{call}({text!r})"

    def fitted(self) -> dict[str, Any]:
        """What was fitted after training (thresholds, temperature …), as JSON; `restore` takes it back."""
        return {}

    def restore(self, fitted: Mapping[str, Any]) -> None:
        """Take back what `fitted` gave."""

    # -- training ------------------------------------------------------------------------------------------

    def configure_model(self) -> None:
        """Cut the weights where processes share them out; Lightning calls it before it makes the optimiser."""
        if isinstance(self.trainer.strategy, Sharded):
            self.trainer.strategy.shard(self)

    def training_step(self, step: list[Batch], batch_idx: int) -> None:
        training.take_step(self, step)

    def backward_step(self, step: list[Batch], total: float) -> Tensor:
        """Add the gradients of a step whose units sum to `total` over all ranks; returns its loss.

        A loss that looks at the whole step at once goes a way of its own.
        """
        return training.accumulate(self, step, total)

    @contextlib.contextmanager
    def no_exchange(self) -> Iterator[None]:
        """Within it ranks keep their gradients to themselves."""
        strategy = self.trainer.strategy
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else contextlib.nullcontext():
            yield

    def all_ranks(self, value: float) -> float:
        """Sum of a number over ranks."""
        if self.trainer.world_size == 1:
            return value
        return float(self.trainer.strategy.reduce(torch.tensor(value, device=self.device), reduce_op="sum"))

    def configure_optimizers(self) -> Any:
        return training.optimizers(self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a resumed training needs beside weights and optimiser. A task with state of its own adds to it."""
        checkpoint["task"] = training.progress(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` gave."""
        training.take_back(self, checkpoint["task"])

    def on_train_end(self) -> None:
        training.close_optimizer(self)

    def parameter_groups(self, optim: Optim) -> list[dict]:
        """What the optimiser moves, and how fast."""
        return parameter_groups(self.encoder, self.head, optim)

    # -- evaluation ----------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self.reports["validation"] = self.new_report("validation").to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.update_report(self.reports["validation"], self.outputs(batch).float(), batch)

    def on_validation_epoch_end(self) -> None:
        values = {k: v for k, v in self.reports["validation"].compute().items() if v is not None}
        self.log_dict({f"val_{name}": float(v) for name, v in values.items()}, batch_size=1)
        if self.epoch_losses:
            loss = float(torch.stack(self.epoch_losses).mean())
            self.epoch_losses.clear()
            epoch = {"step": self.trainer.global_step, "epoch": self.current_epoch + 1, "train_loss": loss}
            self.history.append(epoch | {f"val_{name}": float(v) for name, v in values.items()})

    # -- saving --------------------------------------------------------------------------------------------

    def to_hf(self) -> dict[str, Tensor]:
        """Every tensor under its Hugging Face name."""
        return encoder_to_hf(self.encoder) | head_to_hf(self.head, self.encoder.hf_prefix)

    def load_head(self, tensors: Mapping[str, Tensor], strict: bool = False) -> list[str]:
        return load_head(self.head, tensors, self.encoder.hf_prefix, strict)

    def write_modules(self, folder: Path) -> None:
        """Write what other software wants beside the weights of a saved model, and `read_modules` takes back."""

    def read_modules(self, folder: Path, strict: bool = False) -> None:
        """Take over what a checkpoint folder has beside its weights; with `strict` (a saved run) it must be there."""
