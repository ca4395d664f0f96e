"""The errors a person can mend. Each message says what was given, what is allowed and what to do."""

from __future__ import annotations


class ModernBertError(Exception):
    """Base of every error this project raises on purpose; the command line prints its message alone."""


class ConfigError(ModernBertError):
    """A key or a value of the configuration."""


class DataError(ModernBertError):
    """A file or its rows."""


class EncoderError(ModernBertError):
    """A checkpoint, its source or its configuration."""


class BackendError(ModernBertError):
    """A kernel or attention backend, or a tensor handed to one."""
