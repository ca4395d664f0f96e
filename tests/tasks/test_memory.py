"""Steps that do not fit are run in smaller parts with the same gradient; activations are estimated and recomputed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch

from modernbert import build_encoder, load_encoder, pack
from modernbert.config import parse_config
from modernbert.errors import BackendError, ConfigError
from tasks.classification import Classification, ClassificationSchema
from tasks.data.examples import Batch
from tasks.data.module import DataModule
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.memory import (
    Memory,
    activation_bytes,
    free_bytes,
    is_out_of_memory,
    is_starved,
    largest_micro_batch,
    recomputes,
    state_bytes,
)
from tasks.optim import Optim

TEXTS = ["the parcel has not come yet", "refund", "my password does not work again", "where is my order please", "good",
         "the app closes when i open the map and the courier left it"]  # fmt: skip
LABELS = ["a", "b", "c", "a", "a", "b"]
MESSAGE = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."


class Tight(Classification):
    """Plain gradient descent in a memory of `room` tokens: a larger pack fails in the backward of the first layer, when
    the head and the layers above have their gradients already."""

    room = 10**9
    #: Whether activation checkpointing makes everything fit.
    helps = True

    def forward(self, packed: Any) -> torch.Tensor:
        fits = packed.num_tokens <= self.room or (self.helps and self.encoder.gradient_checkpointing)
        self.failures = getattr(self, "failures", 0) + (not fits)
        weight = self.encoder.layers[0].attn.Wqkv.weight
        if not fits:
            handle = weight.register_hook(self.fail)
            handles.append(handle)
        return super().forward(packed)

    def fail(self, gradient: torch.Tensor) -> None:
        while handles:
            handles.pop().remove()
        assert self.head.classifier.weight.grad is not None
        raise RuntimeError(MESSAGE)

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        rate = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


handles: list[Any] = []


def trainer(steps: int) -> L.Trainer:
    return L.Trainer(
        max_steps=steps, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False, limit_val_batches=0,
    )  # fmt: skip


def train(folder: Path, room: int, steps: int = 1, budget: int = 4096, **options: Any) -> Tight:
    table = Table("rows.csv", {"text": TEXTS, "label": LABELS}, list(range(2, 8)), [])
    task_options = {key: options.pop(key) for key in ("long", "overlap") if key in options}
    columns, limit = {"text": "text", "label": "label"}, options.pop("max_length", 16)
    schema = ClassificationSchema.fit(table, columns, task_options, max_length=limit)
    torch.manual_seed(3)
    encoder = load_encoder(folder, dropout=0.0)
    task = Tight(encoder, schema, Optim(lr=1.0, clip=None), head_dropout=0.0).train()
    task.room = room
    for name, value in options.items():
        setattr(task, name, value)
    data = DataModule({"train": schema.examples(table, load_tokenizer(folder))}, len(TEXTS), budget, 0, encoder.config)
    trainer(steps).fit(task, data)
    return task


def assert_same(found: Classification, wanted: Classification) -> None:
    for (name, a), b in zip(found.state_dict().items(), wanted.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5, msg=name)


def test_a_step_that_does_not_fit_is_halved_with_the_same_gradient(
    tiny_encoder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_encoder("modernbert")
    whole = train(folder, 10**9)
    with caplog.at_level(logging.WARNING, "tasks.memory"):
        parts = train(folder, 20)
    assert whole.memory.budget is None
    assert whole.throughput.micro_batches == 1
    assert parts.throughput.micro_batches >= 3
    assert parts.throughput.tokens == whole.throughput.tokens
    assert float(parts.throughput.loss) == pytest.approx(float(whole.throughput.loss), abs=1e-5)
    assert_same(parts, whole)
    said = [record.getMessage() for record in caplog.records if record.name == "tasks.memory"]
    assert len(said) == parts.failures >= 1
    assert f"cost at most {parts.memory.budget} tokens" in said[-1]
    assert not parts.encoder.gradient_checkpointing


def test_the_smaller_budget_is_remembered(tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder("modernbert")
    once, often = train(folder, 20), train(folder, 20, steps=4)
    assert often.failures == once.failures
    assert often.memory.budget == once.memory.budget
    assert often.throughput.micro_batches == 4 * once.throughput.micro_batches
    assert_same(often, train(folder, 10**9, steps=4))


def test_windows_of_texts_are_cut_by_text(tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder("modernbert")
    options = {"long": "window", "overlap": 2, "max_length": 8}
    parts = train(folder, 20, **options)
    assert parts.memory.budget is not None
    assert_same(parts, train(folder, 10**9, **options))


def test_an_example_that_does_not_fit_alone_turns_checkpointing_on(
    tiny_encoder: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    folder = tiny_encoder("modernbert")
    found = train(folder, 10)  # the longest text has 14 tokens
    assert found.encoder.gradient_checkpointing
    assert "activations are now computed again" in caplog.text
    assert_same(found, train(folder, 10**9))


def test_what_fits_in_no_way_says_what_to_do(tiny_encoder: Callable[..., Path]) -> None:
    folder = tiny_encoder("modernbert")
    with pytest.raises(BackendError, match=r"out of memory for \d+ tokens of one example.*data.max_length"):
        train(folder, 10, helps=False)
    with pytest.raises(BackendError, match=r"trainer\.checkpointing=on"):
        train(folder, 10, memory=Memory(allowed=False))


def test_other_errors_go_through(tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: Tight, gradient: torch.Tensor) -> None:
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Tight, "fail", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        train(tiny_encoder("modernbert"), 20)
    handles.clear()


def test_out_of_memory_is_told_from_other_errors() -> None:
    assert is_out_of_memory(RuntimeError(MESSAGE))
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(MemoryError())
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_a_failure_of_onednn_counts_where_memory_is_short() -> None:
    config = encoder_of("modernbert", 64, 64, 2).config
    error = RuntimeError("could not create a primitive")
    small = Batch(pack([[1, 2, 3]]), None, torch.tensor([0]))
    huge = type("Huge", (), {"packed": type("P", (), {"num_tokens": 10**12})()})()
    assert not is_out_of_memory(error)
    assert not is_starved(error, config, small)
    assert not is_starved(error, config, None)
    assert is_starved(error, config, huge) == (free_bytes(torch.device("cpu")) is not None)


def test_another_process_that_saw_the_step_ends_it() -> None:
    memory, step = Memory(), [type("B", (), {"packed": pack([[1, 2, 3]])})()]

    def backward() -> torch.Tensor:
        memory.exchanged = True
        raise RuntimeError(MESSAGE)

    task = type("T", (), {"trainer": type("R", (), {"global_step": 3})(), "encoder": None})()
    with pytest.raises(BackendError, match="when other processes had seen a part"):
        memory.run(task, step, backward)


# In which operation memory ends differs from run to run, and oneDNN does not always say so: `is_starved` guesses.
@pytest.mark.flaky(reruns=2, only_rerun="could not")
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux' /proc and a limit on memory")
def test_a_real_limit_on_memory(tiny_encoder: Callable[..., Path]) -> None:
    script = Path(__file__).with_name("out_of_memory.py")
    env = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    # A new process, not a fork: what memory is left must not hang on what another one had.
    done = subprocess.run(
        [sys.executable, str(script), str(tiny_encoder("modernbert"))], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0 < found["free"] <= 30 * 2**20
    assert found["said"]
    assert all("out of memory at step 0" in line for line in found["said"])  # remembered in step 1
    assert found["budget"] >= 256
    assert found["unlimited"] is None
    assert found["micro_batches"][1] == 2
    assert found["micro_batches"][0] >= 4
    assert found["difference"] <= 1e-5


# -- activations -----------------------------------------------------------------------------------------------


def encoder_of(family: str, hidden: int, inner: int, layers: int) -> Any:
    from transformers import BertConfig, ModernBertConfig

    sizes = {"vocab_size": 100, "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
             "num_attention_heads": hidden // 32}  # fmt: skip
    ids = {"pad_token_id": 0, "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = BertConfig(**sizes) if family == "bert" else ModernBertConfig(**sizes, **ids)
    torch.manual_seed(0)
    return build_encoder(parse_config(config.to_dict(), family)).train()


def kept_bytes(encoder: Any, tokens: int) -> int:
    """What autograd keeps of a forward pass, weights aside."""
    inputs = pack([torch.randint(5, 90, (tokens,))])
    encoder(inputs)  # the first call proves the attention backend, which would count
    seen: dict[int, torch.UntypedStorage] = {}
    weights = {p.untyped_storage().data_ptr() for p in encoder.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = encoder(inputs)
    assert out.requires_grad
    return sum(storage.nbytes() for storage in seen.values())


@pytest.mark.parametrize(
    ("family", "hidden", "inner", "layers"),
    [("modernbert", 96, 160, 5), ("modernbert", 192, 288, 8), ("bert", 96, 384, 5), ("bert", 192, 768, 8)],
)
def test_the_estimate_is_what_autograd_keeps(family: str, hidden: int, inner: int, layers: int) -> None:
    encoder = encoder_of(family, hidden, inner, layers)
    kept = kept_bytes(encoder, 512)
    estimate = activation_bytes(encoder.config, 512) * layers / (layers + 1)
    assert kept == pytest.approx(estimate, rel=0.05)
    encoder.gradient_checkpointing = True
    vectors = 2 if family == "modernbert" else 1  # of D floats: what goes into a layer
    assert kept_bytes(encoder, 512) < 512 * (layers + 3) * vectors * 4 * hidden


def test_when_activations_are_computed_again() -> None:
    cpu, config = torch.device("cpu"), encoder_of("modernbert", 96, 160, 5).config
    assert recomputes("on", config, 1, 0, cpu)
    assert not recomputes("off", config, 10**12, 0, cpu)
    assert recomputes("auto", config, 10**12, 0, cpu)
    assert not recomputes("auto", config, 16, 0, cpu)
    assert recomputes("auto", config, 16, 10**14, cpu)
    assert recomputes(True, config, 1, 0, cpu)  # an unquoted on of a YAML file
    with pytest.raises(ConfigError, match=r"trainer.checkpointing=always: allowed is auto, on or off"):
        recomputes("always", config, 1, 0, cpu)  # type: ignore[arg-type]
    assert 0 < (free_bytes(cpu) or 1) < 2**50


def test_the_largest_micro_batch_and_the_states() -> None:
    assert largest_micro_batch([5, 9, 4], 2, 100) == 14
    assert largest_micro_batch([5, 9, 4], 3, 10) == 10
    assert largest_micro_batch([5, 90, 4], 3, 10) == 90
    layer = torch.nn.Linear(4, 5, bias=False)
    assert state_bytes(layer, torch.device("cpu")) == 3 * 80
    assert state_bytes(layer, torch.device("cuda")) == 4 * 80


# -- other tasks -----------------------------------------------------------------------------------------------


def in_room(task: Any, room: int) -> Any:
    """The task in a memory of so many tokens."""
    whole = task.forward

    def forward(packed: Any) -> torch.Tensor:
        if packed.num_tokens > room:
            raise RuntimeError(MESSAGE)
        return whole(packed)

    task.forward = forward
    return task


@pytest.mark.parametrize("kind", ["dense", "multi_vector"])
def test_retrieval_begins_a_step_again(tiny_encoder: Callable[..., Path], tmp_path: Path, kind: str) -> None:
    """Its loss spans the step, which smaller micro-batches leave as it is."""
    from retrieval_parts import ROWS, new_task, read
    from test_retrieval import Descent as RetrievalDescent

    found = []
    for room in (10**9, 40):
        table = read(tmp_path, ROWS)
        task, tokenizer = new_task(tiny_encoder("bert"), table, kind, dropout=0.0, task=RetrievalDescent)
        examples = {"train": task.schema.examples(table, tokenizer, "train")}
        torch.manual_seed(0)
        trainer(1).fit(in_room(task.train(), room), DataModule(examples, 6, 4096, 0, task.encoder.config))
        found.append(task)
    whole, parts = found
    assert (whole.memory.budget, whole.throughput.micro_batches) == (None, 1)
    assert parts.throughput.micro_batches > 1
    assert parts.counts == whole.counts  # the step that failed is not counted
    assert_same(parts, whole)


@pytest.mark.parametrize(("kind", "loss"), [("cross", "lambda"), ("cross", "bce"), ("poly", "softmax")])
def test_reranking_keeps_the_candidates_of_a_query_together(
    tiny_encoder: Callable[..., Path], kind: str, loss: str
) -> None:
    from test_reranking import Descent as RerankingDescent
    from test_reranking import table

    from tasks.reranking_schema import RerankingSchema

    found = []
    for room in (10**9, 40):
        settings: dict[str, Any] = {"kind": kind, "loss": loss}
        schema = RerankingSchema.fit(table(), {}, settings, 60)
        torch.manual_seed(3)
        encoder = load_encoder(tiny_encoder("modernbert"), dropout=0.0)
        with torch.no_grad():
            for weight in encoder.parameters():
                weight.mul_(3 if weight.ndim == 2 else 1)  # else all scores are alike, and rounding decides their order
        settings |= {} if kind == "poly" else {"head_dropout": 0.0}
        task = RerankingDescent(encoder, schema, Optim(lr=1.0, clip=None), **settings).train()
        examples = {"train": schema.examples(table(), load_tokenizer(tiny_encoder("modernbert")))}
        trainer(1).fit(in_room(task, room), DataModule(examples, 8, 4096, 0, encoder.config))
        found.append(task)
    whole, parts = found
    assert whole.throughput.micro_batches == 1 < parts.throughput.micro_batches
    assert_same(parts, whole)


def test_the_budget_outlives_a_checkpoint(tiny_encoder: Callable[..., Path]) -> None:
    found = train(tiny_encoder("modernbert"), 10)
    held: dict[str, Any] = {}
    found.on_save_checkpoint(held)
    fresh = train(tiny_encoder("modernbert"), 10**9)
    fresh.on_load_checkpoint(held)
    assert fresh.memory.budget == found.memory.budget is not None
    assert fresh.encoder.gradient_checkpointing
