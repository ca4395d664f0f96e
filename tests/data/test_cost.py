"""What texts cost: operations of attention beside those of the linear layers, and budgets made of that."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modernbert.config import EncoderConfig, parse_config
from tasks.data.cost import attention_share, costs
from tasks.data.examples import TextExamples
from tasks.data.module import DataModule
from tasks.data.sampler import StepSampler, budget_use, micro_batches
from tasks.data.tokens import Tokens
from tasks.data.windows import WindowExamples


def config(**changes: object) -> EncoderConfig:
    raw = {
        "model_type": "modernbert", "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
        "num_attention_heads": 2, "vocab_size": 50, "pad_token_id": 0,
        "max_position_embeddings": 64, "local_attention": 4,
        "layer_types": ["full_attention", "sliding_attention"],
    }  # fmt: skip
    return parse_config(raw | changes)


BASE = parse_config({
    "model_type": "modernbert", "hidden_size": 768, "intermediate_size": 1152, "num_hidden_layers": 22,
    "num_attention_heads": 12, "vocab_size": 50368, "max_position_embeddings": 8192, "local_attention": 128,
    "global_attn_every_n_layers": 3,
})  # fmt: skip


def tokens(lengths: list[int]) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.arange(offsets[-1], dtype=np.int32) % 40 + 5
    return Tokens(ids, offsets, full_lengths=np.array(lengths, dtype=np.int32), segments=None)


def test_the_share_by_hand() -> None:
    # Two layers of 1,088 operations a token; 4 * 8 a pair; length 5: 25 pairs, and 25 - 6 within two tokens.
    assert attention_share(5, config()) == pytest.approx((32 * (25 + 19) / 5) / (2 * 1088))


def test_a_long_text_costs_what_it_computes() -> None:
    share = attention_share(8192, BASE)
    # 8 global layers of 22: 4 * 768 * 8,192 * 8 over 22 * 10,027,008, and 14 layers of 129 keys.
    assert share == pytest.approx((3072 * (8192 * 8 + 129 * 14)) / (22 * 10_027_008), rel=1e-3)
    found = costs(TextExamples(tokens([8192, 60])), BASE)
    assert found.tolist() == [int(np.ceil(8192 * (1 + share))), int(np.ceil(60 * (1 + attention_share(60, BASE))))]
    assert found[0] / found[1] == pytest.approx(255, abs=3)  # 137 by tokens alone


def test_a_budget_holds_a_long_text_or_as_much_of_short_ones() -> None:
    lengths = [8192] * 4 + [64] * 2000
    spent = costs(TextExamples(tokens(lengths)), BASE)
    batches = micro_batches(spent, np.arange(len(lengths)), 32768)
    per = [int(spent[batch].sum()) for batch in batches]
    assert max(per) <= 32768
    assert max(per) / min(per) < 1.2
    assert max(sum(lengths[i] == 8192 for i in batch) for batch in batches) <= 2  # 4 by tokens alone


def test_windows_cost_what_a_window_costs() -> None:
    windows = tokens([16, 16, 7, 12])
    examples = WindowExamples(windows, np.array([0, 3, 4]), "mean")
    found = costs(examples, config())
    assert found.tolist() == [
        int(np.ceil(39 * (1 + attention_share(16, config())))), int(np.ceil(12 * (1 + attention_share(12, config()))))
    ]  # fmt: skip


def test_training_counts_costs_and_says_how_full_it_was() -> None:
    lengths = [40] * 6 + [9] * 10
    examples = TextExamples(tokens(lengths), torch.zeros(16))
    data = DataModule({"train": examples}, 16, 80, seed=0, config=config())
    assert (data.costs >= lengths).all()
    assert (data.costs[:6] > 40).all()
    assert DataModule({"train": examples}, 16, 64, seed=0).costs.tolist() == lengths
    (step,) = list(data.train_dataloader())
    assert max(int(data.costs[batch.index.numpy()].sum()) for batch in step) <= 80
    batches = [batch.index.numpy() for batch in step]
    assert data.sampler.budget_use == pytest.approx(budget_use(data.costs, batches, 80))


def test_a_text_above_the_budget_fills_it() -> None:
    sampler = StepSampler([100, 10, 10], 3, 20, seed=0)
    assert sampler.budget_use == 0
    list(sampler)
    assert sampler.budget_use == 1.0
