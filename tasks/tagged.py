"""Tagged texts as examples: a text is one example, however many windows it takes to read it.

A *unit* is a sub-word that carries a tag: the first of each word, or every one. A long text is read in windows that
overlap; all of them stand in one batch, and the logits of a unit that several windows see are merged.

N texts, W words, T tokens of a batch, B texts of a batch, U units, P units counted once for each window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tasks.data.entities import Entity, TokenExamples, WordTokens
from tasks.data.entities import Span as Word
from tasks.data.examples import Batch, Indices
from tasks.spans import Spans


@dataclass
class TaggedBatch(Batch):
    """Texts with their windows packed; `targets` (U,) are tags and `index` (B,) the texts."""

    unit_tokens: Tensor  # (P,) position in the pack
    unit_of: Tensor  # (P,) which unit that is
    weight: Tensor  # (P,) how much context the window has around it: tokens to its nearer border, from 1
    cu_units: Tensor  # (B+1,) borders of the texts, in units
    heads: Tensor  # (U,) whether the unit is the first of its word
    bounds: Tensor  # (U, 2) characters of its word
    gold: Spans | None  # the right entities, in characters
    texts: list[str]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TaggedBatch:
        """The same batch on another device."""
        moved = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if hasattr(value := getattr(self, field.name), "to")
        }
        return dataclasses.replace(self, **moved)

    def merge(self, logits: Tensor) -> Tensor:
        """Logits (T, L) of tokens -> (U, L) of units."""
        return self.over_windows(logits[self.unit_tokens])

    def over_windows(self, each: Tensor) -> Tensor:
        """(P, L) -> (U, L): of a unit the mean over the windows that see it, weighted by context."""
        if len(self.unit_tokens) == len(self.heads):  # each unit stands in one window
            return each
        weight = self.weight.to(each.dtype)
        total = each.new_zeros(len(self.heads), each.shape[1]).index_add(0, self.unit_of, each * weight[:, None])
        return total / weight.new_zeros(len(self.heads)).index_add(0, self.unit_of, weight)[:, None]

    def words(self) -> tuple[Tensor, Tensor]:
        """Borders (B+1,) of the texts counted in words, and characters (W, 2) of each word that has a sub-word."""
        counted = torch.cat([self.heads.new_zeros(1, dtype=torch.int64), self.heads.long().cumsum(0)])
        return counted[self.cu_units], self.bounds[self.heads]


class TaggedTexts:
    """N texts as `Examples`; the length of one is that of its windows together.

    Args:
        texts, words: as given, and the (start, end) of their words.
        windows: of the same tokens.
        all_subwords: each sub-word of a word is a unit, not only the first.
        targets: (all sub-words,) tags, of which those of the units count; None for prediction.
        entities: the right answers of each text, None for prediction.
        labels: of the entities, in the order of the tags.
        lost: (text, entity) of those that no prediction can give, for the doctor.
    """

    def __init__(
        self,
        texts: Sequence[str],
        words: Sequence[Sequence[Word]],
        windows: TokenExamples,
        all_subwords: bool = False,
        targets: np.ndarray | None = None,
        entities: Sequence[Sequence[Entity]] | None = None,
        labels: Sequence[str] = (),
        lost: Sequence[tuple[int, Entity]] = (),
    ) -> None:
        tokens: WordTokens = windows.tokens
        self.texts, self.windows, self.entities, self.labels = texts, windows, entities, labels
        self.lost, self.offsets = lost, tokens.offsets
        first = tokens.first
        self.units = np.flatnonzero(tokens.words >= 0 if all_subwords else first)  # positions among all sub-words
        self.heads = first[self.units]
        self.targets = None if targets is None else targets[self.units]
        bounds = np.array([bound for spans in words for bound in spans], dtype=np.int64).reshape(-1, 2)
        text = np.searchsorted(tokens.offsets, self.units, side="right") - 1
        self.bounds = bounds[tokens.word_offsets[text] + tokens.words[self.units]]
        #: Windows of text i are window_starts[i] … window_starts[i + 1].
        self.window_starts = np.searchsorted(windows.windows.text, np.arange(len(texts) + 1))
        self.lengths = np.add.reduceat(windows.lengths, self.window_starts[:-1]) if len(texts) else windows.lengths
        self.max_seqlen = int(windows.lengths.max(initial=0))  # tokens of a window
        self.cut = np.zeros(len(texts), dtype=bool)  # windows leave nothing out

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def in_windows(self) -> int:
        """How many texts take more than one window."""
        return int((np.diff(self.window_starts) > 1).sum())

    def collate(self, indices: Indices) -> TaggedBatch:
        """The texts at `indices`, in that order."""
        index = np.asarray(indices, dtype=np.int64)
        window, text_of = ranges(self.window_starts[index], self.window_starts[index + 1])
        packed = self.windows.collate(window).packed
        start, stop = self.windows.windows.start[window], self.windows.windows.stop[window]
        low, high = (np.searchsorted(self.units, self.offsets[index + i]) for i in (0, 1))  # units of each text
        cu_units = np.concatenate([[0], np.cumsum(high - low)])
        unit, window_of = ranges(np.searchsorted(self.units, start), np.searchsorted(self.units, stop))
        place = self.units[unit] - start[window_of]  # in its window, without special tokens
        row = text_of[window_of]
        mine, _ = ranges(low, high)
        gold = None
        if self.entities is not None:
            gold = Spans.of([self.entities[i] for i in index.tolist()], self.labels)
        return TaggedBatch(
            packed=packed,
            targets=None if self.targets is None else torch.from_numpy(self.targets[mine]),
            index=torch.from_numpy(index),
            unit_tokens=packed.cu_seqlens.long()[window_of] + torch.from_numpy(self.windows.lead + place),
            unit_of=torch.from_numpy(unit - low[row] + cu_units[row]),
            weight=torch.from_numpy(1 + np.minimum(place, (stop - start)[window_of] - 1 - place)),
            cu_units=torch.from_numpy(cu_units),
            heads=torch.from_numpy(self.heads[mine]),
            bounds=torch.from_numpy(self.bounds[mine]),
            gold=gold,
            texts=[self.texts[i] for i in index.tolist()],
        )


def ranges(starts: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of each range [start, stop), end to end, and which range each is of."""
    sizes = stops - starts
    owner = np.repeat(np.arange(len(sizes)), sizes)
    within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return starts[owner] + within, owner
