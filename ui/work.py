"""Long work beside a page: in a thread of its own, watched, and ended when nobody watches any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from typing import Any

#: Seconds between two looks at it.
LOOK = 0.3


class AbandonedError(Exception):
    """Raised inside the work where nobody waits for it any more."""


class Work:
    """A function that tells how far it is; iterate over it to see that, until it is done.

    Leaving the iteration early ends the work at its next `advance`. What the function raises is raised from the
    iteration.

    Args:
        function: is given `advance`, which it calls with what was done since the last call.
    """

    def __init__(self, function: Callable[[Callable[[int], None]], Any]) -> None:
        self.function = function
        self.done = 0
        self.left = False
        self.result: Any = None
        self.error: Exception | None = None

    def advance(self, amount: int) -> None:
        if self.left:
            raise AbandonedError
        self.done += amount

    def run(self) -> None:
        try:
            self.result = self.function(self.advance)
        except Exception as error:  # raised where the work is watched
            self.error = error

    def __iter__(self) -> Generator[int, None, None]:
        thread = threading.Thread(target=self.run, name="work")
        thread.start()
        try:
            while thread.is_alive():
                yield self.done
                thread.join(LOOK)
        finally:
            self.left = True
            thread.join()
        if self.error is not None:
            raise self.error
