"""Useful floating-point operations of an encoder, and the matrix-product rate they are held against.

Useful is what the result needs: linear layers over real tokens, and attention between the pairs of tokens
that may see each other. Padding, masked pairs, norms, activations and embeddings count nothing, so a share of
the ceiling falls with everything that is not a matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from modernbert.config import EncoderConfig
from modernbert.kernels import onednn
from tasks.data.cost import linear_flops, pair_flops, visible_pairs

#: A backward pass computes two products (for inputs and for weights) for each of the forward pass.
STEP_OVER_FORWARD = 3
#: Side of the square product that is timed: large enough for a machine's best rate, 0.1 s on 2 cores; a GPU
#: needs more to fill it, and more of them for the clock to see.
CEILING_SIDE = {"cpu": 2048, "cuda": 8192}
CEILING_CALLS = {"cpu": 1, "cuda": 10}


def forward_flops(config: EncoderConfig, lengths: Iterable[int]) -> int:
    """Of a forward pass over sequences of these lengths; a training step is `STEP_OVER_FORWARD` times that."""
    lengths = list(lengths)
    linear = linear_flops(config) * config.num_layers * sum(lengths)
    pairs = sum(visible_pairs(length, window) for window in config.windows for length in lengths)
    return linear + pair_flops(config) * pairs


def ceiling(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], None], int]:
    """A matrix product to time as one more side, and its operations: the rate that no encoder can pass.

    It is torch's, but oneDNN's where that is the faster one (float32 on an AMD CPU).
    """
    side, calls = CEILING_SIDE[device.type], CEILING_CALLS[device.type]
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(left)
    by_onednn = device.type == "cpu" and dtype == torch.float32 and onednn.pays()

    def multiply() -> None:
        for _ in range(calls):
            onednn.product(left, right, None) if by_onednn else torch.mm(left, right, out=out)

    return multiply, calls * 2 * side**3
