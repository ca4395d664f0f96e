"""Packs whose number of tokens is one of few, where oneDNN multiplies: in half precision, and in fp32 training.

oneDNN compiles a kernel for each shape of a matrix product and keeps the last thousand. Packs have as many shapes as
there are sums of lengths, so that compiling took a third of a step and the kernels gigabytes. Measured on a Xeon with
AMX, forward and backward of two linear layers, 384 to 1,536 and back, packs of 1,500 to 2,048 tokens, 300 steps, one
thread: 38 us a token and 1,800 MB as they come, 26 us and 340 MB in multiples of 64. A training of MiniLM in fp32 on an
EPYC of the Zen 5 family, 120 packs: 469 us a token and 3,040 MB as they come, 449 us and 1,470 MB so.

Dimensions: T tokens, R rows.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from modernbert.attention import Prefixed
from modernbert.kernels import onednn
from modernbert.packing import Packed

#: Shapes an octave of sizes has, so that at most a sixteenth is computed for nothing; and the largest step.
SHAPES, LARGEST = 16, 64


def even_size(size: int) -> int:
    """The next of the sizes that are computed, at most a sixteenth above (below 128 up to seven more).

    >>> [even_size(size) for size in (1, 8, 100, 130, 1000, 1500)]
    [8, 8, 104, 136, 1024, 1536]
    """
    step = min(LARGEST, max(8, (1 << (size - 1).bit_length()) // (2 * SHAPES)))
    return -(-size // step) * step


def is_compiled_by_shape(weight: Tensor) -> bool:
    """Whether matrix products with this weight are compiled for each shape: half precision on the CPU."""
    if weight.device.type != "cpu":
        return False
    half = weight.dtype in (torch.bfloat16, torch.float16)
    return half or torch.is_autocast_enabled("cpu")


def evened(
    packed: Packed, rows: Tensor | None, weight: Tensor, most: int, training: bool
) -> tuple[Packed, Tensor | None]:
    """What an encoder computes in place of a pack and the rows it is asked for: the same, with more at their ends.

    Args:
        weight: any of the encoder's.
        most: tokens of a sequence.
        training: whether it is in training mode, and oneDNN's products, if it has any, are compiled in fp32 too. (Not
            whether a gradient is asked for: cached gradients compute a pack twice, and must draw the same dropout.)
    """
    trained = training and weight.device.type == "cpu" and onednn.pays_twice()
    if not (trained or is_compiled_by_shape(weight)):
        return packed, rows
    return even_pack(packed, most), None if rows is None else even_rows(rows)


def even_pack(packed: Packed, most: int) -> Packed:
    """The pack with one more sequence at its end that fills it up to an even size; itself where it is even.

    What is filled in has no gradient, since nobody reads its outputs; it repeats a token that is there anyway, so that
    no other row of the word table is touched.

    Args:
        most: tokens of a sequence. Where that is less than what is missing, the pack is left as it is.
    """
    missing = even_size(packed.num_tokens) - packed.num_tokens
    if isinstance(packed, Prefixed) or not 0 < missing <= most:
        return packed  # a Prefixed pack says of each sequence which it continues: another would need its word
    types = packed.token_type_ids
    return Packed(
        torch.cat([packed.input_ids, packed.input_ids[:1].expand(missing)]),
        torch.cat([packed.cu_seqlens, packed.cu_seqlens[-1:] + missing]),
        max(packed.max_seqlen, missing),
        None if types is None else torch.cat([types, types[:1].expand(missing)]),
    )


def over_even(layer: Callable[[Tensor], Tensor], values: Tensor, weight: Tensor) -> Tensor:
    """`layer(values)` of (R, D) values, where the layer takes each row by itself; computed over an even number of rows.

    Args:
        weight: any of the layer's.
    """
    if not is_compiled_by_shape(weight):
        return layer(values)
    missing = even_size(len(values)) - len(values)
    return layer(F.pad(values, (0, 0, 0, missing)))[: len(values)]


def even_rows(rows: Tensor) -> Tensor:
    """(R,) indices -> an even number of them; the first one is repeated."""
    return torch.cat([rows, rows[:1].expand(even_size(len(rows)) - len(rows))])
