"""Batches and loaders: what Lightning is handed, and that it draws another order in each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from modernbert.errors import ConfigError, DataError
from modernbert.packing import unpack
from tasks.data.examples import Batch, StepDataset, TextExamples, eval_loader, train_loader
from tasks.data.sampler import StepSampler
from tasks.data.tokens import Tokens


def tokens_of(lengths: Sequence[int], segments: bool = False) -> Tokens:
    """Example i holds the token i, `lengths[i]` times."""
    sizes = np.asarray(lengths)
    ids = np.repeat(np.arange(len(sizes)), sizes).astype(np.int32)
    types = (ids % 2).astype(np.uint8) if segments else None
    return Tokens(ids, np.concatenate([[0], np.cumsum(sizes)]), types, sizes.astype(np.int32))


def examples_of(lengths: Sequence[int]) -> TextExamples:
    return TextExamples(tokens_of(lengths), torch.arange(len(lengths)) * 10)


def test_collate_packs_in_the_order_asked_for() -> None:
    batch = TextExamples(tokens_of([2, 1, 3], segments=True), torch.tensor([5, 6, 7])).collate([2, 0])
    assert batch.packed.input_ids.tolist() == [2, 2, 2, 0, 0]
    assert batch.packed.cu_seqlens.tolist() == [0, 3, 5]
    assert batch.packed.max_seqlen == 3
    assert batch.packed.token_type_ids is not None
    assert batch.packed.token_type_ids.tolist() == [0] * 5
    assert batch.targets is not None
    assert batch.targets.tolist() == [7, 5]
    assert batch.index.tolist() == [2, 0]
    assert len(batch) == 2


def test_collate_keeps_segments_and_rows_of_targets() -> None:
    matrix = torch.eye(3)
    batch = TextExamples(tokens_of([2, 1, 3], segments=True), matrix).collate(np.array([1]))
    assert batch.packed.token_type_ids is not None
    assert batch.packed.token_type_ids.tolist() == [1]
    assert batch.targets is not None
    assert batch.targets.tolist() == [[0, 1, 0]]


def test_without_targets_for_prediction() -> None:
    batch = TextExamples(tokens_of([2, 1])).collate([1])
    assert batch.targets is None
    assert batch.packed.token_type_ids is None
    moved = batch.to("cpu")
    assert moved.targets is None
    assert torch.equal(moved.packed.input_ids, batch.packed.input_ids)


def test_as_many_targets_as_texts() -> None:
    with pytest.raises(DataError, match="2 texts but 3 targets"):
        TextExamples(tokens_of([2, 1]), torch.zeros(3))


def test_a_batch_moves_as_a_whole() -> None:
    moved = examples_of([2, 1]).collate([0, 1]).to("meta")
    assert moved.targets is not None
    assert {moved.index.device.type, moved.targets.device.type, moved.packed.input_ids.device.type} == {
        "meta"
    }


def test_an_item_of_the_training_loader_is_a_step() -> None:
    examples = examples_of([4, 3, 2, 1, 5])
    sampler = StepSampler(examples.lengths, 4, 6, seed=0, shuffle=False)
    loader = train_loader(examples, sampler)
    assert len(loader) == 2
    first, second = list(loader)
    assert [batch.index.tolist() for batch in first] == [[0], [1, 2, 3]]
    assert [batch.index.tolist() for batch in second] == [[4]]
    for batch in first + second:
        assert batch.targets is not None
        assert batch.targets.tolist() == [index * 10 for index in batch.index.tolist()]
        for index, ids in zip(
            batch.index.tolist(), unpack(batch.packed.input_ids, batch.packed), strict=True
        ):
            assert ids.tolist() == [index] * examples.lengths[index]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_each_example_once_over_all_ranks(world: int) -> None:
    examples = examples_of([7, 1, 3, 9, 2, 2, 8, 1])
    loaders = [eval_loader(examples, 10, rank, world) for rank in range(world)]
    seen = [index for loader in loaders for batch in loader for index in batch.index.tolist()]
    assert sorted(seen) == list(range(8))
    assert all(batch.packed.num_tokens <= 10 for loader in loaders for batch in loader)
    assert all(len(loader) for loader in loaders)


def test_evaluation_needs_an_example_on_each_rank() -> None:
    with pytest.raises(ConfigError, match="2 examples to evaluate on 3 processes: use 2 at most"):
        eval_loader(examples_of([1, 1]), 10, 0, 3)


# --- Lightning ---------------------------------------------------------------------------------------------


class Recorder(L.LightningModule):
    """Learns one number an example and writes down what it was handed."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Embedding(64, 1)
        self.seen: dict[int, list[list[int]]] = {}

    def training_step(self, step: list[Batch], batch_idx: int) -> Tensor:
        self.seen.setdefault(self.current_epoch, []).append(
            [i for batch in step for i in batch.index.tolist()]
        )
        return torch.stack([self.net(batch.packed.input_ids).square().mean() for batch in step]).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    recorder: Recorder, sampler: StepSampler, folder: Path, epochs: int, resume: Path | None = None
) -> L.Trainer:
    """Fits, and leaves a checkpoint of each step in `folder`."""
    trainer = L.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        default_root_dir=folder,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)],
    )
    trainer.fit(recorder, train_loader(examples_of(sampler.lengths.tolist()), sampler), ckpt_path=resume)
    return trainer


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_lightning_draws_another_order_in_each_epoch(tmp_path: Path) -> None:
    lengths = np.random.default_rng(0).integers(1, 20, 22)
    recorder, sampler = Recorder(), StepSampler(lengths, 4, 30, seed=0)
    trainer = fit(recorder, sampler, tmp_path, 2)
    assert trainer.global_step == 12  # 2 epochs of 6 steps, one optimiser step each
    for epoch in (0, 1):
        expected = StepSampler(lengths, 4, 30, seed=0)
        expected.set_epoch(epoch)
        assert recorder.seen[epoch] == [[i for batch in step for i in batch] for step in expected]
        assert sorted(i for step in recorder.seen[epoch] for i in step) == list(range(22))
    assert recorder.seen[0] != recorder.seen[1]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("stop", [2, 6, 9])
def test_a_resumed_fit_sees_what_an_uninterrupted_one_sees(tmp_path: Path, stop: int) -> None:
    """Resumed inside the first epoch, at its end, and inside the second; 6 steps an epoch."""
    lengths = np.random.default_rng(0).integers(1, 20, 22)
    whole, resumed = Recorder(), Recorder()
    fit(whole, StepSampler(lengths, 4, 30, seed=0), tmp_path / "whole", 3)
    checkpoint = tmp_path / "whole" / f"step={stop}.ckpt"
    trainer = fit(resumed, StepSampler(lengths, 4, 30, seed=0), tmp_path / "resumed", 3, checkpoint)
    assert trainer.global_step == 18
    steps = [step for epoch in sorted(whole.seen) for step in whole.seen[epoch]]
    assert [step for epoch in sorted(resumed.seen) for step in resumed.seen[epoch]] == steps[stop:]
    assert torch.equal(resumed.net.weight, whole.net.weight)


def test_an_iterator_made_before_set_epoch_follows_it() -> None:
    examples = examples_of([1] * 20)
    sampler = StepSampler(examples.lengths, 4, 30, seed=0)
    iterator = iter(train_loader(examples, sampler))
    sampler.set_epoch(3)
    expected = StepSampler(examples.lengths, 4, 30, seed=0)
    expected.set_epoch(3)
    assert [[batch.index.tolist() for batch in step] for step in iterator] == list(expected)


def test_the_dataset_is_as_long_as_its_examples() -> None:
    assert len(StepDataset(examples_of([1, 2, 3]))) == 3
