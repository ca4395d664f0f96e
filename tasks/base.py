"""What every task shares: a step of packed micro-batches, optimiser groups, metrics.

T tokens, B sequences, D hidden size.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.strategies import ParallelStrategy
from torch import Tensor, nn

from modernbert.weights import Encoder, encoder_to_hf
from tasks.data.examples import Batch
from tasks.data.readers import Table
from tasks.data.writers import with_columns
from tasks.heads import head_to_hf, load_head
from tasks.memory import Memory
from tasks.metrics import WorstErrors
from tasks.numbers import Numbers
from tasks.optim import Optim, build_optimizer, parameter_groups, schedule, word_table
from tasks.row_adamw import RowAdamW, clip_grad_norm


@dataclass
class Throughput:
    """What training has done so far on this rank, for the progress bar: real tokens, forward passes, last loss."""

    tokens: int = 0
    micro_batches: int = 0
    loss: float | Tensor = math.nan


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

    def labelled_config(self, kind: str, names: Sequence[str]) -> dict[str, Any]:
        """config.json of the encoder with the head "For<kind>" of its family, whose outputs have these names."""
        raw = dict(self.encoder.config.raw)
        raw["architectures"] = [self.architecture(f"For{kind}")]
        raw["id2label"] = {str(i): name for i, name in enumerate(names)}
        raw["label2id"] = {name: i for i, name in enumerate(names)}
        raw["num_labels"] = len(names)
        raw["classifier_dropout"] = self.head.drop.p  # type: ignore[union-attr]
        return raw

    def architecture(self, kind: str) -> str:
        """The class of transformers with this encoder, such as BertModel of "Model"."""
        family = {"modernbert": "ModernBert", "bert": "Bert", "roberta": "Roberta"}[self.encoder.config.family]
        return ("XLMRoberta" if self.encoder.config.raw.get("model_type") == "xlm-roberta" else family) + kind

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

    def training_step(self, step: list[Batch], batch_idx: int) -> None:
        optimizer = self.optimizers()
        total = self.all_ranks(sum(self.units(batch) for batch in step))
        loss = self.memory.run(self, step, lambda: self.backward_step(step, total))
        if self.trainer.world_size > 1:
            loss = loss.new_tensor(self.all_ranks(float(loss)))
        if self.scaler is not None:
            self.scaler.unscale_(optimizer.optimizer)  # type: ignore[union-attr]  # clipping wants the true norm
        limit = self.optim.clip or math.inf  # type: ignore[union-attr]
        norm = clip_grad_norm(self.parameters(), limit)
        sound = self.require_finite(norm, loss, step)
        if sound:
            optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad(set_to_none=True)  # type: ignore[union-attr]
        self.lr_schedulers().step()  # type: ignore[union-attr]
        self.throughput.tokens += sum(batch.packed.num_tokens for batch in step)
        self.throughput.micro_batches += len(step)
        if sound:
            self.throughput.loss = loss
            self.epoch_losses.append(loss)
            self.log("train_loss", loss, batch_size=sum(len(batch) for batch in step))

    def backward_step(self, step: list[Batch], total: float) -> Tensor:
        """Backward through each micro-batch; returns the step's loss. Ranks exchange gradients once, at the last.

        DDP averages over ranks, the loss is divided by the units of all ranks: hence the factor world_size.
        """
        loss = torch.zeros((), device=self.device)
        for position, batch in enumerate(step):
            with self.no_exchange() if position < len(step) - 1 else contextlib.nullcontext():
                part = self.loss_sum(self.outputs(self.memory.at(batch)), batch) / total
                self.memory.exchanged = self.trainer.world_size > 1 and position == len(step) - 1
                self.manual_backward(part * self.trainer.world_size)
            loss += part.detach()
        return loss

    @contextlib.contextmanager
    def no_exchange(self) -> Iterator[None]:
        strategy = self.trainer.strategy
        with strategy.block_backward_sync() if isinstance(strategy, ParallelStrategy) else contextlib.nullcontext():
            yield

    def all_ranks(self, value: float) -> float:
        """Sum of a number over ranks."""
        if self.trainer.world_size == 1:
            return value
        return float(self.trainer.strategy.reduce(torch.tensor(value, device=self.device), reduce_op="sum"))

    @property
    def scaler(self) -> Any:
        """The loss scaler of precision=16-mixed, else None."""
        return getattr(self.trainer.precision_plugin, "scaler", None)

    def require_finite(self, norm: Tensor, loss: Tensor, step: list[Batch]) -> bool:
        """Whether loss and gradient are numbers; if not, what `numbers` is set to happens, before the weights move."""
        if self.scaler is not None and math.isfinite(float(loss)) and self.scaler.get_scale() > 1:
            return True  # a scale too large for fp16 is ordinary: the scaler leaves the step out and halves it
        done = self.trainer.fit_loop.epoch_loop.batch_progress.total.completed  # steps left out count too
        return self.numbers.sound(self, step, done, float(loss), float(norm))

    def configure_optimizers(self) -> Any:
        if self.optim is None:
            raise RuntimeError("this task was loaded for prediction; it has no optimiser settings")
        # DDP wraps the model in a process of its own too, and exchanges dense gradients only.
        alone = not isinstance(self.trainer.strategy, ParallelStrategy) and not self.uses_word_table
        table = word_table(self.encoder) if alone else None
        optimizer = build_optimizer(self.parameter_groups(self.optim), self.optim, table)
        steps = int(self.trainer.estimated_stepping_batches)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule(self.optim, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What a resumed training needs beside weights and optimiser. A task with state of its own adds to it."""
        checkpoint["task"] = {
            "throughput": [self.throughput.tokens, self.throughput.micro_batches],
            "history": self.history,
            "epoch_losses": torch.stack(self.epoch_losses) if self.epoch_losses else None,
            "skipped": [self.numbers.skipped, self.numbers.in_a_row],
            "memory": [self.memory.budget, self.encoder.gradient_checkpointing],
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take back what `on_save_checkpoint` gave."""
        held = checkpoint["task"]
        self.throughput.tokens, self.throughput.micro_batches = held["throughput"]
        self.history = list(held["history"])
        self.epoch_losses = [] if held["epoch_losses"] is None else list(held["epoch_losses"].unbind())
        self.numbers.skipped, self.numbers.in_a_row = held["skipped"]
        self.memory.budget, recompute = held["memory"]
        self.encoder.gradient_checkpointing |= recompute

    def on_train_end(self) -> None:
        optimizer = self.optimizers(use_pl_optimizer=False)
        if isinstance(optimizer, RowAdamW):
            optimizer.close()

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
