"""What a text costs the encoder, in tokens: attention of global layers grows with the square of its length.

N examples, D hidden.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from modernbert.config import EncoderConfig
from tasks.data.examples import Examples

IntArray = npt.NDArray[np.int64]


def visible_pairs(length: int, window: int | None) -> int:
    """Pairs (query, key) of a sequence that may see each other: |i - j| <= window, or all."""
    if window is None or length <= window + 1:
        return length * length
    # Each of the `window` tokens at either end misses 1, 2 … window keys.
    return length * (2 * window + 1) - window * (window + 1)


def linear_flops(config: EncoderConfig) -> int:
    """Of one token through one layer: query, key, value and output projections, and the MLP."""
    hidden, inner = config.hidden_size, config.intermediate_size
    # A gated MLP has a second matrix into the inner width.
    mlp = 3 if config.family == "modernbert" else 2
    return 2 * (4 * hidden * hidden + mlp * hidden * inner)


def pair_flops(config: EncoderConfig) -> int:
    """Of one visible pair in one layer: a product of D for its score, and one for its weighted value."""
    return 2 * 2 * config.hidden_size


def attention_share(length: int, config: EncoderConfig) -> float:
    """Attention's operations of a token in a text of this length over those of its linear layers."""
    pairs = sum(visible_pairs(length, window) for window in config.windows) / length
    return pair_flops(config) * pairs / (linear_flops(config) * config.num_layers)


def costs(examples: Examples, config: EncoderConfig) -> IntArray:
    """(N,) the operations of each example, in those of the linear layers on one token, rounded up.

    So an example never costs less than its tokens, and a budget in this unit bounds memory as one of tokens does.
    Where an example is several sequences (windows, a query with its documents; then `examples.max_seqlen` says how many
    tokens the longest of them has) each token costs at most what it does in the longest: a bound, not a sum.
    """
    lengths = np.asarray(examples.lengths, dtype=np.int64)
    if not len(lengths):
        return lengths
    longest = np.minimum(lengths, getattr(examples, "max_seqlen", lengths.max()))
    different, where = np.unique(longest, return_inverse=True)
    share = np.array([attention_share(max(1, int(length)), config) for length in different])
    return np.ceil(lengths * (1 + share[where])).astype(np.int64)
