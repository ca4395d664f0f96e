"""The keys of conf/serve.yaml, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn


@dataclass(frozen=True)
class Limits:
    """What one request may ask for, and how many may wait.

    Args:
        body: bytes of a JSON request.
        upload: bytes of a file.
        texts: of one request.
        tokens: of one request.
        waiting: requests that are accepted and not yet answered.
        seconds: until a request is answered, or given up; also between two pieces of a body.

    Raises:
        ConfigError: a value that allows no request.
    """

    body: int
    upload: int
    texts: int
    tokens: int
    waiting: int
    seconds: float

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value <= 0:
                refuse(f"limits.{name}={value}: allowed is a number above 0.")


@dataclass(frozen=True)
class Settings:
    """All keys; see docs/server.md.

    Raises:
        ConfigError: two runs of one name, a value outside its range.
    """

    runs: Mapping[str, Path]
    index: str | None
    host: str
    port: int
    token: str | None
    page: bool
    tokens_per_batch: int | Literal["auto"]
    batch_wait: float
    limits: Limits
    device: str
    precision: str
    threads: int | None

    def __post_init__(self) -> None:
        if self.token is not None and (len(self.token) < SHORTEST_TOKEN or not self.token.isascii()):
            refuse(f"token= has {len(self.token)} characters: give {SHORTEST_TOKEN} or more, of ASCII, hard to guess.")
        tokens = self.tokens_per_batch
        if tokens != "auto" and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            refuse(f"tokens_per_batch={tokens}: allowed is auto, or a whole number of tokens, at least 1.")
        if not 0 <= self.batch_wait <= LONGEST_WAIT:
            refuse(f"batch_wait={self.batch_wait}: allowed is 0 to {LONGEST_WAIT} milliseconds.")

    @classmethod
    def of(cls, keys: Mapping[str, Any]) -> Settings:
        """From the composed configuration as plain values."""
        rest = {key: value for key, value in keys.items() if key not in ("run", "limits", "token")}
        token = None if keys["token"] is None else str(keys["token"])
        return cls(runs=named(keys["run"]), limits=Limits(**keys["limits"]), token=token, **rest)


#: Of a token. 16 random letters and digits have 95 bits; a shorter one may be guessed at thousands a second.
SHORTEST_TOKEN = 16
#: Of a batch for company, in milliseconds: a person notices more.
LONGEST_WAIT = 100


def named(given: Any) -> dict[str, Path]:
    """The runs under the names of their folders.

    Raises:
        ConfigError: none, two of one name, or a name that cannot stand in an address.
    """
    folders = [Path(str(each)) for each in (given if isinstance(given, list) else [given])]
    if not folders:
        refuse("run=[]: give the folder of a saved run, or several as run=[a,b].")
    runs: dict[str, Path] = {}
    for folder in folders:
        name = folder.resolve().name
        if name in runs:
            refuse(f"run={folder} and run={runs[name]} would both be called {name!r}: rename one of the folders.")
        if not name or not all(letter.isalnum() or letter in "-_." for letter in name):
            refuse(f"run={folder}: {name!r} cannot stand in an address; rename the folder to letters, digits, - and _.")
        runs[name] = folder
    return runs


def refuse(message: str) -> NoReturn:
    # Imported only to say no: the package of our errors imports torch, which takes a second.
    from modernbert.errors import ConfigError

    raise ConfigError(message)
