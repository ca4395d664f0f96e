"""`python ddp_step.py <encoder> <folder> <processes>`: one step of plain gradient descent, over these processes.

The first one writes the weights after it, each one what it saw. Started by tests/app/test_ddp.py.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lightning as L
import torch

from app.trainers import strategy
from modernbert import load_encoder
from tasks.classification import Classification, ClassificationSchema
from tasks.data.module import DataModule
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.optim import Optim

TEXTS = ["the parcel has not come yet", "refund", "my password does not work again", "where is my order please", "good",
         "the app closes when i open the map and the courier left it", "shoes back"]  # fmt: skip
LABELS = ["a", "b", "c", "a", "a", "b", "c"]


class Descent(Classification):
    """Plain gradient descent, so that the weights after one step show the gradient itself."""

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        rate = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.seen = [batch.index.tolist() for batch in batch]


def main(encoder: Path, folder: Path, processes: int) -> None:
    torch.set_num_threads(1)
    table = Table("rows.csv", {"text": TEXTS, "label": LABELS}, list(range(2, 2 + len(TEXTS))), [])
    schema = ClassificationSchema.fit(table, {"text": "text", "label": "label"}, {}, max_length=64)
    torch.manual_seed(3)
    weights = {"a": 0.2, "b": 3.0, "c": 1.0}
    task = Descent(
        load_encoder(encoder, dropout=0.0), schema, Optim(lr=1.0, clip=None), head_dropout=0.0, class_weights=weights
    ).train()
    data = DataModule({"train": schema.examples(table, load_tokenizer(encoder))}, len(TEXTS), 16, seed=0)
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", devices=processes, strategy=strategy("ddp" if processes > 1 else "auto"),
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(task, data)
    seen = {"micro_batches": task.seen, "loss": float(task.throughput.loss)}
    (folder / f"seen-{processes}-{trainer.global_rank}.json").write_text(json.dumps(seen))
    if trainer.is_global_zero:
        torch.save(task.state_dict(), folder / f"weights-{processes}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
