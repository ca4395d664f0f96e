"""The page of a run that finds entities: marked text, exact places, files, examples, the run's own tables."""

from __future__ import annotations

import csv
import html
import json
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file

from tasks.answers import Span
from tasks.data import readers
from tasks.outputs import output_type
from tasks.run import Run
from ui import batch, markup
from ui.examples import examples_of, own_rows
from ui.renderers import SpanRenderer, renderer_of

OpenPage = Callable[[Run], AbstractContextManager[Client]]
TEXT = "Where is my order, says the <i>courier</i> 👩‍👩‍👧 of {my} parcel?\nI was charged for $5."
NEW = [TEXT, "", "How do I send the shoes back? " * 12]


@pytest.fixture(scope="module")
def ner_client(ner_run: Run, open_page: OpenPage) -> Iterator[Client]:
    with open_page(ner_run) as client:
        yield client


def marks(shown: str) -> list[tuple[str, str]]:
    """(text, label) of each marked place."""
    found = re.findall(r'<mark[^>]*>(.*?)<span class="type">(.*?)</span></mark>', shown, re.DOTALL)
    return [(html.unescape(text), html.unescape(label)) for text, label in found]


def plain(shown: str) -> str:
    """The marked text without its marks."""
    (inside,) = re.findall(r'<p class="marked">(.*?)</p>', shown, re.DOTALL)
    return html.unescape(re.sub(r"<[^>]*>", "", re.sub(r'<span class="type">.*?</span>', "", inside)))


def plain_of(spans: list[Span]) -> list[dict[str, Any]]:
    return [vars(span) for span in spans]


def test_the_text_is_whole_and_marked_where_the_spans_are(ner_run: Run) -> None:
    assert output_type(ner_run.task) is Span
    renderer = renderer_of(ner_run)
    places = [(12, 17, "THING"), (31, 38, "PERSON"), (43, 48, "THING"), (57, 63, "THING")]
    spans = [Span(start, end, label, TEXT[start:end], 0.875) for start, end, label in places]
    shown, exact = renderer.show(spans, TEXT)
    assert marks(shown) == [("order", "THING"), ("courier", "PERSON"), ("👩‍👩‍👧", "THING"), ("parcel", "THING")]
    assert plain(shown) == TEXT
    assert exact == {"entities": plain_of(spans)}
    assert "<td>31</td><td>38</td><td>PERSON</td><td>courier</td><td>87.5%</td>" in shown
    assert '"verdict">4 entities</p><p class="quiet">3 THING, 1 PERSON<' in shown
    assert plain(renderer.show(spans[::-1], TEXT)[0]) == TEXT


def test_text_and_labels_are_never_markup(ner_run: Run) -> None:
    evil = "<img src=x onerror=alert(1)>${1+1}{{value}}"
    renderer = SpanRenderer(ner_run)
    renderer.tones[evil] = 0
    shown = renderer.show([Span(0, len(evil), evil, evil, 1.0)], evil + evil)[0]
    assert not {"{", "$"} & set(shown)
    assert "<img" not in shown
    assert plain(shown) == evil + evil


def test_none_found(ner_run: Run) -> None:
    shown, exact = renderer_of(ner_run).show([], "Nothing & nobody")
    assert exact == {"entities": []}
    assert plain(shown) == "Nothing & nobody"
    assert "No entity was found" in shown
    assert "<table" not in shown


def test_each_label_has_a_tone_of_the_style_sheet(ner_run: Run) -> None:
    assert SpanRenderer(ner_run).tones == {"PERSON": 0, "THING": 1}
    tones = re.findall(r"\.tone-(\d+) \{ --tone: (#\w{6}); --line: (\w+); \}", markup.STYLE)
    assert [int(number) for number, *_ in tones] == list(range(markup.TONES))
    assert len({tuple(look) for _, *look in tones}) == markup.TONES == 21


def test_the_page_gives_the_answers_of_the_run(ner_client: Client, ner_run: Run) -> None:
    shown, exact = ner_client.predict(TEXT, api_name="/answer")
    (spans,) = ner_run.answer([TEXT])
    assert spans, "an empty answer shows nothing"
    assert [{**span, "score": None} for span in exact["entities"]] == [
        {**span, "score": None} for span in plain_of(spans)
    ]
    assert [span["score"] for span in exact["entities"]] == pytest.approx([s.score for s in spans], abs=1e-6)
    assert marks(shown) == [(span.text, span.label) for span in spans]
    assert all(TEXT[span.start : span.end] == span.text for span in spans)


def shows_examples(component: dict[str, Any]) -> bool:
    return component["type"] == "dataset" and component["props"]["visible"]


def write(path: Path) -> Path:
    if path.suffix == ".jsonl":
        lines = (json.dumps({"text": "old", "body": text, "entities": []}) + "\n" for text in NEW)
        path.write_text("".join(lines), encoding="utf-8")
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerows([["text", "body", "entities"], *(["old", text, "[]"] for text in NEW)])
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_keeps_its_columns_and_gets_the_entities(
    ner_client: Client, ner_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(batch, "CHUNK", 2)
    path = write(tmp_path / f"new{suffix}")
    said, result, *_ = ner_client.predict(handle_file(str(path)), "body", api_name="/score")
    scored = readers.read(result["value"] if isinstance(result, dict) else result).columns
    given = readers.read(str(path)).columns
    assert list(scored) == [*given, "entities_predicted"]
    assert {name: scored[name] for name in given} == given
    cells = scored["entities_predicted"]
    found = [json.loads(cell) if isinstance(cell, str) else cell for cell in cells]
    assert found[1] is None
    for spans, text in ((found[0], NEW[0]), (found[2], NEW[2])):
        right = ner_run.answer([text])[0]
        assert [(s["start"], s["end"], s["label"], s["text"]) for s in spans] == [
            (s.start, s.end, s.label, s.text) for s in right
        ]
        assert [s["score"] for s in spans] == pytest.approx([s.score for s in right], abs=1e-5)
    assert max(span["end"] for span in found[2]) > 200, "a long text is read to its end"
    assert "3 rows scored" in said
    assert f"1 row without text, so without prediction: {readers.read(str(path)).rows[1]}." in said
    assert "longer than" not in said


def test_the_column_of_the_text_is_guessed(ner_client: Client, tmp_path: Path) -> None:
    path = tmp_path / "mail.csv"
    path.write_text("id,sentence\n1,Where is it?\n", encoding="utf-8")
    assert ner_client.predict(handle_file(str(path)), api_name="/columns")[-2]["value"] == "sentence"


def test_examples_of_different_labels_first(ner_client: Client, ner_run: Run) -> None:
    (texts,) = (c["props"]["samples"] for c in ner_client.config["components"] if shows_examples(c))
    assert texts == examples_of(ner_run)
    assert len(texts) >= 3
    rows = own_rows(ner_run.folder / "predictions.csv")
    assert {row["entities_predicted"] for row in rows} == {"-"}, "a column of the user's own"
    answers = [sorted({span.label for span in spans}) for spans in ner_run.answer([text for (text,) in texts])]
    kinds = {tuple(sorted({s["label"] for s in json.loads(r["entities_predicted_predicted"])})) for r in rows}
    assert len(kinds) > 1
    assert answers[0] != answers[1]


def test_the_run_tab_has_its_scores_and_errors(ner_client: Client, ner_run: Run) -> None:
    components = [(c["type"], c["props"]) for c in ner_client.config["components"]]
    shown = [props.get("value") or "" for kind, props in components if kind == "html"]
    (scores,) = (text for text in shown if 'aria-label="Scores"' in text)
    metrics = json.loads((ner_run.folder / "metrics.json").read_text(encoding="utf-8"))["test"]
    assert scores.index("<td>f1</td>") < scores.index("<td>f1_macro</td>") < scores.index("<td>f1/THING</td>")
    assert f"<td>support/THING</td><td>{metrics['support/THING']}</td>" in scores
    (errors,) = (text for text in shown if 'aria-label="Worst errors"' in text)
    assert '<th scope="col">context</th>' in errors
    plots = [props["label"] for kind, props in components if kind == "image" and props.get("value")]
    assert "Confusion matrix" in plots
