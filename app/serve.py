"""`modernbert ui`: a saved run as a page in the browser, until Ctrl-C."""

from __future__ import annotations

import threading

from omegaconf import DictConfig

from app import console
from app.threads import use_threads
from tasks.run import Run
from ui.page import require_port, serving

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def main(cfg: DictConfig) -> int:
    """Serve the page of `cfg.run`; returns the exit status when a person stops it."""
    use_threads(cfg.threads)
    require_port(cfg.host, cfg.port)  # before the model is loaded: nobody waits for a bad port
    run = Run.load(cfg.run, cfg.device)
    try:
        with serving(run, cfg.host, cfg.port) as address:
            if cfg.host not in LOOPBACK:
                console.warn(f"host={cfg.host}: whoever reaches this machine can use the page, without a password.")
            console.out().print(f"{run.folder} is at {address}  (Ctrl-C stops)", soft_wrap=True)
            threading.Event().wait()
    except KeyboardInterrupt:
        console.note("stopped")
    return 0
