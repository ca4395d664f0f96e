"""What a person is told when a verb fails, and the exit status that says so to scripts."""

from __future__ import annotations

import errno

from app import console

# 70 and 75 are EX_SOFTWARE and EX_TEMPFAIL ("try again") of sysexits.h, 130 is 128 + SIGINT.
OK, FAILED, MISUSED, BUG, TRY_AGAIN, STOPPED = 0, 1, 2, 70, 75, 130
# What a disk says that takes no more: full, over quota, file too large.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

MEMORY = "data.tokens_per_batch (half of it halves the memory of a step, and learns the same)"


def report(error: Exception) -> int:
    """Say what went wrong in a line or two; only what nobody foresaw is called a bug and leaves a trace."""
    from modernbert.errors import ConfigError, ModernBertError

    if isinstance(error, ModernBertError):
        console.error(str(error))
        return MISUSED if isinstance(error, ConfigError) else FAILED
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno in FULL):
        console.error(f"{error.filename or 'writing'}: {error.strerror}")
        return FAILED
    if _is_out_of_memory(error):
        console.error(f"out of memory. Lower {MEMORY}, or data.max_length, or take a smaller encoder.")
        return FAILED
    console.bug(error)
    return BUG


def _is_out_of_memory(error: Exception) -> bool:
    # By name, as torch is not imported here; on a CPU torch raises a plain RuntimeError.
    cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return cpu or isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
