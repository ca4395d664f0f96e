"""One private folder of this process for what pages are given and what they make of it."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import threading
from pathlib import Path

#: Where Gradio looks for its cache; it takes no argument for it.
VARIABLE = "GRADIO_TEMP_DIR"


class Uploads:
    """A folder that only this user may enter (0700), there while a page is open and removed with the last one.

    Gradio has one cache a process, /tmp/gradio unless it is told otherwise, which every user of a machine may read.
    """

    def __init__(self) -> None:
        self.path: Path | None = None
        self.pages = 0
        self.before: str | None = None
        self.lock = threading.Lock()

    def take(self) -> Path:
        """The folder, for a page that is about to be built."""
        with self.lock:
            self.pages += 1
            if self.path is None:
                self.path = Path(tempfile.mkdtemp(prefix="modernbert-"))
                self.before = os.environ.get(VARIABLE)
                os.environ[VARIABLE] = str(self.path / "cache")
                atexit.register(self.remove)
            return self.path

    def give_back(self) -> None:
        """A page is closed."""
        with self.lock:
            self.pages -= 1
            last = self.pages == 0
        if last:
            self.remove()

    def new_folder(self, name: str) -> Path:
        """A new folder inside, for one purpose."""
        if self.path is None:
            raise RuntimeError("no page is open: take() comes first")
        return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.path))

    def remove(self) -> None:
        """Delete everything."""
        with self.lock:
            path, self.path = self.path, None
            if path is None:
                return
            atexit.unregister(self.remove)
            os.environ.pop(VARIABLE)
            if self.before is not None:
                os.environ[VARIABLE] = self.before
            shutil.rmtree(path, ignore_errors=True)  # a download that is under way holds its file until it ends


UPLOADS = Uploads()
