"""An optimiser step gives the same weights whatever its split into micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from modernbert import load_encoder
from modernbert.errors import DataError
from tasks.classification import Classification, ClassificationSchema
from tasks.data.module import DataModule
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.optim import Optim

TEXTS = ["the parcel has not come yet", "refund", "my password does not work again", "where is my order please", "good",
         "the app closes when i open the map and the courier left it"]  # fmt: skip
CELLS = {
    "multiclass": ["a", "b", "c", "a", "a", "b"],
    "multilabel": ["a;b", "b", "", "c", "a", "b;c"],
    "ordinal": ["1", "2", "3", "1", "2", "3"],
    "regression": ["0.5", "1.5", "-2.0", "3.25", "0.1", "9.0"],
}


class Descent(Classification):
    """Plain gradient descent, so that the weights after one step show the gradient itself."""

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        rate = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def one_step(folder: Path, kind: str, tokens_per_batch: int, **options: Any) -> tuple[dict[str, torch.Tensor], Any]:
    table = Table("rows.csv", {"text": TEXTS, "label": CELLS[kind]}, list(range(2, 8)), [])
    columns = {"text": "text", "label": "label"}
    schema = ClassificationSchema.fit(table, columns, {"kind": kind}, max_length=64)
    torch.manual_seed(3)
    encoder = load_encoder(folder, dropout=0.0)
    task = Descent(encoder, schema, Optim(lr=1.0, clip=None), kind=kind, head_dropout=0.0, **options).train()
    examples = {"train": schema.examples(table, load_tokenizer(folder))}
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(task, DataModule(examples, len(TEXTS), tokens_per_batch, seed=0))
    return {name: value.detach().clone() for name, value in task.state_dict().items()}, task.throughput


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("multiclass", {"class_weights": {"a": 0.2, "b": 3.0, "c": 1.0}, "label_smoothing": 0.1}),
        ("multiclass", {"loss": "focal"}),
        ("multilabel", {"class_weights": {"a": 2.0, "b": 1.0, "c": 0.5}}),
        ("ordinal", {}),
        ("regression", {}),
    ],
)
def test_micro_batches_do_not_change_the_gradient(
    tiny_encoder: Callable[..., Path], kind: str, options: dict[str, Any]
) -> None:
    folder = tiny_encoder("modernbert")
    whole, once = one_step(folder, kind, 4096, **options)
    parts, often = one_step(folder, kind, 16, **options)
    assert once.micro_batches == 1
    assert often.micro_batches >= 3
    assert once.tokens == often.tokens == sum(len(text.split()) + 2 for text in TEXTS)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_a_gradient_that_is_no_number_stops_with_the_examples(tiny_encoder: Callable[..., Path]) -> None:
    class Broken(Descent):
        def loss_sum(self, outputs: torch.Tensor, batch: Any, reduce: bool = True) -> torch.Tensor:
            return super().loss_sum(outputs, batch, reduce) * float("nan")

    table = Table("rows.csv", {"text": TEXTS, "label": CELLS["multiclass"]}, list(range(2, 8)), [])
    folder = tiny_encoder("bert")
    schema = ClassificationSchema.fit(table, {"text": "text", "label": "label"}, {}, max_length=64)
    task = Broken(load_encoder(folder), schema, Optim(lr=1.0)).train()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    trainer = L.Trainer(
        max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip
    with pytest.raises(DataError, match=r"gradient is nan at step 0, training examples \["):
        trainer.fit(task, DataModule({"train": schema.examples(table, load_tokenizer(folder))}, 6, 4096, seed=0))
    assert all(torch.equal(before[name], value) for name, value in task.state_dict().items())
