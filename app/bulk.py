"""Files of many shards by many processes: `engine=ray` of predict and index, on Ray Data.

A shard is one Parquet file. What is made of it is written beside its place and renamed, under the shard's own name: a
worker that dies has left nothing there or all of it, and Ray gives the shard to another one. So no row is lost and
none comes twice, in whatever order workers end; and the same command, started again, goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from app import console
from app.progress import tracking
from app.threads import use_threads
from modernbert.errors import BackendError, ConfigError, DataError, ModernBertError
from tasks import run as runs
from tasks.embedding import Embedder
from tasks.search.encoded import Encoded

SUFFIX = ".parquet"
#: What a folder of scored shards was made with. Readers of Parquet folders pass over names that begin so.
ABOUT = "_scoring.json"


def shards(source: str | Path) -> list[Path]:
    """The Parquet files of a folder, by name, or the one file.

    Raises:
        ConfigError: neither.
    """
    path = Path(source).expanduser()
    found = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path] if path.suffix == SUFFIX else []
    found = [shard.resolve() for shard in found if shard.is_file()]
    if not found:
        raise ConfigError(f"{source}: engine=ray reads a folder of {SUFFIX} files, or one such file.")
    return found


def rows_of(files: Sequence[Path]) -> int:
    """Rows of all shards, by what the files say of themselves.

    Raises:
        DataError: one is no Parquet file.
    """
    total = 0
    for file in files:
        try:
            total += int(pq.read_metadata(file).num_rows)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{file} is not a Parquet file, or is damaged: {error}") from error
    return total


@contextmanager
def cluster() -> Iterator[Any]:
    """Ray, on the cluster that RAY_ADDRESS names (Ray's own setting), else on this machine.

    Raises:
        BackendError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use over the network
    try:
        import ray
    except ImportError as error:
        raise BackendError(
            "engine=ray needs Ray, which is not installed: pip install 'modernbert[ray]', or engine=local."
        ) from error
    began = not ray.is_initialized()
    if began:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield ray
    finally:
        if began:
            ray.shutdown()


def each(
    worker: type, settings: Mapping[str, Any], jobs: Sequence[Mapping[str, Any]], workers: int | None
) -> Iterator[dict[str, Any]]:
    """What `worker(settings)(job)` gives for each job, as they come; every worker is made once and kept.

    Args:
        worker: a class whose objects turn one job into a flat dict. What it does may be cut short and done again.
        settings: `device` among them: where it is auto or cuda and the cluster has GPUs, each worker has one.
        workers: processes; None: as many as the cluster has GPUs, or else CPUs, but no more than jobs.

    Raises:
        ModernBertError: of a worker; BackendError where Ray itself gives up.
    """
    if not jobs:
        return
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ConfigError(f"workers={workers}: allowed is 1 or more, or null for as many as the cluster has room for.")
    with cluster() as ray:
        has = ray.cluster_resources()
        gpus = 0 if settings["device"] == "cpu" else int(has.get("GPU", 0))
        count = min(workers or gpus or int(has.get("CPU", 1)), len(jobs))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        found = ray.data.from_items([dict(job) for job in jobs], override_num_blocks=len(jobs)).map(
            Guarded,
            fn_constructor_args=(worker, dict(settings)),
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=1,
            num_gpus=1 if gpus else 0,
        )
        try:
            for answer in found.iter_rows():
                if answer["error"]:
                    raise {"ConfigError": ConfigError, "DataError": DataError}.get(answer["kind"], ModernBertError)(
                        answer["error"]
                    )
                yield json.loads(answer["found"])
        except (ray.exceptions.RayError, ray.exceptions.UserCodeException) as error:
            last = str(error).strip().splitlines()[-1]
            raise BackendError(f"a worker of Ray failed: {last}") from error


class Guarded:
    """One worker: errors that say what to do travel as data, as Ray wraps what is raised; results as JSON, as Ray's
    tables would give a list without items no type."""

    def __init__(self, worker: type, settings: Mapping[str, Any]) -> None:
        use_threads(settings["threads"])
        self.worker = worker(settings)

    def __call__(self, job: dict[str, Any]) -> dict[str, str]:
        try:
            return {"found": json.dumps(self.worker(job)), "error": "", "kind": ""}
        except ModernBertError as error:
            return {"found": "", "error": str(error), "kind": type(error).__name__}


# -- predict -------------------------------------------------------------------------------------------------


class Scorer:
    """Scores shards with a run, or with heads."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from app.predict import load

        self.settings, self.run = settings, load(dict(settings))

    def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        from app.predict import CHUNK, score_tables

        data = self.settings["data"]
        _, tables = self.run.schema.stream(job["shard"], data["columns"], CHUNK)
        scoring = score_tables(self.run, tables, Path(job["output"]), data, lambda rows: None)
        return {"rows": scoring.rows, "cut": scoring.cut, "empty": scoring.empty, "shard": Path(job["shard"]).name,
                "limit": self.run.schema.max_length}  # fmt: skip


def score(settings: Mapping[str, Any], advance: Callable[[int], None]) -> list[dict[str, Any]]:
    """Score the shards of `input` into a folder `output` of shards of the same names; what was met in each.

    Raises:
        ConfigError: the folder holds other things.
    """
    source, folder = shards(settings["input"]), Path(settings["output"]).resolve()
    if folder.suffix or folder.is_file():
        raise ConfigError(f"output={folder}: engine=ray writes a folder of shards, so give a name without a suffix.")
    require_same(folder, settings)
    jobs = [{"shard": str(shard), "output": str(folder / shard.name)} for shard in source]
    left = [job for job in jobs if not Path(job["output"]).is_file()]
    if len(left) < len(jobs):
        there = [Path(job["output"]) for job in jobs if job not in left]
        console.note(f"going on with {folder}: {len(there):,} of {len(jobs):,} shards are there")
        advance(rows_of(there))
    found = []
    given = dict(settings) | {name: absolute(settings[name]) for name in ("run", "heads", "encoder")}
    for answer in each(Scorer, given, left, settings["workers"]):
        found.append(answer)
        advance(answer["rows"])
    same_schema([folder / shard.name for shard in source])
    return sorted(found, key=lambda answer: answer["shard"])


def require_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """A new folder, or the one that this very command began."""
    weights = Path(settings["run"] or "") / "model" / "model.safetensors"
    about = {name: settings[name] for name in ("run", "heads", "encoder", "input", "precision")}
    about |= {"columns": settings["data"]["columns"], "weights": runs.sha256(weights) if settings["run"] else None}
    note = folder / ABOUT
    if note.is_file():
        if json.loads(note.read_text(encoding="utf-8")) != json.loads(json.dumps(about)):
            raise ConfigError(f"output={folder} was begun with other settings ({note}): name another folder.")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"output={folder} is a folder with other files: name another one, nothing is overwritten.")
    folder.mkdir(parents=True, exist_ok=True)
    runs.write_json(note, about)


def same_schema(files: Sequence[Path]) -> None:
    """Give all shards one schema: a column that is empty in one shard has no type there, and readers of a folder take
    the first file's word."""
    schemas = [pq.read_schema(file) for file in files]
    try:
        wanted = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"the shards have columns of types that do not go together: {error}") from error
    for file, schema in zip(files, schemas, strict=True):
        if schema.equals(wanted):
            continue
        table = pq.read_table(file)
        missing = [name for name in wanted.names if name not in table.column_names]
        for name in missing:
            table = table.append_column(name, pa.nulls(len(table), wanted.field(name).type))
        beside = file.with_name(f".{file.name}.part")
        pq.write_table(table.select(wanted.names).cast(wanted), beside)
        beside.replace(file)


# -- index ---------------------------------------------------------------------------------------------------


class DocumentEncoder:
    """Encodes the documents of shards, a piece at a time."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        from tasks.search.model import reopen

        self.settings = settings
        self.embedder = reopen(settings["model"], Path(settings["folder"]), settings["device"])

    def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        from app.index import read_documents
        from tasks.search.index import pieces
        from tasks.search.shards import write_shard

        count = 0
        documents = read_documents(job["shard"], self.settings["columns"], own_ids=True)
        for number, part in enumerate(pieces(documents)):
            folder = Path(job["output"]) / f"{number:06d}"
            if not folder.is_dir():  # by a worker that died later on
                texts = [document.full for document in part]
                vectors, borders = self.embedder.encode_passages(texts, self.settings["tokens"])
                write_shard(folder, [document.id for document in part], texts, vectors, borders)
            count += len(part)
        return {"rows": count}


def encode(
    settings: Mapping[str, Any], folder: Path, embedder: Embedder, model: Mapping[str, Any], budget: int | None
) -> Encoded:
    """Encode the shards of `corpus` for the index in `folder`.

    The pieces lie beside it, until `forget`: those of the same model and files that are there are not made again.

    Args:
        settings: of `modernbert index`.
        model: how to open `embedder` again.
        budget: tokens of a forward pass; None chooses by device.
    """
    source = shards(settings["corpus"])
    said = [embedder.fingerprint, settings["columns"], [[str(f), f.stat().st_size, f.stat().st_mtime] for f in source]]
    place = beside(folder) / hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    jobs = [{"shard": str(shard), "output": str(place / f"{i:06d}")} for i, shard in enumerate(source)]
    given = dict(settings) | {"model": absolute(model), "folder": str(folder.resolve()), "tokens": budget}
    with tracking("encoding documents", rows_of(source)) as advance:
        for answer in each(DocumentEncoder, given, jobs, settings["workers"]):
            advance(answer["rows"])
    return Encoded(embedder, [piece for job in jobs for piece in sorted(Path(job["output"]).glob("[0-9]*[0-9]"))])


def forget(folder: Path) -> None:
    """Delete the pieces that lie beside an index."""
    shutil.rmtree(beside(folder), ignore_errors=True)


def beside(folder: Path) -> Path:
    return folder.resolve().with_name(f".{folder.resolve().name}.encoded")


def absolute(value: Any) -> Any:
    """The same settings for a process that runs in another folder: relative paths of what is there made absolute."""
    if isinstance(value, Mapping):
        return {key: absolute(item) for key, item in value.items()}
    if isinstance(value, list):
        return [absolute(item) for item in value]
    there = isinstance(value, str) and "\n" not in value and len(value) < 1000 and Path(value).is_dir()
    return str(Path(value).resolve()) if there else value
