"""The tab about the run."""

from __future__ import annotations

from typing import Any

from gradio_client import Client

from tasks.run import Run
from ui import run_tab


def components(client: Client, kind: str, label: str | None = None) -> list[dict[str, Any]]:
    found = [c["props"] for c in client.config["components"] if c["type"] == kind]
    return [props for props in found if label is None or props.get("label") == label]


def test_scores_with_intervals() -> None:
    metrics = {
        "validation": {"accuracy": 0.9, "accuracy_low": 0.85, "accuracy_high": 0.95, "mcc": None},
        "test": {"f1_macro": 0.8, "accuracy": 0.875, "accuracy_low": 0.8, "accuracy_high": 0.9, "mcc": None},
    }
    assert run_tab.score_rows(metrics, first=["f1_macro", "absent"]) == {
        "headers": ["metric", "validation", "test"],
        "data": [["f1_macro", "", "0.800"], ["accuracy", "0.900 (0.850 – 0.950)", "0.875 (0.800 – 0.900)"]],
    }
    assert run_tab.score_rows({}) == {}


def test_the_tab_shows_what_the_folder_has(client: Client, run: Run) -> None:
    (scores,) = components(client, "dataframe", "Scores")
    named = {row[0]: row[1] for row in scores["value"]["data"]}
    accuracy = run_tab.read_metrics(run.folder)["test"]["accuracy"]
    assert named["accuracy"].startswith(f"{accuracy:.3f} (")
    (errors,) = components(client, "dataframe", "Worst errors")
    assert errors["value"]["headers"][:4] == ["row", "loss", "right", "predicted"]
    plots = {props["label"]: props["value"] for props in components(client, "image")}
    assert list(plots) == ["Confusion matrix", "Reliability"]  # no training, so no learning curves
    assert all(plot["path"] for plot in plots.values())


def test_the_card_is_shown_without_its_header(client: Client) -> None:
    texts = [props.get("value") or "" for props in components(client, "markdown")]
    assert "# The card" in texts
    assert not any("tags:" in text for text in texts)
