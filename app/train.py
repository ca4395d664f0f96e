"""`modernbert train`: files -> doctor -> encoder and head -> training -> a saved run and its summary."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from omegaconf import DictConfig, OmegaConf

from app import console, origin, resume
from app.build import build_task
from app.checkpoint_files import FOLDER, checkpoints, last_good
from app.compose import plain
from app.doctor import Doctor
from app.failures import OK, STOPPED, TRY_AGAIN
from app.finish import Plan, finish
from app.progress import tracking
from app.rundir import new_run_dir
from app.runtime import runs_on
from app.signals import Signals, Stopped
from app.threads import use_threads
from app.trainers import build_trainer, checkpoints_of, require_settings
from modernbert import weights
from modernbert.config import read_config
from modernbert.errors import BackendError, ConfigError
from tasks import memory, state
from tasks import run as runs
from tasks.base import Task
from tasks.data.module import Checked, DataModule, DataSettings, Prepared, check, prepare
from tasks.data.tokenise import load_tokenizer
from tasks.numbers import Numbers
from tasks.optim import Optim, require
from tasks.sharding import Sharded

CACHE = Path.home() / ".cache" / "modernbert" / "tokens"


def main(cfg: DictConfig, origin_of: Path | None = None) -> int:
    """Train as configured, or go on with the run that `cfg.resume` names; returns the exit status.

    Args:
        origin_of: a run that this one must share data and base weights with.
    """
    use_threads(cfg.trainer.threads)
    if cfg.resume is not None and resume.is_complete(Path(cfg.resume)):
        console.note(f"{cfg.resume} is complete: there is nothing to resume")
        return OK
    with Signals() as signals:
        try:
            return train(cfg, signals, origin_of)
        except Stopped as stop:
            console.error(f"{stop}: stopped before anything was learned", mark="")
            return TRY_AGAIN


def train(cfg: DictConfig, signals: Signals, origin_of: Path | None) -> int:
    """From files to a saved run; returns the exit status."""
    require_settings(cfg.trainer, cfg.task.name)
    settings = DataSettings(**plain(cfg.data))
    base = weights.resolve(cfg.encoder.source, cfg.encoder.revision)
    doctor = Doctor()
    checked = check_data(cfg, settings, base, doctor)
    prepared = tokenise(checked, base, settings, doctor)
    L.seed_everything(cfg.seed, verbose=False)
    task = new_task(cfg, base, prepared)
    task.numbers = numbers(cfg.trainer.on_nan, prepared)
    folder, made = begin(cfg, base, prepared, origin_of or (Path(cfg.resume) if cfg.resume else None))
    plan = Plan(cfg, settings, prepared, base, folder, made)
    if cfg.trainer.max_steps == 0:
        if is_first():
            save_as_it_is(plan, task)
        return OK
    try:
        learn_and_save(plan, task, signals)
    except Stopped as stop:
        return stopped(stop, folder)
    return OK


def begin(cfg: DictConfig, base: Path, prepared: Prepared, model: Path | None) -> tuple[Path, dict[str, Any]]:
    """The folder of the run, with its configuration and its origin, which must be that of the run `model`.

    Of several processes the first one does this; `Checkpoints` tells the others its folder.
    """
    if not is_first():
        return Path(cfg.run_dir or "runs"), {}
    made = origin.find(cfg, base, prepared.tables)
    before = origin.read(model) if model else None
    for change in origin.require_same(model, before, made) if model and before else ():
        console.warn(f"{change}: what comes out may differ")
    if cfg.resume is not None and before is not None:
        return Path(cfg.resume), before
    folder = Path(cfg.resume) if cfg.resume is not None else create(cfg)
    beside = folder / "config.yaml.part"
    OmegaConf.save(cfg, beside, resolve=True)
    beside.replace(folder / "config.yaml")
    runs.write_json(folder / origin.FILE, made)
    return folder, made


def is_first() -> bool:
    """Whether this is the first process of the training, by what torchrun, SLURM or Lightning has told it."""
    return int(getattr(rank_zero_only, "rank", None) or 0) == 0


def create(cfg: DictConfig) -> Path:
    """A new folder; of two trainings that begin in the same second one takes the next name."""
    while True:
        folder = new_run_dir(cfg)
        try:
            folder.mkdir(parents=True, exist_ok=cfg.run_dir is not None)
        except FileExistsError:
            continue
        return folder


def learn_and_save(plan: Plan, task: Task, signals: Signals) -> None:
    """Train, from the last checkpoint of a resumed run; then score, save and tell."""
    cfg, folder, prepared = plan.cfg, plan.folder, plan.prepared
    start = last_good(folder / FOLDER) if cfg.resume is not None else None
    about = state.read_about(start) if start else {}
    if cfg.resume is not None:
        console.note(f"resuming {folder} " + (f"after step {about['step']:,}" if start else "from the beginning"))
    resumed_at = about.get("logged_steps", 0) if cfg.resume is not None else None
    trainer = build_trainer(cfg, task, folder, "validation" in prepared.examples, signals, resumed_at)
    if trainer.is_global_zero:
        console.note(runs_on(task.encoder, trainer.strategy.root_device, str(trainer.precision)))
    if start and about.get("finished"):
        held = state.read(start)
        task.on_load_checkpoint(held)
        training, best = held["training"], folder / FOLDER / about["best"] if about["best"] else None
        learned = held.get("weights")
    else:
        budget = plan.settings.budget(trainer.strategy.root_device.type)
        data = DataModule(prepared.examples, cfg.optim.batch_size, budget, cfg.seed, task.encoder.config)
        make_room(cfg, task, data, trainer)
        fit(trainer, task, data, start, folder)
        if not trainer.is_global_zero:
            return
        training, best, learned = checkpoints_of(trainer).facts(trainer), checkpoints_of(trainer).best_path(), None
        training |= {"budget_use": data.sampler.budget_use, "checkpointing": task.encoder.gradient_checkpointing}
        if isinstance(trainer.strategy, Sharded):
            # What this process has of the weights is a part: the whole ones go into a task like that of before.
            held = checkpoints_of(trainer).ended
            task, learned = new_task(cfg, plan.base, prepared), held.get("weights")
            task.on_load_checkpoint(held)
    if best is not None:
        learned = state.read(best)["state_dict"]
    if learned is not None:
        task.load_state_dict(learned)
    task.to(trainer.strategy.root_device)
    task.autocast = runs.choose_precision("auto", task.device.type)
    finish(plan, task, training)


def save_as_it_is(plan: Plan, task: Task) -> None:
    """A run of what a training would begin with (`trainer.max_steps=0`): what it gains is measured against this."""
    task.to(runs.choose_device("cpu" if plan.cfg.trainer.accelerator == "cpu" else "auto"))
    task.autocast = runs.choose_precision("auto", task.device.type)
    finish(plan, task, {"epochs": 0, "steps": 0, "tokens": 0, "seconds": 0.0, "cpu_seconds": 0.0})


def make_room(cfg: DictConfig, task: Task, data: DataModule, trainer: L.Trainer) -> None:
    """Set whether activations are computed again, and say where they are."""
    encoder, device = task.encoder, trainer.strategy.root_device
    most = memory.largest_micro_batch(data.examples["train"].lengths, data.batch_size, data.tokens_per_batch)
    parts = trainer.world_size if isinstance(trainer.strategy, Sharded) else 1
    asked, states = cfg.trainer.get("checkpointing", "auto"), memory.state_bytes(task, device, parts)
    encoder.gradient_checkpointing = memory.recomputes(asked, encoder.config, most, states, device)
    task.memory.allowed = asked == "auto"
    if encoder.gradient_checkpointing and trainer.is_global_zero:
        kept = memory.activation_bytes(encoder.config, most) / 2**30
        console.note(
            f"activations are computed again, not kept (trainer.checkpointing={asked}): those of {most:,} tokens take "
            f"about {kept:,.1f} GiB"
        )


def fit(trainer: L.Trainer, task: Task, data: DataModule, start: Path | None, folder: Path) -> None:
    """Train; of several processes each leaves the group at the end, as only the first one scores.

    Raises:
        BackendError: another process of this training is gone.
    """
    try:
        trainer.fit(task, data, ckpt_path=start)
    except RuntimeError as error:
        if trainer.world_size == 1 or not is_lost(error):
            raise
        raise BackendError(
            f"process {trainer.global_rank} of {trainer.world_size} has lost another one, which ended or cannot be "
            f"reached ({str(error).splitlines()[0][:120]}). Its own message says why; modernbert train "
            f"resume={folder} goes on from the last checkpoint."
        ) from error
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_lost(error: RuntimeError) -> bool:
    """Whether an error is that of a connection to another process."""
    words = ("connection closed by peer", "connection reset by peer", "gloo", "nccl", "socket", "broken pipe")
    return isinstance(error, torch.distributed.DistError) or any(word in str(error).lower() for word in words)


def stopped(stop: Stopped, folder: Path) -> int:
    """Say what was kept; the exit status tells a scheduler to start the job again."""
    if not is_first():
        return OK  # the first process speaks for all, and Lightning's kills the rest where one fails
    found = checkpoints(folder / FOLDER)
    where = f"after step {state.read_about(found[-1])['step']:,}" if found else "before the first checkpoint"
    console.error(f"{stop}: stopped {where}. To go on: modernbert train resume={folder}", mark="")
    return STOPPED if stop.number == signal.SIGINT else TRY_AGAIN


def require_head(task: Task, found: Sequence[str], source: str) -> None:
    """Refuse to save a reranker that nobody has trained: its checkpoint must bring the whole head."""
    if missing := [name for name in task.head.state_dict() if name not in found]:
        raise ConfigError(
            f"trainer.max_steps=0: {source} is no published cross-encoder (it has no tensor {missing[0]!r} of the "
            "right shape), and a head that has not learned tells nothing. Name one, such as "
            "encoder.source=cross-encoder/ms-marco-MiniLM-L6-v2, or leave trainer.max_steps out."
        )


def numbers(on_nan: str, prepared: Prepared) -> Numbers:
    """What to do about a loss that is no number, with the rows of the file by which to name the examples."""
    table, examples = prepared.tables["train"], prepared.examples["train"]
    known = len(table) == len(examples)  # examples of some tasks are not the rows of one table
    return Numbers(on_nan, source=table.source, rows=table.rows if known else None)  # type: ignore[arg-type]


def check_data(cfg: DictConfig, settings: DataSettings, base: Path, doctor: Doctor) -> Checked:
    """Read and check the rows; shows the doctor's report and stops at errors."""
    schema_type = runs.task_class(cfg.task._target_).schema_type
    limit = settings.token_limit(read_config(base).max_positions)
    checked = check(schema_type, settings, plain(cfg.task), limit, cfg.seed)
    for note in checked.notes:
        console.note(note)
    doctor.show(checked.report)
    return checked


def tokenise(checked: Checked, base: Path, settings: DataSettings, doctor: Doctor) -> Prepared:
    """Tokenise each split, with a bar where it takes long enough to want one."""
    with tracking("tokenising", sum(len(table) for table in checked.tables.values())) as advance:
        prepared = prepare(checked, load_tokenizer(base), CACHE if settings.cache else None, advance)
    doctor.show(checked.report)
    return prepared


def new_task(cfg: DictConfig, base: Path, prepared: Prepared) -> Task:
    """The task with a pretrained encoder; what the checkpoint has of a head is taken over."""
    encoder = weights.load_encoder(base, dropout=cfg.encoder.dropout).requires_grad_(not cfg.encoder.frozen)
    require("optim.name", cfg.optim.name, cfg.optim.name == "adamw", "adamw")
    optim = Optim(**{key: value for key, value in plain(cfg.optim).items() if key not in ("name", "batch_size")})
    task = build_task(cfg, encoder=encoder, schema=prepared.schema, optim=optim)
    found = task.load_head(weights.read_tensors(base))
    if cfg.trainer.max_steps == 0 and task.name == "reranking":
        require_head(task, found, cfg.encoder.source)
    task.read_modules(base)
    if not any(parameter.requires_grad for parameter in task.parameters()):
        raise ConfigError("encoder.frozen=true leaves nothing to learn: this task has no head of its own to train.")
    return task.train()
