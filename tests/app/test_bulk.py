"""engine=ray on a cluster of two CPUs: what one process gives, also where a worker is killed in the middle."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from app.bench import fault_workers
from app.cli import main
from modernbert.weights import load_encoder
from tasks.classification import Classification, ClassificationSchema
from tasks.data.readers import Table
from tasks.optim import Optim
from tasks.run import save_run
from tasks.search.index import Index

WORDS = "the parcel has not come yet please refund money app closes when open map where is good bad".split()
SHARDS, ROWS = 6, 500


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray = pytest.importorskip("ray", reason="Ray, an optional extra, is not installed")
    if not Path("/proc/self/stat").exists():
        pytest.skip("a worker is found in /proc")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80_000_000)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[..., Path]) -> Path:
    """A saved run with random weights."""
    table = Table("rows.csv", {"text": ["good", "bad"], "label": ["a", "b"]}, [2, 3], [])
    schema = ClassificationSchema.fit(table, {"text": "text", "label": "label"}, {}, max_length=16)
    torch.manual_seed(3)
    base, folder = tiny_encoder("bert"), tmp_path_factory.mktemp("run")
    save_run(folder, Classification(load_encoder(base), schema, Optim(lr=1e-3)), base, {}, {"data": {}})
    return folder


def write_shards(folder: Path, shards: int, rows: int) -> Path:
    """Documents that differ, with a column that has no value in the first shard."""
    folder.mkdir()
    for shard in range(shards):
        numbers = range(shard * rows, (shard + 1) * rows)
        texts = [" ".join(WORDS[(n // 7**k + k) % len(WORDS)] for k in range(2 + n % 9)) for n in numbers]
        columns = {"id": [f"d{n}" for n in numbers], "text": texts, "size": [n / 4 for n in numbers]}
        columns["note"] = [None if shard == 0 else f"note {n}" for n in numbers]
        columns["text"][3] = None if shard == 1 else columns["text"][3]
        pq.write_table(pa.table(columns), folder / f"part-{shard:03d}.parquet")
    return folder


def kill_a_worker(folder: Path, results: str, killed: list[int]) -> None:
    """Once there is a first result, kill the process of one worker; notes its id and how many results there were."""
    while not (there := list(folder.glob(results))):
        time.sleep(0.01)
    worker = fault_workers.workers_of(os.getpid())[0]
    os.kill(worker, signal.SIGKILL)
    killed.extend((worker, len(there)))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_no_row_is_lost_or_comes_twice_where_a_worker_is_killed(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    source, output, killed = write_shards(tmp_path / "shards", SHARDS, ROWS), tmp_path / "scored", list[int]()
    line = ["predict", f"run={run}", f"input={source}", f"output={output}", "engine=ray", "workers=2", "device=cpu"]
    killer = threading.Thread(target=kill_a_worker, args=(output, "*.parquet", killed), daemon=True)
    killer.start()
    assert main(line) == 0
    killer.join()
    said = " ".join("".join(capsys.readouterr()).split())
    assert killed[1] < SHARDS  # in the middle
    assert f"{SHARDS * ROWS:,} rows of {SHARDS} shards scored" in said
    assert "1 rows of part-001.parquet have no text and no prediction: rows 4." in said

    parts = [pq.read_table(part) for part in sorted(source.glob("*.parquet"))]
    given = pa.concat_tables(parts, promote_options="permissive")
    pq.write_table(given, tmp_path / "whole.parquet")
    words = [f"input={tmp_path / 'whole.parquet'}", f"output={tmp_path / 'one.parquet'}", "device=cpu"]
    assert main(["predict", f"run={run}", *words]) == 0
    found, alone = pq.read_table(output), pq.read_table(tmp_path / "one.parquet")
    assert found.column_names == [*given.column_names, *(n for n in alone.column_names if n not in given.column_names)]
    for name in given.column_names:
        assert found[name].to_pylist() == given[name].to_pylist()
    for name in alone.column_names:
        one, many = alone[name].to_pylist(), found[name].to_pylist()
        assert many == (pytest.approx(one, abs=1e-5) if isinstance(one[0], float) else one), name

    # What is there is not scored again, unless it is of another model or file.
    last = output / f"part-{SHARDS - 1:03d}.parquet"
    before, times = pq.read_table(last), {file: file.stat().st_mtime_ns for file in output.glob("*.parquet")}
    last.unlink()
    assert main(line) == 0
    assert pq.read_table(last).equals(before)
    assert [file for file, at in times.items() if file.stat().st_mtime_ns != at] == [last]
    assert main([*line, "data.columns.text=note"]) == 2
    assert "was begun with other settings" in " ".join("".join(capsys.readouterr()).split())


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_an_index_is_that_of_one_process(
    tmp_path: Path, tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_shards(tmp_path / "shards", 2, 40)
    pq.write_table(pq.read_table(source / "part-000.parquet").slice(3, 37), source / "part-000.parquet")
    whole = pa.concat_tables([pq.read_table(f, columns=["id", "text"]) for f in sorted(source.glob("*"))]).to_pylist()
    whole = [row for row in whole if row["text"]]
    pq.write_table(pa.Table.from_pylist(whole), tmp_path / "whole.parquet")
    table = pq.read_table(source / "part-001.parquet")
    pq.write_table(table.filter(table["text"].is_valid()), source / "part-001.parquet")
    monkeypatch.setattr("tasks.search.index.PIECE", 16)  # of this process: workers keep their own
    model = f"encoder.source={tiny_encoder('bert')}"
    for corpus, name, how in ((source, "many", ["engine=ray", "workers=1"]), (tmp_path / "whole.parquet", "one", [])):
        assert main(["index", model, f"corpus={corpus}", f"output={tmp_path / name}", *how]) == 0
    many, one = Index.open(tmp_path / "many"), Index.open(tmp_path / "one")
    assert list(many.engine.ids()) == list(one.engine.ids()) == [row["id"] for row in whole]
    assert [piece.digest for piece in many.meta.pieces] == [piece.digest for piece in one.meta.pieces]
    for mine, theirs in zip(many.engine.chunks(), one.engine.chunks(), strict=True):
        torch.testing.assert_close(mine[1].values, theirs[1].values, atol=1e-5, rtol=0)
    assert not list(tmp_path.glob(".*encoded"))


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_no_document_is_lost_or_comes_twice_where_a_worker_is_killed(
    tmp_path: Path, tiny_encoder: Callable[..., Path]
) -> None:
    source, killed = write_shards(tmp_path / "shards", SHARDS, ROWS), list[int]()
    pieces = ".many.encoded/*/*/[0-9]*[0-9]"
    killer = threading.Thread(target=kill_a_worker, args=(tmp_path, pieces, killed), daemon=True)
    killer.start()
    words = [f"encoder.source={tiny_encoder('bert')}", f"corpus={source}", f"output={tmp_path / 'many'}"]
    assert main(["index", *words, "columns.text=text", "engine=ray", "workers=2", "device=cpu"]) == 0
    killer.join(60)
    assert killed[1] < SHARDS  # in the middle
    assert list(Index.open(tmp_path / "many").engine.ids()) == [f"d{n}" for n in range(SHARDS * ROWS)]


def test_without_ray_it_says_what_to_do(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    source = write_shards(tmp_path / "shards", 1, 5)
    assert main(["predict", f"run={run}", f"input={source}", f"output={tmp_path / 'scored'}", "engine=ray"]) == 1
    assert "pip install 'modernbert[ray]', or engine=local" in " ".join("".join(capsys.readouterr()).split())
    assert main(["predict", f"run={run}", f"input={tmp_path}", f"output={tmp_path / 'scored'}", "engine=ray"]) == 2
    assert "engine=ray reads a folder of .parquet files" in " ".join("".join(capsys.readouterr()).split())


def test_the_shards_of_a_fault_hold_every_row_once(tmp_path: Path) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"text {i},a\n" for i in range(7)))
    folder = fault_workers.write_shards(str(rows), tmp_path / "shards")
    parts = [pq.read_table(part) for part in sorted(folder.glob("*.parquet"))]
    assert [len(part) for part in parts] == [fault_workers.ROWS] * fault_workers.SHARDS
    whole = pa.concat_tables(parts)
    assert whole[fault_workers.NUMBER].to_pylist() == list(range(len(whole)))
    assert set(whole["text"].to_pylist()) == {f"text {i}" for i in range(7)}


def test_a_fault_without_ray_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    words = ["bench", "faults", "task=classification", f"data.train={tmp_path / 'none.csv'}"]
    assert main([*words, "faults=[worker]"]) == 2
    assert "pip install 'modernbert[ray]'" in " ".join(capsys.readouterr().err.split())
    assert main([*words, "faults=[workers]"]) == 2
    assert "loss, process, worker" in " ".join(capsys.readouterr().err.split())
