"""How an answer looks: one renderer for each output type of the tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol, get_args, get_type_hints

import gradio as gr
from gradio.components import Component

from modernbert.errors import ConfigError
from tasks.base import Label, Task
from tasks.run import Run
from ui.markup import escape

#: Bars shown at once; the others unfold on request.
TOP = 10
#: Labels named in the headline of an answer; of more it says the number, the bars mark them.
NAMED = 3


class Renderer(Protocol):
    """Shows one answer of a run."""

    def build(self) -> list[Component]:
        """The components, made where the page stands."""

    def show(self, output: Any) -> list[Any]:
        """A value for each of the components."""


class LabelRenderer:
    """Probabilities as bars, with the thresholds of a multi-label run; the value of a regression."""

    def __init__(self, run: Run) -> None:
        labels = run.schema.labels
        self.labels, self.max_length = labels, run.schema.max_length
        limits = run.task.thresholds or [0.5] * len(labels.names)
        several = labels.kind == "multilabel"
        self.limits = dict(zip(labels.names, limits, strict=True)) if several else {}

    def build(self) -> list[Component]:
        # aria-live: a screen reader reads the new answer out.
        shown = gr.HTML(
            self.frame('<p class="quiet">The answer appears here.</p>'),
            label="Answer",
            container=True,
            apply_default_css=False,
        )
        with gr.Accordion("Exact numbers", open=False):
            exact = gr.JSON(label="Exact numbers", show_label=False)
        return [shown, exact]

    def show(self, output: Label) -> list[Any]:
        parts = [self.verdict(output)]
        if output.cut:
            parts.append(
                f'<p class="notice" role="note">The text is longer than the {self.max_length} tokens '
                "this run reads: the end was left out.</p>"
            )
        if output.scores:
            parts.append(self.bars(output))
        return [self.frame("".join(parts)), dataclasses.asdict(output)]

    @staticmethod
    def frame(content: str) -> str:
        return f'<div class="answer" aria-live="polite">{content}</div>'

    def verdict(self, output: Label) -> str:
        """The answer in a line."""
        if output.value is not None:
            mean, std = self.labels.mean, self.labels.std
            scale = f"In training: {mean:.4g} on average, standard deviation {std:.3g}."
            return f'<p class="verdict">{output.value:.4g}</p><p class="quiet">{scale}</p>'
        if not output.labels:
            return '<p class="verdict">none</p><p class="quiet">No label reaches its threshold.</p>'
        several = len(output.labels) > NAMED
        names = f"{len(output.labels)} labels" if several else ", ".join(output.labels)
        return f'<p class="verdict">{escape(names)}</p>'

    def bars(self, output: Label) -> str:
        """A bar for each label: levels of a scale in their order, others the likeliest first; TOP at once."""
        names = list(output.scores)
        if self.labels.kind != "ordinal":
            names.sort(key=lambda name: -output.scores[name])
        rows = [self.bar(name, output.scores[name], name in output.labels) for name in names]
        shown, rest = listed(rows[:TOP]), rows[TOP:]
        if not rest:
            return shown
        more = "1 more label" if len(rest) == 1 else f"{len(rest)} more labels"
        return f"{shown}<details><summary>{more}</summary>{listed(rest)}</details>"

    def bar(self, name: str, share: float, chosen: bool) -> str:
        limit, said = "", percent(share)
        if name in self.limits:
            at = self.limits[name]
            said += f", threshold {percent(at)}"
            limit = f'<span class="limit" style="left: {100 * at:.2f}%" title="threshold {percent(at)}"></span>'
        return (
            f"<li{' class=chosen' if chosen else ''}><span>{escape(name)}</span>"
            f'<span class="share">{percent(share)}</span>'
            f'<span class="track" role="meter" aria-label="{escape(name)}" aria-valuetext="{said}" '
            f'aria-valuemin="0" aria-valuemax="1" aria-valuenow="{share:.6f}">'
            f'<span class="fill" style="width: {100 * share:.2f}%"></span>{limit}</span></li>'
        )


#: Output type of a task -> its renderer. A task with a type of its own adds it here.
RENDERERS: dict[type, Callable[[Run], Renderer]] = {Label: LabelRenderer}


def renderer_of(run: Run) -> Renderer:
    """The renderer of a run's answers.

    Raises:
        ConfigError: the page cannot show what this task gives.
    """
    kind = output_type(run.task)
    if kind not in RENDERERS:
        known = ", ".join(known.__name__ for known in RENDERERS)
        raise ConfigError(
            f"run={run.folder}: the page cannot show what task={run.name} gives ({kind.__name__}; "
            f"it shows {known}). Use `modernbert predict`."
        )
    return RENDERERS[kind](run)


def output_type(task: Task) -> type:
    """What a task gives for a text, as its `decode` is annotated: list[Span] and list[list[Span]] are Span."""
    found = get_type_hints(type(task).decode)["return"]
    while get_args(found):
        found = get_args(found)[0]
    return found


def percent(share: float) -> str:
    """0.934 -> 93.4%."""
    return f"{100 * share:.1f}%"


def listed(rows: Sequence[str]) -> str:
    return f"<ul>{''.join(rows)}</ul>"
