"""`modernbert evaluate mteb=[…]`: a task of MTEB with a saved run, without the hub."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.cli import main

pytest_plugins = "search_runs"
HAS_MTEB = importlib.util.find_spec("mteb") is not None


@pytest.mark.slow
@pytest.mark.skipif(not HAS_MTEB, reason="pip install 'modernbert[mteb]'")
def test_a_task_is_scored_as_we_score_it(
    corpus_folder: Path, train_run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    import mteb
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata
    from search_runs import DOCUMENTS, read_csv

    run = train_run("prompted", "task.query_prefix='the '", "task.document_prefix='please '")
    asked = read_csv(corpus_folder / "questions.csv")

    class Manual(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Manual", type="Retrieval", main_score="ndcg_at_10", description="Made here.", category="t2t",
            dataset={"path": "none", "revision": "none"}, eval_splits=["test"], eval_langs=["eng-Latn"],
            modalities=["text"],
        )  # fmt: skip

        def load_data(self, num_proc: int | None = None, **kwargs: Any) -> None:
            self.dataset = {"default": {"test": {
                "corpus": Dataset.from_list([{"id": k, "text": v, "title": ""} for k, v in DOCUMENTS.items()]),
                "queries": Dataset.from_list([{"id": row["query_id"], "text": row["query"]} for row in asked]),
                "relevant_docs": {row["query_id"]: {row["document_id"]: 1} for row in asked},
                "top_ranked": None,
            }}}  # fmt: skip
            self.data_loaded = True

    monkeypatch.setattr(mteb, "get_task", lambda name: Manual())
    assert main(["evaluate", f"run={run}", "mteb=[Manual]", f"output={tmp_path / 'mteb'}", "device=cpu"]) == 0
    assert "Manual" in capsys.readouterr().out
    files = [f"data.test={corpus_folder / 'questions.csv'}", f"data.corpus={corpus_folder / 'docs.csv'}"]
    assert main(["evaluate", f"run={run}", *files, f"output={tmp_path / 'own'}", "device=cpu"]) == 0
    own = json.loads((tmp_path / "own" / "metrics.json").read_text())["test"]
    theirs = json.loads((tmp_path / "mteb" / "Manual.json").read_text())["scores"]["test"][0]
    assert theirs["ndcg_at_10"] == pytest.approx(own["ndcg@10"], abs=1e-4)
    assert theirs["recall_at_5"] == pytest.approx(own["recall@5"], abs=1e-4)
    assert json.loads((tmp_path / "mteb" / "metrics.json").read_text())["test"] == {
        "Manual": pytest.approx(own["ndcg@10"], abs=1e-4)
    }

    def unreachable(self: Any, **kwargs: Any) -> None:
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(Manual, "load_data", unreachable)
    assert main(["evaluate", f"run={run}", "mteb=[Manual]", f"output={tmp_path / 'no'}", "device=cpu"]) == 1
    said = " ".join(capsys.readouterr().err.split())
    assert "mteb=[Manual]: its data cannot be loaded (Couldn't reach the Hub). Is the hub in reach?" in said
    monkeypatch.undo()
    assert main(["evaluate", f"run={run}", "mteb=[SciFuct]", "device=cpu"]) == 2
    assert "'SciFuct' not found" in " ".join(capsys.readouterr().err.split())
    late = train_run("late", "task.kind=multi_vector")
    monkeypatch.setattr(mteb, "get_task", lambda name: Manual())
    assert main(["evaluate", f"run={late}", "mteb=[Manual]", "device=cpu"]) == 2
    assert "mteb needs one vector a text" in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
def test_the_package_is_asked_for(
    train_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mteb", None)
    assert main(["evaluate", f"run={train_run('dense')}", "mteb=[SciFact]", "device=cpu"]) == 1
    assert "MTEB is not installed: pip install 'modernbert[mteb]'." in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("words", [[], ["data.test=rows.csv", "mteb=[SciFact]"]])
def test_rows_or_tasks(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(["evaluate", "run=nowhere", *words]) == 2
    assert "either data.test=<labelled rows>, or mteb=[SciFact,…]" in " ".join(capsys.readouterr().err.split())
