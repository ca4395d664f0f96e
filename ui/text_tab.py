"""The tab of a text: its answer, what in it spoke for that answer, examples to click."""

from __future__ import annotations

from typing import Any

import gradio as gr

from modernbert.errors import DataError
from tasks.answers import Label, Span
from tasks.attribution import Attribution, attribute, attributed_outputs
from tasks.outputs import output_type
from tasks.run import Run, has_text
from ui.examples import examples_of
from ui.markup import escape, table
from ui.messages import as_message
from ui.renderers import WAITING, answer_components, frame, renderer_of
from ui.tab import State, Tab

HINT = "Shift + Enter answers."
#: Share of the strongest word from which a word is marked: below it a mark is noise.
MARKED = 0.08


class TextTab(Tab):
    """Answers of runs that read a text, or two."""

    title = "Try a text"

    def serves(self, run: Run) -> bool:
        return output_type(run.task) in (Label, Span)

    def state(self, run: Run) -> State:
        names, samples = text_names(run), examples_of(run)
        outputs = attributed_outputs(run) if output_type(run.task) is Label else []
        return {
            "first": {"label": names[0]},
            "second": {"label": "Second text", "visible": len(names) > 1},
            "answer": {"value": frame(WAITING)},
            "exact": {"value": None},
            "examples": {"samples": [[" · ".join(texts)] for texts in samples], "visible": bool(samples)},
            "why": {"visible": bool(outputs)},
            "label": {"choices": outputs, "value": None, "visible": len(outputs) > 1},
            "words": {"value": ""},
        }

    def compose(self, chosen: gr.Dropdown) -> None:
        with gr.Row():
            with gr.Column(min_width=300):
                box: dict[str, Any] = {"value": "", "lines": 4, "max_lines": 20, "info": HINT}
                boxes = [self.part("first", gr.Textbox, label="Text", **box)]
                boxes.append(self.part("second", gr.Textbox, label="Second text", visible=False, **box))
                button = gr.Button("Answer", variant="primary")
            with gr.Column(min_width=300):
                shown = answer_components()
                self.parts["answer"], self.parts["exact"] = shown
                with self.part("why", gr.Column, visible=False):
                    words = self.explanation(boxes, chosen)
        examples = self.part(
            "examples",
            gr.Dataset,
            components=["textbox"],
            label="Examples from the run's own rows",
            type="index",
            samples=[],
            visible=False,
        )
        asked = [*boxes, chosen]
        answering = gr.on([button.click, *(box.submit for box in boxes)], self.answer, asked, shown, api_name="answer")
        answering.then(lambda: "", None, words, api_visibility="private")
        clicked = examples.click(self.example, [examples, chosen], boxes, api_visibility="private")
        clicked.success(self.answer, asked, shown, api_visibility="private").then(
            lambda: "", None, words, api_visibility="private"
        )

    def explanation(self, boxes: list[gr.Textbox], chosen: gr.Dropdown) -> gr.HTML:
        """The button for what spoke for an answer, and its place."""
        label = self.part(
            "label",
            gr.Dropdown,
            choices=[],
            value=None,
            label="Answer to explain",
            info="Left empty: the one that was given.",
            allow_custom_value=True,
        )
        button = gr.Button("What spoke for it?")
        words = self.part("words", gr.HTML, value="", label="What spoke for it", apply_default_css=False)
        button.click(self.explain, [*boxes, label, chosen], words, api_name="explain", show_progress_on=words)
        return words

    def answer(self, first: str, second: str, name: str) -> list[Any]:
        """HTML and exact numbers of a text's answer."""
        with as_message():
            run = self.shelf.get(name)
            texts = asked_texts(run, first, second)
            with self.shelf.lock:
                found = run.answer([texts[0]], texts[1:] or None)[0]
            return renderer_of(run).show(found, *texts)

    def example(self, number: int, name: str) -> list[str]:
        """The texts of an example that was clicked."""
        with as_message():
            texts = examples_of(self.shelf.get(name))[number]
        return [*texts, *[""] * (2 - len(texts))]

    def explain(self, first: str, second: str, label: str | None, name: str) -> str:
        """The words that spoke for an answer, as HTML."""
        with as_message():
            run = self.shelf.get(name)
            texts = asked_texts(run, first, second)
            wanted = label or given_answer(run, texts)
            with self.shelf.lock:
                found = attribute(run, texts, wanted)
        return explained(found, texts)


def text_names(run: Run) -> list[str]:
    """What the boxes are called."""
    return ["First text", "Second text"] if run.schema.columns.get("text_pair") else ["Text"]


def asked_texts(run: Run, first: str, second: str) -> list[str]:
    """The texts that a run needs.

    Raises:
        DataError: one is missing.
    """
    names = text_names(run)
    texts = [first, second][: len(names)]
    for name, text in zip(names, texts, strict=True):
        if not has_text(text):
            raise DataError(f"{name} is empty: type or paste one, or click an example.")
    return texts


def given_answer(run: Run, texts: list[str]) -> str:
    """The output that a run's answer comes from; where no label reaches its threshold, that of the likeliest."""
    outputs = attributed_outputs(run)
    if len(outputs) == 1:
        return outputs[0]
    answer: Label = run.answer([texts[0]], texts[1:] or None)[0]
    among = answer.labels or tuple(answer.scores)
    return max(among, key=lambda name: answer.scores[name])


def explained(found: Attribution, texts: list[str]) -> str:
    """The texts with their words marked, blue and underlined for what spoke for, orange and dashed for what spoke
    against; and the numbers."""
    strongest = max(abs(word.score) for word in found.words) or 1.0
    parts = [
        f'<p class="verdict small">What spoke for {escape(found.name)}</p>'
        '<p class="quiet"><mark class="for" style="--strength: 1">for</mark> '
        '<mark class="against" style="--strength: 1">against</mark> '
        "The stronger the colour, the more the word counts.</p>"
    ]
    for number, text in enumerate(texts):
        marked, at = [], 0
        for word in (word for word in found.words if word.text == number):
            marked.append(escape(text[at : word.start]))
            at, inside = word.end, escape(text[word.start : word.end])
            strength = abs(word.score) / strongest
            side = "for" if word.score > 0 else "against"
            marked.append(
                f'<mark class="{side}" style="--strength: {strength:.2f}" title="{word.score:+.3f}">{inside}</mark>'
                if strength >= MARKED
                else inside
            )
        parts.append(f'<p class="marked">{"".join(marked)}{escape(text[at:])}</p>')
    parts.append(
        f'<p class="quiet">A text that says nothing has {found.baseline:+.2f} here, this one {found.value:+.2f} '
        "(logits); the words add up to the difference.</p>"
    )
    if abs(found.gap) > 0.05 * max(abs(found.value - found.baseline), 0.1):
        parts.append(
            f'<p class="notice" role="note">Of the difference {found.gap:+.2f} could not be told apart: '
            "take the weights as rough.</p>"
        )
    order = sorted(found.words, key=lambda word: -abs(word.score))
    rows = [(texts[word.text][word.start : word.end], f"{word.score:+.3f}") for word in order]
    parts.append(f"<details><summary>Every word</summary>{table('Words', ['word', 'adds'], rows)}</details>")
    return frame("".join(parts))
