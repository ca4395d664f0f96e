"""Hugging Face data sets: read from a folder, and one clear error where they cannot be had."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modernbert.errors import DataError
from tasks.data.readers import count, read


def test_hub_set_from_a_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="pip install 'modernbert[hub]'")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])})
    rows = {"text": ["a", "b", "c"], "label": [1, 0, -1]}
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(tmp_path / "train.parquet"))
    source = f"hf:{tmp_path}:train"
    table = read(source)
    assert (table.columns, table.rows) == ({"text": ["a", "b", "c"], "label": ["yes", "no", None]}, [1, 2, 3])
    assert count(source) == 3
    with pytest.raises(DataError, match=r"cannot load .* split 'test': Unknown split"):
        read(f"hf:{tmp_path}:test")


def test_hub_without_datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "datasets", None)
    for source, lead in {"hf:imdb": "hf:imdb", "imdb": "there is no file imdb; as a data set"}.items():
        with pytest.raises(DataError) as raised:
            read(source)
        assert str(raised.value) == f"{lead}: reading the Hugging Face hub needs pip install 'modernbert[hub]'"


def test_hub_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("datasets", reason="pip install 'modernbert[hub]'")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(DataError) as raised:
        read("owner/name")
    assert str(raised.value) == (
        "there is no file owner/name; as a data set: 'owner/name' cannot be looked for, "
        "the hub is out of reach: HF_HUB_OFFLINE=1 finds an earlier download; or name a local file"
    )
