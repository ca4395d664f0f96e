"""Tokenised examples, the batches made of them, and the loaders that a trainer iterates.

Shapes: N examples, B sequences of a batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, SequentialSampler

from modernbert.errors import ConfigError, DataError
from modernbert.packing import Packed, pack
from tasks.data.sampler import StepSampler, inference_batches, shares
from tasks.data.tokens import Tokens

T = TypeVar("T")
#: What examples are made for: to learn from, to be measured by, or to be answered (without targets).
Use = Literal["train", "evaluate", "predict"]
Indices = Sequence[int] | npt.NDArray[np.int64]


@dataclass
class Batch:
    """One forward pass: packed sequences and what is to be learned of them.

    `index` (B,) int64 is the position of each sequence in its `Examples`: it restores the order of the file.
    """

    packed: Packed
    targets: Tensor | None
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)

    @property
    def goal(self) -> Tensor:
        """`targets` of examples that have them (those of a prediction do not)."""
        if self.targets is None:
            raise DataError("this batch has no targets: its examples were made for prediction")
        return self.targets

    def merge(self, outputs: Tensor) -> Tensor:
        """Outputs of sequences -> of examples. Here each example is one sequence."""
        return outputs

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on another device (Lightning calls this)."""
        targets = None if self.targets is None else self.targets.to(device, non_blocking=non_blocking)
        return Batch(self.packed.to(device), targets, self.index.to(device, non_blocking=non_blocking))


class Examples(Protocol):
    """What a task learns from: lengths for the sampler, and a collate that makes a batch of some of them."""

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """(N,) tokens of each example."""

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        """(N,) whether an example was cut short."""

    def __len__(self) -> int: ...

    def collate(self, indices: Indices) -> Batch:
        """The examples at `indices`, in that order."""


class TextExamples:
    """A text, or a pair of texts, with one target each.

    Args:
        tokens: of N examples.
        targets: (N,) classes or scores, (N, L) labels, or None for prediction.

    Raises:
        DataError: another number of targets than of texts.
    """

    def __init__(self, tokens: Tokens, targets: Tensor | None = None) -> None:
        if targets is not None and len(targets) != len(tokens):
            raise DataError(f"{len(tokens)} texts but {len(targets)} targets: give one target for each text")
        self.tokens = tokens
        self.targets = targets

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        return self.tokens.lengths

    @property
    def cut(self) -> npt.NDArray[np.bool_]:
        return self.tokens.full_lengths > self.tokens.lengths

    def __len__(self) -> int:
        return len(self.tokens)

    def collate(self, indices: Indices) -> Batch:
        index = torch.as_tensor(indices, dtype=torch.int64)
        spans = [slice(self.tokens.offsets[i], self.tokens.offsets[i + 1]) for i in index.tolist()]
        segments = self.tokens.segments
        packed = pack(
            [self.tokens.input_ids[span] for span in spans],
            token_type_ids=None if segments is None else [segments[span] for span in spans],
        )
        return Batch(packed, None if self.targets is None else self.targets[index], index)


class StepDataset(Dataset[list[Batch]]):
    """Turns a step of the sampler (its micro-batches as indices) into batches."""

    def __init__(self, examples: Examples) -> None:
        self.examples = examples

    def __getitem__(self, step: list[list[int]]) -> list[Batch]:
        return [self.examples.collate(indices) for indices in step]

    def __len__(self) -> int:
        return len(self.examples)


class StepLoader(DataLoader[list[Batch]]):
    """Hands out the steps of a `StepSampler` and knows how many, so that a checkpoint resumes in mid-epoch.

    Lightning saves `state_dict` with its checkpoint and restores it before it iterates.
    """

    sampler: StepSampler

    def __init__(self, examples: Examples, sampler: StepSampler, workers: int) -> None:
        super().__init__(
            StepDataset(examples),
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            collate_fn=_as_is,
            multiprocessing_context="spawn" if workers else None,
            persistent_workers=workers > 0,
        )
        self.steps_done = 0

    def __iter__(self) -> Iterator[list[Batch]]:  # type: ignore[override]
        # A generator starts at its first item. Lightning makes the iterator of a resumed run before it calls
        # set_epoch; workers, which fetch ahead, would then take the order of epoch 0.
        self.steps_done = self.sampler.start_step
        examples = self.dataset.examples  # type: ignore[attr-defined]
        if hasattr(examples, "set_epoch"):  # some show other parts of a row each epoch
            examples.set_epoch(self.sampler.epoch)
        for step in super().__iter__():
            self.steps_done += 1
            yield step

    def state_dict(self) -> dict[str, int]:
        return {"epoch": self.sampler.epoch, "step": self.steps_done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.sampler.start_at(state["epoch"], state["step"])


class BatchDataset(Dataset[Batch]):
    """The batches of an evaluation, numbered."""

    def __init__(self, examples: Examples, batches: Sequence[npt.NDArray[np.int64]]) -> None:
        self.examples = examples
        self.batches = batches

    def __getitem__(self, number: int) -> Batch:
        return self.examples.collate(self.batches[number])

    def __len__(self) -> int:
        return len(self.batches)


def train_loader(examples: Examples, sampler: StepSampler, workers: int = 0) -> StepLoader:
    """A loader whose items are optimiser steps: `list[Batch]`, this rank's micro-batches of the step.

    For Lightning set `use_distributed_sampler=False`: the sampler splits by rank itself. Lightning finds it
    as `loader.sampler` and calls its `set_epoch`.

    Workers are started afresh, not forked: a fork after the tokenizer has used its threads can deadlock
    (transformers#5486). Collating is a copy of a few kilobytes, so that none is right unless it is measured.
    """
    return StepLoader(examples, sampler, workers)


def eval_loader(
    examples: Examples, tokens_per_batch: int, rank: int = 0, world: int = 1
) -> DataLoader[Batch]:
    """A loader of single batches for evaluation or prediction; each example exactly once over all ranks.

    Raises:
        ConfigError: fewer examples than processes, so that one would have nothing to evaluate.
    """
    count = len(examples)
    if count < world:
        raise ConfigError(f"{count} examples to evaluate on {world} processes: use {max(count, 1)} at most")
    mine = np.sort(shares(examples.lengths, np.arange(count), world)[rank])
    dataset = BatchDataset(examples, inference_batches(examples.lengths, tokens_per_batch, indices=mine))
    return DataLoader(dataset, batch_size=None, sampler=SequentialSampler(dataset), collate_fn=_as_is)


def _as_is(item: T) -> T:
    """In place of torch's default, which would take a batch apart to look for arrays."""
    return item
