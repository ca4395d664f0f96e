"""How many CPU threads the matrix products use."""

from __future__ import annotations

import torch

from modernbert.errors import ConfigError


def use_threads(threads: int | None) -> None:
    """Set the number of threads; None keeps torch's choice, the physical cores.

    Raises:
        ConfigError: fewer than one.
    """
    if threads is None:
        return
    if threads < 1:
        raise ConfigError(f"threads={threads}: allowed is 1 or more, or null for all cores.")
    torch.set_num_threads(threads)
