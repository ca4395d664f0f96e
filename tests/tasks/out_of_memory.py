"""Trains two steps under a limit on the address space, then without one: `python out_of_memory.py <encoder folder>`.

Prints JSON: what was said, the budget, and the largest difference of the weights.
"""

from __future__ import annotations

import json
import logging
import resource
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

from modernbert import load_encoder
from modernbert.kernels import onednn
from tasks.classification import Classification, ClassificationSchema
from tasks.data.module import DataModule
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.memory import free_bytes
from tasks.optim import Optim

#: What a step may take beside what stands: a third of what its 16,384 tokens need.
ROOM = 30 * 2**20
TEXTS, WORDS, STEPS = 64, 254, 2


class Descent(Classification):
    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        rate = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def train(folder: Path, texts: int = TEXTS) -> Descent:
    words = ("the parcel has not come yet and where is my order please " * 60).split()
    rows = [" ".join(words[i : i + WORDS]) for i in range(texts)]
    table = Table("rows.csv", {"text": rows, "label": ["a", "b"] * (texts // 2)}, list(range(2, texts + 2)), [])
    schema = ClassificationSchema.fit(table, {"text": "text", "label": "label"}, {}, max_length=256)
    torch.manual_seed(3)
    task = Descent(load_encoder(folder, dropout=0.0), schema, Optim(lr=1.0, clip=None), head_dropout=0.0).train()
    trainer = L.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(task, DataModule({"train": schema.examples(table, load_tokenizer(folder))}, texts, 65536, seed=0))
    return task


def main(folder: Path) -> None:
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("tasks.memory").addHandler(handler)
    torch.set_num_threads(1)
    # oneDNN compiles kernels in the same room, and keeps those that it could not make: by how much, no two runs agree.
    onednn.pays = onednn.pays_twice = lambda: False  # type: ignore[assignment]
    train(folder, 2)  # loads what the first training loads
    size = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmSize"))
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(size.split()[1]) * 1024 + ROOM, hard))
    free = free_bytes(torch.device("cpu"))
    limited = train(folder)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    free_run = train(folder)
    pairs = zip(limited.state_dict().values(), free_run.state_dict().values(), strict=True)
    print(json.dumps({
        "said": said,
        "free": free,
        "budget": limited.memory.budget,
        "unlimited": free_run.memory.budget,
        "micro_batches": [limited.throughput.micro_batches, free_run.throughput.micro_batches],
        "difference": max(float((a - b).abs().max()) for a, b in pairs),
    }))  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]))
