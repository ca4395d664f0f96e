"""How an answer looks: one renderer for each output type of the tasks."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import gradio as gr
from gradio.components import Component

from modernbert.errors import ConfigError
from tasks.answers import Label, Span
from tasks.outputs import output_type
from tasks.reranking import Reranking, Score
from tasks.run import Run
from tasks.vectors import Embedding
from ui.markup import TONES, escape, percent, table
from ui.ranking import Ranked, ranking

#: Bars shown at once; the others unfold on request.
TOP = 10
#: Labels named in the headline of an answer; of more it says the number, the bars mark them.
NAMED = 3


#: Where an answer will be.
WAITING = '<p class="quiet">The answer appears here.</p>'


class Renderer(Protocol):
    """Shows one answer of a run."""

    def show(self, output: Any, *texts: str) -> list[Any]:
        """HTML of the answer and its exact numbers; `texts` are what was asked."""


def answer_components() -> list[Component]:
    """A place for the answer, and one for its exact numbers."""
    shown = gr.HTML(
        frame(WAITING),
        label="Answer",
        container=True,
        apply_default_css=False,
    )
    with gr.Accordion("Exact numbers", open=False):
        exact = gr.JSON(label="Exact numbers", show_label=False)
    return [shown, exact]


def frame(content: str, live: bool = True) -> str:
    """An answer's HTML.

    Args:
        live: whether a screen reader reads a new one out; not where it changes every second.
    """
    return f'<div class="answer"{" aria-live=polite" if live else ""}>{content}</div>'


class LabelRenderer:
    """Probabilities as bars, with the thresholds of a multi-label run; the value of a regression."""

    def __init__(self, run: Run) -> None:
        labels = run.schema.labels
        self.labels, self.max_length = labels, run.schema.max_length
        limits: Any = run.task.thresholds or [0.5] * len(labels.names)
        several = labels.kind == "multilabel"
        self.limits = dict(zip(labels.names, limits, strict=True)) if several else {}

    def show(self, output: Label, *texts: str) -> list[Any]:
        parts = [self.verdict(output)]
        if output.cut:
            parts.append(
                f'<p class="notice" role="note">The text is longer than the {self.max_length} tokens '
                "this run reads: the end was left out.</p>"
            )
        if output.scores:
            parts.append(self.bars(output))
        return [frame("".join(parts)), dataclasses.asdict(output)]

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


class SpanRenderer:
    """The text with its entities marked, each with its label behind it, and a table of them."""

    def __init__(self, run: Run) -> None:
        self.tones = {label: i % TONES for i, label in enumerate(run.schema.tags.labels)}

    def show(self, output: Sequence[Span], *texts: str) -> list[Any]:
        parts = [self.verdict(output), f'<p class="marked">{self.marked(output, texts[0])}</p>']
        if output:
            columns = [field.name for field in dataclasses.fields(Span)]
            rows = [(span.start, span.end, span.label, span.text, percent(span.score)) for span in output]
            parts.append(table("Entities", columns, rows))
        return [frame("".join(parts)), {"entities": [dataclasses.asdict(span) for span in output]}]

    @staticmethod
    def verdict(output: Sequence[Span]) -> str:
        """How many entities, and how many of each label."""
        if not output:
            return '<p class="verdict">none</p><p class="quiet">No entity was found in this text.</p>'
        several = "1 entity" if len(output) == 1 else f"{len(output)} entities"
        labels = ", ".join(f"{count} {label}" for label, count in Counter(span.label for span in output).items())
        return f'<p class="verdict">{several}</p><p class="quiet">{escape(labels)}</p>'

    def marked(self, output: Sequence[Span], text: str) -> str:
        """The text as HTML; places are counted in code points, in Python as in `Span`."""
        parts, at = [], 0
        for span in sorted(output, key=lambda span: span.start):  # those of one text never overlap
            parts += [escape(text[at : span.start]), self.mark(span)]
            at = span.end
        return "".join([*parts, escape(text[at:])])

    def mark(self, span: Span) -> str:
        # A label is always written out: colour alone tells nothing to one reader in twelve.
        return (
            f'<mark class="tone-{self.tones[span.label]}" title="{percent(span.score)}">{escape(span.text)}'
            f'<span class="type">{escape(span.label)}</span></mark>'
        )


class RankingRenderer:
    """Documents in the order that a run gives them for a query."""

    def __init__(self, run: Run) -> None:
        self.probability = isinstance(run.task, Reranking) and run.task.probability

    def show(self, output: Sequence[Ranked], *texts: str) -> list[Any]:
        shown = ranking(output, f"Documents for {texts[0]}", self.probability)
        return [frame(shown), {"documents": [{"id": row.id, "score": row.score} for row in output]}]


#: Output type of a task -> its renderer. A task with a type of its own adds it here.
RENDERERS: dict[type, Callable[[Run], Renderer]] = {
    Label: LabelRenderer,
    Span: SpanRenderer,
    Score: RankingRenderer,
    Embedding: RankingRenderer,
}


def renderer_of(run: Run) -> Renderer:
    """The renderer of a run's answers. Raises as `require_shown`."""
    require_shown(run)
    return RENDERERS[output_type(run.task)](run)


def require_shown(run: Run) -> None:
    """
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


def listed(rows: Sequence[str]) -> str:
    return f"<ul>{''.join(rows)}</ul>"
