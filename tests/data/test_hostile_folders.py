"""Model folders and runs of strangers: no pickle, no code of theirs, no file beside the folder, an error in words."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modernbert import load_encoder
from modernbert.errors import ConfigError, EncoderError, ModernBertError
from tasks.data.tokenise import load_tokenizer
from tasks.run import read_info, task_class

QUIET = [HealthCheck.function_scoped_fixture]
ODD = st.sampled_from(
    [None, -1, 0, 1, 10**12, 10**400, 1.5, float("nan"), float("inf"), "x", "../../etc/x", "\ud800", [], [1], {}, True]
)


def refused(load: Callable[[Path], object], folder: Path) -> Exception | None:
    """The error of ours that loading a folder gives; None where it is loaded. Any other error is a failure."""
    try:
        load(folder)
    except ModernBertError as error:
        return error
    return None


@pytest.fixture
def folder(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> Path:
    return Path(shutil.copytree(tiny_encoder("modernbert"), tmp_path / "model"))


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
@settings(max_examples=60, deadline=20_000, derandomize=True, suppress_health_check=QUIET)
@given(data=st.data())
def test_any_configuration(tiny_encoder: Callable[..., Path], tmp_path: Path, family: str, data: st.DataObject) -> None:
    """An encoder or an EncoderError, soon: also where it asks for a trillion layers."""
    folder = tmp_path / family
    if not folder.is_dir():
        shutil.copytree(tiny_encoder(family), folder)
    config = json.loads((tiny_encoder(family) / "config.json").read_text())
    for name in data.draw(st.lists(st.sampled_from(sorted(config)), min_size=1, max_size=3)):
        config[name] = data.draw(ODD)
    (folder / "config.json").write_text(json.dumps(config))
    error = refused(load_encoder, folder)
    assert error is None or isinstance(error, EncoderError)
    assert len(str(error)) < 2000


@settings(max_examples=60, deadline=20_000, derandomize=True, suppress_health_check=QUIET)
@given(cut=st.floats(0, 1), places=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=5))
def test_any_weights(
    folder: Path, tiny_encoder: Callable[..., Path], cut: float, places: list[tuple[int, int]]
) -> None:
    data = bytearray((tiny_encoder("modernbert") / "model.safetensors").read_bytes())
    for place, value in places:
        data[place] = value
    (folder / "model.safetensors").write_bytes(bytes(data[: int(len(data) * cut) + 1]))
    error = refused(load_encoder, folder)
    assert error is None or isinstance(error, EncoderError)
    assert len(str(error)) < 2000


class Bomb:
    """Leaves a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_pickle_is_never_opened(folder: Path, tmp_path: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(tmp_path / "mark")))
    with pytest.raises(EncoderError, match="a pickle, which can run code and is never loaded"):
        load_encoder(folder)
    (folder / "model.safetensors").write_bytes((folder / name).read_bytes())
    with pytest.raises(EncoderError, match="cannot be read"):
        load_encoder(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "shard",
    ["../other/model.safetensors", "/etc/passwd", "sub/x.safetensors", "model.bin", "..", "model.safetensors\0"],
)
def test_a_shard_lies_in_the_folder(folder: Path, shard: str) -> None:
    shutil.copytree(folder, folder.parent / "other")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": shard}}))
    with pytest.raises(EncoderError):
        load_encoder(folder)


@pytest.mark.parametrize("weight_map", [None, [1], {"a": 1}, {"a": ["x"]}, "x"])
def test_an_index_of_another_kind(folder: Path, weight_map: Any) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(EncoderError):
        load_encoder(folder)


def test_code_of_a_folder_is_not_run(folder: Path, tmp_path: Path) -> None:
    """Neither asked for nor offered: transformers would ask the person at the terminal."""
    (folder / "code.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\nclass Evil: pass\n")
    path = folder / "tokenizer_config.json"
    own = {"auto_map": {"AutoTokenizer": ["code.Evil", "code.Evil"]}, "tokenizer_class": "Evil"}
    path.write_text(json.dumps(json.loads(path.read_text()) | own))
    assert "tokenizer" in str(refused(load_tokenizer, folder) or "the tokenizer of the folder, without its code")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": {"AutoModel": "code.Evil"}}))
    with pytest.raises(EncoderError):
        load_encoder(folder)
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("target", ["os.system", "tasks.run.sha256", "subprocess.Popen", "tasks.base", "", "tasks.."])
def test_a_run_names_only_tasks_of_ours(target: str) -> None:
    with pytest.raises(ConfigError):
        task_class(target)


INFO = {"format": 1, "task": "x", "target": "tasks.ner.Ner", "settings": {}, "schema": {}, "fitted": {}}


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(name=st.sampled_from(sorted(INFO)), value=ODD, cut=st.floats(0, 1))
def test_any_task_json(tmp_path: Path, name: str, value: Any, cut: float) -> None:
    info = copy.deepcopy(INFO) | {name: value}
    text = json.dumps(info)
    (tmp_path / "task.json").write_text(text[: int(len(text) * cut)] if cut < 0.5 else text)
    error = refused(read_info, tmp_path)
    assert error is None or (isinstance(error, ConfigError) and str(tmp_path) in str(error))
