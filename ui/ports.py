"""Ports and addresses: what can be listened on, and where a browser finds it.

Nothing here imports Gradio, and torch (with the package of our errors) only to say what is wrong: a server answers
before either is there.
"""

from __future__ import annotations

import errno
import socket

LOOPBACK = ("127.0.0.1", "localhost", "::1")
#: Ports tried above a busy one before the system chooses.
NEAR = 20


def address(host: str, port: int) -> str:
    """Where a browser on this machine finds the page."""
    here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 (shown, not listened on)
    return f"http://[{here}]:{port}" if ":" in here else f"http://{here}:{port}"


def require_port(host: str, port: int) -> None:
    """
    Raises:
        ConfigError: nothing can listen there; names a port that is free where that is the trouble.
    """
    bound(host, port).close()


def bound(host: str, port: int) -> socket.socket:
    """A socket that has the port, for a server to listen on.

    Raises:
        ConfigError: as `require_port`.
    """
    problem: Exception | None = None
    if 1 <= port <= 65_535:
        try:
            return take(host, port)
        except OSError as error:
            problem = error
    from modernbert.errors import ConfigError

    if problem is None:
        raise ConfigError(f"port={port}: allowed is 1 to 65535.")
    if isinstance(problem, PermissionError):
        free = free_port(host, 7860)
        raise ConfigError(f"port={port}: ports below 1024 need special rights here. Use port={free}.")
    if getattr(problem, "errno", None) != errno.EADDRINUSE:
        raise ConfigError(
            f"host={host} is no address of this machine ({getattr(problem, 'strerror', problem)}). "
            "Use host=127.0.0.1, or host=0.0.0.0 for all of its addresses."
        ) from problem
    free = free_port(host, port + 1)
    raise ConfigError(f"port={port} on {host} is in use by another program. Use port={free}, which is free.")


def free_port(host: str, start: int) -> int:
    """A free port, one of the NEAR from `start` where there is one."""
    for port in (*range(start, min(start + NEAR, 65_536)), 0):
        try:
            with take(host, port) as probe:
                return int(probe.getsockname()[1])
        except OSError:
            continue
    from modernbert.errors import ConfigError

    raise ConfigError(f"host={host}: this machine has no free port.")


def take(host: str, port: int) -> socket.socket:
    """Bind a port; 0 lets the system choose. OSError where it is not to be had."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, place = found[0]
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(place)
    except OSError:
        taken.close()
        raise
    return taken
