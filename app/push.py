"""`modernbert push`: a saved run and its proven exports to the Hugging Face hub."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from app import console
from app.failures import OK
from modernbert.errors import BackendError, ConfigError
from tasks.run import read_info

#: Files of a run beside model/. predictions.csv, worst_errors.csv and config.yaml stay: they hold texts and paths.
SHARED = ("README.md", "task.json", "metrics.json")
#: Exports that are what model/ is, and so are not sent twice.
SAME = ("transformers", "sentence-transformers")
PROOF = "parity.json"


def main(cfg: DictConfig) -> int:
    """Print what of `cfg.run` would go where in `cfg.repo`, and with `cfg.confirm` send it; returns the exit status."""
    run = Path(cfg.run)
    read_info(run)
    check_name(cfg.repo)
    files = find_files(run)
    sizes = {place: path.stat().st_size for place, path in files.items()}
    rows = [[place, f"{sizes[place] / 1e6:.2f}", str(path)] for place, path in files.items()]
    console.out().print(console.table([f"in {cfg.repo}", "MB", "from"], rows, right=["MB"]))
    for note in left_out(run, files):
        console.note(note)
    kind = "private" if cfg.private else "public"
    told = f"{len(files)} files, {sum(sizes.values()) / 1e6:.1f} MB"
    if not cfg.confirm:
        console.out().print(f"nothing was sent: {told} would go to {cfg.repo} ({kind} if it is new). Add confirm=true.")
        return OK
    where = send(files, cfg.repo, cfg.private, cfg.message or f"modernbert run {run.absolute().name}", new_client())
    console.out().print(f"{told} sent: {where}")
    return OK


def find_files(run: Path) -> dict[str, Path]:
    """What goes where: model/ and the card at the top, every export that passed the gate in a folder of its name.

    Raises:
        ConfigError: the run has no weights.
    """
    files = {path.relative_to(run / "model").as_posix(): path for path in walk(run / "model")}
    if not any(name.endswith(".safetensors") for name in files):
        raise ConfigError(f"run={run} has no model/ with weights: there is nothing to push.")
    files |= {name: run / name for name in SHARED if (run / name).is_file()}
    for folder in proven(run):
        files |= {f"{folder.name}/{path.relative_to(folder).as_posix()}": path for path in walk(folder)}
    return dict(sorted(files.items()))


def proven(run: Path) -> list[Path]:
    """The exports of a run that passed the gate and are not model/ itself."""
    found = []
    for proof in sorted((run / "export").glob(f"*/{PROOF}")):
        passed = json.loads(proof.read_text(encoding="utf-8")).get("passed")
        if passed and proof.parent.name not in SAME:
            found.append(proof.parent)
    return found


def walk(folder: Path) -> list[Path]:
    """Every file below a folder that is whole and not hidden."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in paths if path.suffix != ".part" and not path.name.startswith(".")]


def left_out(run: Path, files: Mapping[str, Path]) -> list[str]:
    """What a person may have expected to be sent."""
    sent = {path.parent for path in files.values()}
    folders = [path for path in sorted((run / "export").glob("*")) if path.is_dir() and path not in sent]
    notes = []
    if folders:
        notes.append(f"not sent: {', '.join(f'export/{path.name}' for path in folders)} (model/ itself, or no {PROOF})")
    stay = [name for name in ("predictions.csv", "worst_errors.csv", "config.yaml") if (run / name).is_file()]
    if stay:
        notes.append(f"not sent, as they hold your texts and paths: {', '.join(stay)}")
    return notes


def check_name(repo: str) -> None:
    """
    Raises:
        ConfigError: no name that the hub allows.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise ConfigError(f"repo={repo} is no name on the hub: give <owner>/<name>, such as me/reviews.") from error


def new_client() -> Any:
    """The hub's client.

    Raises:
        ConfigError: nobody is logged in on this machine.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise ConfigError("There is no token for the hub here: run `hf auth login`, or set HF_TOKEN, and push again.")
    return HfApi(token=token)


def send(files: Mapping[str, Path], repo: str, private: bool, message: str, client: Any) -> str:
    """Make the repository where there is none, and send all files as one commit; returns its address.

    Args:
        client: a `huggingface_hub.HfApi`.

    Raises:
        BackendError: the hub refuses, or cannot be reached.
    """
    import httpx
    from huggingface_hub.errors import HfHubHTTPError

    with tempfile.TemporaryDirectory(prefix="modernbert-push-") as scratch:
        for place, path in files.items():
            target = Path(scratch) / place
            target.parent.mkdir(parents=True, exist_ok=True)
            if place == "README.md":  # there the model is at the top, not in model/
                target.write_text(path.read_text(encoding="utf-8").replace('"model"', f'"{repo}"'), encoding="utf-8")
            else:
                target.symlink_to(path.absolute())
        try:
            client.create_repo(repo, private=private, repo_type="model", exist_ok=True)
            done = client.upload_folder(repo_id=repo, folder_path=scratch, repo_type="model", commit_message=message)
        except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
            raise BackendError(f"repo={repo} was not sent: {str(error).splitlines()[0]}") from error
    return str(getattr(done, "commit_url", done))
