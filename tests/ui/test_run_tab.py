"""The tab about the run."""

from __future__ import annotations

from typing import Any

from gradio_client import Client

from tasks.card import interval
from tasks.run import Run
from ui import run_tab
from ui.examples import own_rows


def components(client: Client, kind: str, label: str | None = None) -> list[dict[str, Any]]:
    found = [c["props"] for c in client.config["components"] if c["type"] == kind]
    return [props for props in found if label is None or props.get("label") == label]


def test_scores_with_intervals() -> None:
    metrics = {
        "validation": {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95, "mcc": None},
        "test": {"f1_macro": 0.8, "accuracy": 0.875, "accuracy_low": 0.8, "accuracy_high": 0.9, "mcc": None},
    }
    assert run_tab.score_rows(metrics, first=["f1_macro", "absent"]) == (
        ["metric", "validation", "test"],
        [["f1_macro", "", "0.800"], ["accuracy", *(interval(values, "accuracy") for values in metrics.values())]],
    )
    assert run_tab.score_rows({}) == (["metric"], [])


def test_the_tab_shows_what_the_folder_has(client: Client, run: Run) -> None:
    shown = [props.get("value") or "" for props in components(client, "html")]
    (scores,) = (text for text in shown if 'aria-label="Scores"' in text)
    metrics = run_tab.read_metrics(run.folder)["test"]
    assert f"<td>accuracy</td><td>{interval(metrics, 'accuracy')}</td>" in scores
    (errors,) = (text for text in shown if 'aria-label="Worst errors"' in text)
    wrong = own_rows(run.folder / "worst_errors.csv")
    assert errors.count("<tr>") == 1 + len(wrong) > 1
    assert f"<td>{wrong[0]['row']}</td>" in errors
    plots = {props["label"]: props["value"] for props in components(client, "image") if props.get("value")}
    assert list(plots) == ["Confusion matrix", "Reliability"]  # no training, so no learning curves
    assert all(plot["path"] for plot in plots.values())


def test_the_card_is_shown_without_its_header(client: Client) -> None:
    texts = [props.get("value") or "" for props in components(client, "markdown")]
    assert "# The card" in texts
    assert not any("tags:" in text for text in texts)
