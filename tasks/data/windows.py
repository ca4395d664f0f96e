"""Long texts as examples: each is read in overlapping windows, and what the windows say is merged into one answer.

N texts, W windows of a batch, B texts of a batch, L outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from modernbert.errors import DataError
from modernbert.kernels.maxsim import sequence_of_token
from tasks.data.examples import Batch, Indices, TextExamples
from tasks.data.layout import IntArray, ranges
from tasks.data.tokens import Tokens

#: How the outputs of windows become that of their text. "attention" weighs them by a score that is learned, which
#: is the last output of each window.
Merging = Literal["mean", "max", "attention"]


@dataclass
class WindowBatch(Batch):
    """Texts with their windows packed; `index` (B,) and `targets` are of texts."""

    cu_windows: Tensor  # (B+1,) borders of the texts, in windows
    merging: Merging

    def merge(self, outputs: Tensor) -> Tensor:
        """(W, L), with "attention" (W, L + 1), -> (B, L)."""
        return merged(outputs, self.cu_windows, self.merging)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> WindowBatch:
        """The same batch on another device."""
        plain = super().to(device, non_blocking)
        borders = self.cu_windows.to(device, non_blocking=non_blocking)
        return WindowBatch(plain.packed, plain.targets, plain.index, borders, self.merging)


def merged(outputs: Tensor, cu_windows: Tensor, merging: Merging) -> Tensor:
    """Outputs of windows (W, L), with "attention" (W, L + 1), -> of their texts (B, L)."""
    if merging == "max":
        return best_window(outputs, cu_windows)
    count = len(cu_windows) - 1
    owner = sequence_of_token(cu_windows, outputs.shape[0])
    weight = outputs.new_ones(outputs.shape[0])
    if merging == "attention":
        outputs, score = outputs[:, :-1], outputs[:, -1]
        highest = score.new_zeros(count).scatter_reduce(0, owner, score.detach(), "amax", include_self=False)
        weight = (score - highest[owner]).exp()
    total = weight.new_zeros(count).index_add(0, owner, weight)
    share = weight / total[owner]
    return outputs.new_zeros(count, outputs.shape[1]).index_add(0, owner, outputs * share[:, None])


def best_window(outputs: Tensor, cu_windows: Tensor) -> Tensor:
    """The largest output (W, L) of each text's windows -> (B, L), with the borders (B+1,) of the texts in windows."""
    rows = sequence_of_token(cu_windows, outputs.shape[0])[:, None].expand_as(outputs)
    merged = outputs.new_zeros(len(cu_windows) - 1, outputs.shape[1])
    return merged.scatter_reduce(0, rows, outputs, "amax", include_self=False)


class WindowExamples:
    """N texts as `Examples`; the length of one is that of its windows together.

    Args:
        tokens, starts: from `tasks.data.tokenise.tokenise_windows`.
        merging: how the windows of a text answer together.
        targets: (N,) or (N, L), None for prediction.
        most: of a text with more windows than that show so many, the next ones each epoch (see `set_epoch`).

    Raises:
        DataError: another number of targets than of texts.
    """

    def __init__(
        self,
        tokens: Tokens,
        starts: IntArray,
        merging: Merging,
        targets: Tensor | None = None,
        most: int | None = None,
    ) -> None:
        count = len(starts) - 1
        if targets is not None and len(targets) != count:
            raise DataError(f"{count} texts but {len(targets)} targets: give one target for each text")
        self.starts, self.merging, self.targets = starts, merging, targets
        self.windows, self.epoch = TextExamples(tokens), 0
        counts = np.diff(starts)
        self.shown = counts if most is None else counts.clip(max=most)
        # All windows of a text are equally long, so those that are shown always make up the same share of it.
        whole = np.diff(tokens.offsets[starts])
        self.lengths: npt.NDArray[np.int32] = (whole * self.shown // counts.clip(min=1)).astype(np.int32)
        self.max_seqlen = int(tokens.lengths.max(initial=0))  # tokens of a window
        self.cut: npt.NDArray[np.bool_] = np.zeros(count, dtype=bool)  # windows leave nothing out

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def in_windows(self) -> int:
        """How many texts take more than one window."""
        return int((np.diff(self.starts) > 1).sum())

    def set_epoch(self, epoch: int) -> None:
        """Show the windows of this epoch, of texts that do not show all of theirs."""
        self.epoch = epoch

    def collate(self, indices: Indices) -> WindowBatch:
        """The texts at `indices`, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        first, counts, shown = self.starts[index], np.diff(self.starts)[index], self.shown[index]
        borders = torch.from_numpy(np.concatenate([[0], np.cumsum(shown)]))
        # A text shows its windows in turn, round and round. It begins at the one of its own number, or the first epoch
        # would be of nothing but beginnings.
        turn = np.where(shown < counts, index + self.epoch * shown, 0)
        places = ranges(turn, shown) % np.repeat(counts, shown)
        packed = self.windows.collate(np.repeat(first, shown) + places).packed
        number = torch.from_numpy(index)
        targets = None if self.targets is None else self.targets[number]
        return WindowBatch(packed, targets, number, borders, self.merging)
