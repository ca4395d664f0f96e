"""Two tokenizations of one text brought together: word by word.

A unit is a word between white space, or the special tokens before the first, or after the last word. The vector of
a unit is the mean over its tokens, whichever tokenizer made them, so that a student's can be compared with its
teacher's.

Dimensions: T tokens, N units of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Encoding, Tokenizer
from torch import Tensor

IntArray = npt.NDArray[np.int32]
#: Texts encoded at once: an encoding takes a hundred times the memory of its ids.
CHUNK = 500


@dataclass(frozen=True)
class Units:
    """Token ids of a text, and the unit of each token; both arrays are of the same length."""

    ids: IntArray
    units: IntArray


def encode_units(tokenizer: Tokenizer, texts: list[str]) -> list[Units]:
    """Each text with its special tokens, and the units of its tokens."""
    found: list[Units] = []
    for start in range(0, len(texts), CHUNK):
        part = texts[start : start + CHUNK]
        found += [_units(text, encoding) for text, encoding in zip(part, tokenizer.encode_batch(part), strict=True)]
    return found


def _units(text: str, encoding: Encoding) -> Units:
    spaces = np.fromiter((character.isspace() for character in text), bool, len(text))
    starts = ~spaces & np.concatenate([[True], spaces[:-1]])
    word = np.cumsum(starts)  # of each character, from 1; a space belongs to the word before it
    special = np.array(encoding.special_tokens_mask, dtype=bool)
    # The last character decides: the first of a byte-level token may be the space before the word.
    ends = np.array(encoding.offsets, dtype=np.int64)[:, 1]
    units = np.maximum(word[np.maximum(ends, 1) - 1], 1)
    plain = np.flatnonzero(~special)
    first, last = (plain[0], plain[-1]) if len(plain) else (len(special), 0)
    place = np.arange(len(special))
    units = np.where(place < first, 0, np.where(place > last, word[-1] + 1, units))
    return Units(np.array(encoding.ids, dtype=np.int32), units.astype(np.int32))


def unit_index(texts: Sequence[Units], counts: Sequence[int]) -> Tensor:
    """(T,) the row of each token among the N units of a batch, of which text b has `counts[b]`."""
    offsets = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rows = [text.units + offset for text, offset in zip(texts, offsets.tolist(), strict=True)]
    return torch.from_numpy(np.concatenate(rows).astype(np.int64))


def unit_means(hidden: Tensor, index: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(T, D) token vectors -> (N, D) means of units, and (N,) whether a unit has a token at all; in fp32."""
    sums = hidden.new_zeros(count, hidden.shape[1], dtype=torch.float32).index_add(0, index, hidden.float())
    sizes = torch.bincount(index, minlength=count)
    return sums / sizes.clamp_min(1)[:, None], sizes > 0
