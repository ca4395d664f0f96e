"""SIGTERM, SIGINT and SIGUSR1 during a training: finish the step, save, stop. A second one stops at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

#: What schedulers send before they kill (SLURM: SIGTERM, or SIGUSR1 by --signal), and Ctrl-C.
HANDLED = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name))


class Stopped(BaseException):
    """A signal asked to stop. No `Exception`, so that nothing on the way takes it for an error."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


class Signals:
    """Turns signals into a request that is answered between two steps, while `between_steps` is set; else into a stop.

    A context manager; outside the main thread, where Python takes no signals, it does nothing.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.between_steps = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        self.listen()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def listen(self) -> None:
        """Take the signals; once more where a library has taken them in the meantime."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in HANDLED:
            before = signal.signal(number, self._receive)
            self._before.setdefault(number, before)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.between_steps and self.received is None:
            self.received = number
            # Not by the console: a signal may come while it holds its own lock.
            name = signal.Signals(number).name
            os.write(2, f"{name}: stopping after this step and saving; once more to stop at once\n".encode())
            return
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise Stopped(number)
