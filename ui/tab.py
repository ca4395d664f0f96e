"""What the tabs of the page have in common: they follow the run that is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr
from gradio.components import Component

from tasks.run import Run
from ui.shelf import Shelf

State = dict[str, dict[str, Any]]


class Tab:
    """One thing that a page does with a run.

    A subclass gives `compose`, which makes the components, and `state`, which says how those that depend on the run
    look for one: the same words for the first run of a page and for one that is chosen later.
    """

    title: str

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.parts: dict[str, Component] = {}
        self.first: State = {}

    def serves(self, run: Run) -> bool:
        """Whether the tab has something to do for a run."""
        return True

    def state(self, run: Run) -> State:
        """Name of a part -> what is different about it for this run."""
        return {}

    def compose(self, chosen: gr.Dropdown) -> None:
        """Make the components and their events; `chosen` holds the name of the run."""
        raise NotImplementedError

    def build(self, run: Run | None, chosen: gr.Dropdown) -> None:
        """The tab as it looks for the first run of a page, where there is one."""
        self.first = self.state(run) if run is not None and self.serves(run) else {}
        self.compose(chosen)

    def part(self, name: str, kind: Callable[..., Any], **keywords: Any) -> Any:
        """A component that `state` knows by this name."""
        self.parts[name] = made = kind(**(keywords | self.first.get(name, {})))
        return made

    def updates(self, run: Run) -> list[Any]:
        """A change for each part."""
        state = self.state(run) if self.serves(run) else {}
        return [gr.update(**state.get(name, {})) for name in self.parts]
