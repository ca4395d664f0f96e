"""What a training is compared with, a task a runner: `python -m app.bench.peers <job file> <result file>`.

The rows, their checks and the order of labels are ours, so that both sides learn from the same; tokenising,
batching, the model and the loop are transformers' own, as its documentation shows them.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from app.bench import classification_peer, ner_peer, rerank_peer, retrieval_peer
from app.bench.job import Job, Result
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.run import write_json

#: Settings that transformers' Trainer has not: key -> the values at which both sides do the same.
ALIKE: dict[str, tuple[Any, ...]] = {
    "optim.schedule": ("linear", "cosine"),
    "optim.layer_decay": (1.0,),
    "encoder.dropout": (None,),
    "encoder.frozen": (False,),
    "trainer.devices": (1,),
    "trainer.strategy": ("auto",),
    "trainer.precision": ("auto", 32, "32", "bf16-mixed"),
}


@dataclass(frozen=True)
class Peer:
    """How a task's peer is trained, the metrics (of metrics.json) to show, and keys that must stay alike."""

    train: Callable[[Job], Result]
    metrics: tuple[str, ...]
    alike: Mapping[str, tuple[Any, ...]]


#: task=<name> -> its peer; a task that joins needs a module like these and a line here.
PEERS = {
    "classification": Peer(classification_peer.classification, classification_peer.METRICS, classification_peer.ALIKE),
    "ner": Peer(ner_peer.ner, ner_peer.METRICS, ner_peer.ALIKE),
    "retrieval": Peer(retrieval_peer.retrieval, retrieval_peer.METRICS, retrieval_peer.ALIKE),
    "reranking": Peer(rerank_peer.reranking, rerank_peer.METRICS, rerank_peer.ALIKE),
}


def require(config: dict[str, Any]) -> None:
    """Refuse what cannot be compared, before anything is trained.

    Raises:
        ConfigError: a task without peer, a package that is missing, or a setting that only our side has.
    """
    name = config["task"]["name"]
    if name not in PEERS:
        raise ConfigError(f"task={name} has no peer to be timed against yet; {', '.join(PEERS)} has.")
    if importlib.util.find_spec("accelerate") is None:
        raise ConfigError("transformers' Trainer needs accelerate: pip install 'modernbert[peers]'.")
    for key, allowed in {**ALIKE, **PEERS[name].alike}.items():
        section, _, last = key.partition(".")
        value = config[section][last]
        if value not in allowed:
            shown = " or ".join("null" if v is None else str(v) for v in allowed)
            raise ConfigError(f"{key}={value}: Trainer has no such setting, so here it stays {shown}.")
    if config["data"]["test"] is None:
        raise ConfigError("data.test is missing: a time without the quality it buys compares nothing.")


def main(words: list[str]) -> None:
    job = Job(**json.loads(Path(words[0]).read_text(encoding="utf-8")))
    use_threads(job.config["trainer"]["threads"])
    write_json(Path(words[1]), asdict(PEERS[job.config["task"]["name"]].train(job)))


if __name__ == "__main__":
    main(sys.argv[1:])
