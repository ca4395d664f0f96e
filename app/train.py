"""`modernbert train`: files -> doctor -> encoder and head -> training -> a saved run and its summary."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from app import console
from app.build import build_task
from app.compose import plain
from app.doctor import Doctor
from app.progress import TrainingBar, tracking
from app.rundir import new_run_dir
from app.summary import summarise
from app.threads import use_threads
from modernbert import weights
from modernbert.config import read_config
from modernbert.errors import ConfigError
from tasks import run as runs
from tasks.base import Task
from tasks.card import write_card
from tasks.data.module import Checked, DataModule, DataSettings, Prepared, check, prepare
from tasks.data.tokenise import load_tokenizer
from tasks.evaluation import evaluate, learning_curves, load_weights
from tasks.optim import Optim

CACHE = Path.home() / ".cache" / "modernbert" / "tokens"


def main(cfg: DictConfig) -> int:
    """Train as configured; returns the exit status."""
    use_threads(cfg.trainer.threads)
    settings = DataSettings(**plain(cfg.data))
    base = weights.resolve(cfg.encoder.source, cfg.encoder.revision)
    doctor = Doctor()
    checked = check_data(cfg, settings, base, doctor)
    prepared = tokenise(checked, base, settings, doctor)
    L.seed_everything(cfg.seed, verbose=False)
    task = new_task(cfg, base, prepared)
    folder = new_run_dir(cfg)
    trainer = build_trainer(cfg, task, folder, "validation" in prepared.examples)
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    budget = settings.budget(trainer.strategy.root_device.type)
    started, cpu = time.perf_counter(), time.process_time()
    trainer.fit(task, DataModule(prepared.examples, cfg.optim.batch_size, budget, cfg.seed))
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - cpu}
    if trainer.interrupted:
        raise KeyboardInterrupt
    if trainer.is_global_zero:
        finish(cfg, folder, trainer, task, prepared, base, budget, spent)
    return 0


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
    encoder = weights.load_encoder(base, dropout=cfg.encoder.dropout)
    optim = Optim(**{key: value for key, value in plain(cfg.optim).items() if key not in ("name", "batch_size")})
    task = build_task(cfg, encoder=encoder, schema=prepared.schema, optim=optim)
    task.load_head(weights.read_tensors(base))
    return task.train()


def build_trainer(cfg: DictConfig, task: Task, folder: Path, validate: bool) -> L.Trainer:
    """Lightning's trainer: one bar, the best epoch's weights, early stopping on request."""
    name, mode = monitored(task, cfg.trainer.monitor)
    callbacks: list[L.Callback] = [TrainingBar(monitor=f"val_{name}")]
    if validate:
        callbacks.append(best_checkpoint(folder, name, mode))
        if cfg.trainer.patience is not None:
            callbacks.append(EarlyStopping(f"val_{name}", mode=mode, patience=cfg.trainer.patience))
    elif cfg.trainer.patience is not None:
        raise ConfigError("trainer.patience needs validation rows: data.validation, or data.validation_share above 0.")
    return L.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=cfg.trainer.devices,
        strategy=cfg.trainer.strategy,
        precision=precision(cfg.trainer.precision, cfg.trainer.accelerator),
        max_epochs=cfg.trainer.max_epochs,
        max_steps=cfg.trainer.max_steps,
        val_check_interval=None if cfg.trainer.validate_every == 1 else float(cfg.trainer.validate_every),
        limit_val_batches=None if validate else 0,
        num_sanity_val_steps=0,
        callbacks=callbacks,
        logger=build_logger(cfg.logger.name, folder),
        default_root_dir=folder,
        enable_checkpointing=validate,
        enable_model_summary=False,
        use_distributed_sampler=False,
        log_every_n_steps=10,
    )


def best_checkpoint(folder: Path, name: str, mode: str) -> ModelCheckpoint:
    return ModelCheckpoint(
        folder / "checkpoints", filename="best", monitor=f"val_{name}", mode=mode, save_weights_only=True
    )


def monitored(task: Task, asked: str | None) -> tuple[str, str]:
    """The validation metric that chooses the best epoch, and whether more of it is better."""
    report = task.new_report("validation")
    return (report.headline, report.mode) if asked is None else (asked, report.direction(asked))


def precision(asked: str, accelerator: str) -> Any:
    """auto: bf16 autocast over fp32 weights on a GPU that has it, else fp32 (bf16 is 6 times slower on a CPU)."""
    if str(asked) != "auto":
        return {"32": "32-true"}.get(str(asked), str(asked))
    on_gpu = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"


def build_logger(name: str, folder: Path) -> Any:
    """Lightning's logger for the curves of a run."""
    from lightning.pytorch import loggers

    if name == "csv":
        return loggers.CSVLogger(folder, name="", version="logs")
    if name == "tensorboard":
        return loggers.TensorBoardLogger(folder, name="", version="logs")
    if name != "none":
        raise ConfigError(f"logger.name={name}: allowed is none, csv or tensorboard.")
    return False


def finish(
    cfg: DictConfig,
    folder: Path,
    trainer: L.Trainer,
    task: Task,
    prepared: Prepared,
    base: Path,
    budget: int,
    spent: dict[str, float],
) -> None:
    """Best weights, scores with intervals, the saved run, its card and the summary."""
    kept = trainer.checkpoint_callback
    if isinstance(kept, ModelCheckpoint) and Path(kept.best_model_path).is_file():
        load_weights(task, Path(kept.best_model_path))
    task.to(trainer.strategy.root_device)
    reports = score(task, prepared, folder, budget)
    facts = gather_facts(cfg, prepared, base, task, spent)
    runs.save_run(folder, task, base, task_settings(cfg), facts)
    metrics = {split: report.compute() for split, report in reports.items()}
    runs.write_json(folder / "metrics.json", metrics)
    learning_curves(task, folder)
    # The saved model holds the best weights; checkpoints are for a training that was cut short.
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    write_card(folder, task, facts, metrics)
    console.out().print(console.summary(summarise(folder, task, facts, reports)))


def score(task: Task, prepared: Prepared, folder: Path, budget: int) -> Mapping[str, Any]:
    """Validation first (thresholds are fitted on it), then test; the last one leaves the tables and plots."""
    reports: dict[str, Any] = {}
    splits: list[str] = [split for split in ("validation", "test") if split in prepared.examples]
    for split in splits or ["train"]:
        table, examples = prepared.tables[split], prepared.examples[split]
        with tracking(f"scoring {split}", len(table)) as advance:
            reports[split] = evaluate(task, examples, table, split, folder, budget, advance)
        if split == "validation" and task.fit(reports[split]):
            # The fitted thresholds change the predictions, so they are written again.
            reports[split] = evaluate(task, examples, table, split, folder, budget)
    return reports


def task_settings(cfg: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in plain(cfg.task).items() if key != "_target_"}


def gather_facts(cfg: DictConfig, prepared: Prepared, base: Path, task: Task, spent: dict) -> dict[str, Any]:
    """Where everything came from, for task.json and the card."""
    data = {}
    for split, table in prepared.tables.items():
        data[split] = {"source": table.source, "rows": len(table)}
        if Path(table.source).is_file():
            data[split]["sha256"] = runs.sha256(Path(table.source))
    return {
        "encoder": {
            "source": cfg.encoder.source,
            "revision": cfg.encoder.revision,
            "sha256": {p.name: runs.sha256(p) for p in sorted(base.glob("*.safetensors"))},
            "parameters": sum(p.numel() for p in task.encoder.parameters()),
        },
        "data": data,
        "seed": cfg.seed,
        "training": {
            **{name: round(value, 2) for name, value in spent.items()},
            "epochs": task.trainer.current_epoch,
            "steps": task.trainer.global_step,
            "tokens": task.throughput.tokens,
        },
    }
