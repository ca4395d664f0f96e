"""Query expansion: queries filled up with the mask to one length.

N texts.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from modernbert.errors import ConfigError
from tasks.data.tokens import Tokens


def filled_up(tokens: Tokens, length: int, mask: int) -> Tokens:
    """Every text with masks behind it up to `length` tokens: what a query does not say, the encoder may guess (ColBERT,
    Khattab and Zaharia 2020, arXiv:2004.12832). They are tokens as others are, and attended to."""
    ids = np.full((len(tokens), length), mask, dtype=np.int32)
    there = np.arange(length) < tokens.lengths[:, None]
    ids[there] = tokens.input_ids
    offsets = np.arange(len(tokens) + 1, dtype=np.int64) * length
    # A query that was cut still has more tokens than it is read with.
    return Tokens(ids.reshape(-1), offsets, None, np.maximum(tokens.full_lengths, length))


def mask_id(tokenizer: Any) -> int:
    """The id of the mask.

    Raises:
        ConfigError: the tokenizer has none.
    """
    if tokenizer.mask_token_id is None:
        raise ConfigError("task.query_expansion fills queries up with the mask, and this encoder's tokenizer has none.")
    return int(tokenizer.mask_token_id)
