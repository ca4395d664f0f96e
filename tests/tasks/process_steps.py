"""Steps of plain gradient descent over one process or several; started by test_processes.py.

`python process_steps.py <encoder> <folder> <cases as JSON>`, under what torchrun sets in the environment: each process
writes what it saw of each case, the first one the weights after it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from retrieval_parts import ROWS, read
from retrieval_parts import new_task as new_retrieval
from torch.distributed.tensor import DTensor

from app.trainers import strategy
from modernbert import load_encoder
from tasks.classification import Classification, ClassificationSchema
from tasks.data.module import DataModule
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.optim import Optim
from tasks.retrieval import Retrieval

TEXTS = ["the parcel has not come yet", "refund", "my password does not work again", "where is my order please", "good",
         "the app closes when i open the map and the courier left it", "shoes back"]  # fmt: skip
LABELS = ["a", "b", "c", "a", "a", "b", "c"]
MESSAGE = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."


@dataclass
class Case:
    """A training.

    Args:
        room: tokens that fit into the memory of the second process; above them its forward or backward fails.
        tokens: of a micro-batch.
    """

    name: str
    strategy: str
    steps: int = 1
    task: Literal["classification", "retrieval"] = "classification"
    room: int = 10**9
    fails_in: Literal["forward", "backward"] = "backward"
    tokens: int = 16
    clip: float | None = None


class Descent(L.LightningModule):
    """Plain gradient descent, so that the weights after one step show the gradient itself; in the memory of a case."""

    case: Case
    handles: list[Any]
    failures = 0

    def forward(self, packed: Any) -> torch.Tensor:
        fits = packed.num_tokens <= self.case.room or self.global_rank != 1 or not torch.is_grad_enabled()
        if not fits and self.case.fails_in == "forward":
            self.encoder(packed)
            self.fail(packed)
        if not fits:  # when the head and the layers above have their gradients already
            self.handles.append(self.encoder.layers[0].attn.Wqkv.weight.register_hook(self.fail))
        return super().forward(packed)

    def fail(self, _: Any) -> None:
        self.failures += 1
        while self.handles:
            self.handles.pop().remove()
        raise RuntimeError(MESSAGE)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        rate = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seen = [batch.index.tolist() for batch in batch]
        # Between steps, so of FSDP's parameters this process's part.
        self.held = sum((p.to_local() if isinstance(p, DTensor) else p).numel() for p in self.parameters())


class Classifier(Descent, Classification): ...


class Retriever(Descent, Retrieval): ...


def new_task(encoder: Path, folder: Path, case: Case) -> tuple[Any, Any]:
    """A task with the same weights each time, and its examples."""
    torch.manual_seed(3)
    if case.task == "retrieval":
        table = read(folder, ROWS, name=f"{case.name}-{os.environ.get('RANK', 0)}")
        task, tokenizer = new_retrieval(encoder, table, dropout=0.0, task=Retriever)
        return task, task.schema.examples(table, tokenizer, "train")
    table = Table("rows.csv", {"text": TEXTS, "label": LABELS}, list(range(2, 2 + len(TEXTS))), [])
    schema = ClassificationSchema.fit(table, {"text": "text", "label": "label"}, {}, max_length=64)
    weights, optim = {"a": 0.2, "b": 3.0, "c": 1.0}, Optim(lr=1.0, clip=case.clip)
    loaded = load_encoder(encoder, dropout=0.0)
    task = Classifier(loaded, schema, optim, head_dropout=0.0, class_weights=weights)
    return task, schema.examples(table, load_tokenizer(encoder))


def run(encoder: Path, folder: Path, processes: int, case: Case) -> None:
    """Train, and write `<name>-<rank>.json` and `<name>.pt`."""
    task, examples = new_task(encoder, folder, case)
    task.train()
    task.case, task.handles = case, []
    data = DataModule({"train": examples}, len(examples), case.tokens, seed=0)
    trainer = L.Trainer(
        max_steps=case.steps, accelerator="cpu", devices=processes, strategy=strategy(case.strategy),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(task, data)
    seen = {"micro_batches": task.seen, "loss": float(task.throughput.loss)}
    seen |= {"failures": task.failures, "held": task.held}
    (folder / f"{case.name}-{trainer.global_rank}.json").write_text(json.dumps(seen))
    whole = trainer.strategy.lightning_module_state_dict()
    if trainer.is_global_zero:
        torch.save(whole, folder / f"{case.name}.pt")


def together(encoder: Path, folder: Path, cases: Sequence[Case], root: Path) -> None:
    """Run cases on two processes of one group: starting one takes longer than the cases."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, __file__, str(encoder), str(folder), json.dumps([asdict(case) for case in cases])]
    group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
             "TORCHELASTIC_RUN_ID": "tests", "GROUP_RANK": "0", "PYTHONPATH": str(root),
             "OMP_NUM_THREADS": "1"}  # fmt: skip
    children = []
    for rank in ("0", "1"):
        environment = os.environ | group | {"RANK": rank, "LOCAL_RANK": rank}
        children.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    said = [child.communicate(timeout=300)[0].decode() for child in children]
    assert [child.returncode for child in children] == [0, 0], "\n".join(said)


def seen_by(folder: Path, name: str, rank: int) -> Mapping[str, Any]:
    """What a process saw of a case."""
    return json.loads((folder / f"{name}-{rank}.json").read_text())


def main() -> None:
    torch.set_num_threads(1)
    for case in json.loads(sys.argv[3]):
        run(Path(sys.argv[1]), Path(sys.argv[2]), 2, Case(**case))


if __name__ == "__main__":
    main()
