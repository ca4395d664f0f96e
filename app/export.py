"""`modernbert export`: a saved run where other software looks for it, proven equal on real rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from app import console
from app.bench import turns
from app.compose import plain
from app.failures import FAILED, OK
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.export import Exporter, Parity, ParityError, Rows, choose_formats, open_export
from tasks.export.formats import bytes_of, require_fit, require_free
from tasks.export.loading import load_lines
from tasks.run import Run, write_json


def main(cfg: DictConfig) -> int:
    """Write `cfg.run` in each of `cfg.format`; returns the exit status, not 0 if the gate refused one."""
    use_threads(cfg.threads)
    settings = plain(cfg)
    names = choose_formats(settings["format"])
    drop = require_drop(settings["max_metric_drop"])
    run = Run.load(cfg.run, "cpu")
    for name in names:
        require_fit(run, name)
    folders = choose_folders(run, names, settings["output"])
    rows = Rows(run, settings["data"]["test"], settings["data"]["columns"])
    console.note(f"each format answers {len(rows)} rows of {rows.source} before it is written")
    done: dict[str, Path] = {}
    with Exporter(run, rows, drop) as exporter:
        for name, folder in folders.items():
            try:
                tell(exporter.export(name, folder), folder, load_lines(run, name, folder, run.folder / "model"))
                done[name] = folder
            except ParityError as error:
                console.error(str(error))
    if settings["figures"] and done:
        tell_figures(run, rows, done)
    return OK if len(done) == len(names) else FAILED


def require_drop(value: float) -> float:
    """What an export may lose of the metric, as a share."""
    if not 0 <= value < 1:
        raise ConfigError(f"max_metric_drop={value}: allowed is 0 up to, but not, 1 (0.005 is half a point).")
    return float(value)


def choose_folders(run: Run, names: Sequence[str], output: str | None) -> dict[str, Path]:
    """A free folder for each format: `output` itself for one, a folder in it for several."""
    base = Path(output) if output else run.folder / "export"
    folders = {names[0]: base} if output and len(names) == 1 else {name: base / name for name in names}
    for folder in folders.values():
        require_free(folder)
    return folders


def tell(parity: Parity, folder: Path, load: str) -> None:
    """Where it is, that it is equal, how to load it."""
    out = console.out()
    out.print(f"{parity.format}: {folder}  ({bytes_of(folder) / 1e6:.1f} MB)")
    out.print(parity.table())
    for note in parity.notes:
        out.print(note, soft_wrap=True)
    out.print("load it:\n" + "\n".join(f"  {line}" for line in load.splitlines()), soft_wrap=True)
    out.print()


def tell_figures(run: Run, rows: Rows, folders: dict[str, Path]) -> None:
    """Time the run and its exports, show the table, save it as figures.json beside each."""
    models = {name: open_export(run, name, folder) for name, folder in folders.items()}
    found = turns.measure(rows, models)
    sizes = {turns.OURS: bytes_of(run.folder / "model")} | {name: bytes_of(f) for name, f in folders.items()}
    figures = {name: {"megabytes": round(sizes[name] / 1e6, 1)} | figure for name, figure in found.items()}
    cells = [
        [name, f"{f['megabytes']:.1f}", f"{f['alone_ms']:.2f}", f"{f['rows_per_s']:.0f}", f"{f['speed']:.2f}x"]
        for name, f in figures.items()
    ]
    columns = ["", "MB", "batch 1, ms", "batch 32, rows/s", "against the run"]
    console.out().print(console.table(columns, cells, right=columns[1:]))
    console.out().print(turns.describe(rows), soft_wrap=True)
    for folder in folders.values():
        write_json(folder / "figures.json", {"how": turns.describe(rows), "figures": figures})
