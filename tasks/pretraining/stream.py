"""Text as an endless, shuffled, resumable stream of steps.

Documents are read in the order of the files; a buffer of them is made into examples, shuffled by seed, epoch and
number, and cut into steps. A cursor (epoch, buffer, step) says where a training stood: what follows it is the same
as if there had been no stop.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from modernbert.errors import DataError
from tasks.data.sampler import micro_batches, permutation
from tasks.pretraining.text import Document, read_documents

#: Documents in a buffer: of Wikipedia about 200,000 tokens, or a hundred steps of a training on a CPU.
BUFFER = 500


class Example(Protocol):
    """What a step is made of; its length counts against the token budgets."""

    def __len__(self) -> int: ...


E = TypeVar("E", bound=Example)


@dataclass(frozen=True)
class Cursor:
    """Where the next step begins."""

    epoch: int = 0
    buffer: int = 0
    step: int = 0

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Step(Generic[E]):
    """The micro-batches of one optimiser step, and the cursor after it."""

    batches: list[list[E]]
    after: Cursor

    @property
    def tokens(self) -> int:
        return sum(len(example) for batch in self.batches for example in batch)


class Stream(Generic[E]):
    """Steps of about `batch_tokens` tokens, as micro-batches of at most `tokens_per_batch`.

    Args:
        files: read in order, again and again.
        make: documents of one buffer -> examples; gets a random generator that seed, epoch and buffer decide.
        batch_tokens: tokens of a step, at least; the last example may go over it.
        tokens_per_batch: most tokens of one forward pass.
        seed: of the order, and of what `make` draws.
        held_out: documents at the beginning of the files that are never trained on.
    """

    def __init__(
        self,
        files: Sequence[Path],
        make: Callable[[list[Document], np.random.Generator], list[E]],
        batch_tokens: int,
        tokens_per_batch: int,
        seed: int,
        held_out: int = 0,
    ) -> None:
        self.files, self.make, self.seed, self.held_out = list(files), make, seed, held_out
        self.batch_tokens, self.tokens_per_batch = batch_tokens, tokens_per_batch

    def steps(self, start: Cursor) -> Iterator[Step[E]]:
        """Steps from a cursor on, without end.

        Raises:
            DataError: a whole pass over the files makes no step.
        """
        epoch, skip, first = start.epoch, start.buffer, start.step
        while True:
            documents = read_documents(self.files)
            passed = sum(1 for _ in islice(documents, self.held_out + skip * BUFFER))
            found = passed > self.held_out or first > 0  # an epoch that was begun had a step
            number = skip
            while buffer := list(islice(documents, BUFFER)):
                for i, batches in enumerate(self._cut(buffer, epoch, number)):
                    if i >= first:
                        found = True
                        yield Step(batches, Cursor(epoch, number, i + 1))
                number, first = number + 1, 0
            if not found:
                raise DataError(f"data.text: {', '.join(map(str, self.files[:3]))} hold no text that makes an example")
            epoch, skip, first = epoch + 1, 0, 0

    def _cut(self, documents: list[Document], epoch: int, number: int) -> list[list[list[E]]]:
        examples = self.make(documents, np.random.Generator(np.random.PCG64([self.seed, epoch, number])))
        lengths = np.array([len(example) for example in examples], dtype=np.int64)
        if not len(examples):
            return []
        order = permutation(len(examples), self.seed, epoch, number)
        # The step of an example is where the tokens before it end; a rest joins the last step.
        before = np.concatenate([[0], np.cumsum(lengths[order])[:-1]])
        count = max(1, int(lengths.sum()) // self.batch_tokens)
        step = np.minimum(before // self.batch_tokens, count - 1)
        parts = np.split(order, np.flatnonzero(np.diff(step)) + 1)
        return [
            [[examples[i] for i in group] for group in micro_batches(lengths, part, self.tokens_per_batch)]
            for part in parts
        ]


def hold_out(files: Sequence[Path], most: int) -> list[Document]:
    """The first documents, for measuring: at most `most`, and at most a tenth of what is there."""
    first = list(islice(read_documents(files), 10 * most))
    return first[: len(first) // 10]
