"""Kernels of the encoder: `<name>.py` is the torch reference and CPU form, `<name>_triton.py` the GPU form.

`dispatch` chooses once per device type and says why. Importing this package does not import Triton.
"""

from __future__ import annotations

from modernbert.kernels.cross_entropy import linear_cross_entropy
from modernbert.kernels.dispatch import report
from modernbert.kernels.dropout import dropout
from modernbert.kernels.geglu import geglu
from modernbert.kernels.layer_norm import add_layer_norm, layer_norm
from modernbert.kernels.linear import linear, linear_geglu, linear_gelu
from modernbert.kernels.maxsim import maxsim
from modernbert.kernels.rope import apply_rope, pair_order, rope_table

__all__ = [
    "add_layer_norm",
    "apply_rope",
    "dropout",
    "geglu",
    "layer_norm",
    "linear",
    "linear_cross_entropy",
    "linear_geglu",
    "linear_gelu",
    "maxsim",
    "pair_order",
    "report",
    "rope_table",
]
