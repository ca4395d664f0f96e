"""`modernbert serve`: routes and page over saved runs, until Ctrl-C or SIGTERM."""

from __future__ import annotations

import asyncio

from omegaconf import DictConfig

from app import console
from app.compose import plain
from app.server.context import Context
from app.server.lifecycle import Service
from app.server.settings import Settings
from ui.ports import LOOPBACK, bound

#: Connections that wait to be accepted.
BACKLOG = 2048


def main(cfg: DictConfig) -> int:
    """Serve `cfg.run`; returns the exit status when it is stopped."""
    settings = Settings.of(plain(cfg))
    if settings.host not in LOOPBACK and settings.token is None:
        console.warn(f"host={settings.host}: whoever reaches this machine can use the server. token=… asks for one.")
    with bound(settings.host, settings.port) as listener:
        listener.listen(BACKLOG)  # the first requests may come before anything else is ready
        asyncio.run(Service(Context(settings), listener).run())
    console.note("stopped")
    return 0
