"""Long documents in windows: the whole query with each, and the best window's score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from modernbert import load_encoder, pack
from modernbert.errors import ConfigError
from tasks.candidates import WindowTexts
from tasks.data.module import DataModule
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer, tokenise_pair_windows
from tasks.optim import Optim
from tasks.reranking import Reranking
from tasks.reranking_schema import RerankingSchema
from tasks.run import Run, save_run

LIMIT = 16
QUERIES = ["where is my parcel", "where is my parcel", "refund please", "refund please"]
DOCUMENTS = [
    "the parcel has not come yet",
    "the app closes when i open the map and the courier left it yet my password does not work again",
    "my order please and the refund and the app and the parcel and the map again and again please",
    "good",
]
LABELS = ["1", "0", "1", "0"]


def table() -> Table:
    columns = {"query": QUERIES, "document": DOCUMENTS, "label": LABELS}
    return Table("pairs.csv", columns, list(range(2, 6)), [])


def new_schema(**settings: Any) -> RerankingSchema:
    return RerankingSchema.fit(table(), {}, {"long": "window", "overlap": 3} | settings, LIMIT)


def new_task(folder: Path, **settings: Any) -> Reranking:
    torch.manual_seed(3)
    encoder = load_encoder(folder, dropout=0.0)
    return Reranking(encoder, new_schema(**settings), Optim(lr=1e-3), head_dropout=0.0, **settings)


def by_hand(tokenizer: Any, query: str, document: str, overlap: int) -> list[list[int]]:
    """The ids of each window, from the tokenizer itself."""
    first = tokenizer(query, add_special_tokens=False)["input_ids"]
    second = tokenizer(document, add_special_tokens=False)["input_ids"]
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    room = LIMIT - 3 - len(first)
    count = 1 if len(second) <= room else int(np.ceil((len(second) - overlap) / (room - overlap)))
    starts = [i * (len(second) - room) // (count - 1) for i in range(count)] if count > 1 else [0]
    return [[cls, *first, sep, *second[start : start + room], sep] for start in starts]


def test_windows_hold_the_query_and_all_of_the_document(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("modernbert"))
    tokens, starts, cut = tokenise_pair_windows(tokenizer, QUERIES, DOCUMENTS, LIMIT, 3)
    found = [tokens.input_ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]
    for pair, (query, document) in enumerate(zip(QUERIES, DOCUMENTS, strict=True)):
        assert found[starts[pair] : starts[pair + 1]] == by_hand(tokenizer, query, document, 3)
    assert np.diff(starts).tolist() == [1, 3, 2, 1]
    assert not cut.any()


def test_a_query_of_more_than_half_a_window_is_cut_and_said_so(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("modernbert"))
    tokens, starts, cut = tokenise_pair_windows(tokenizer, [DOCUMENTS[1], "refund"], ["good", "good"], LIMIT, 3)
    assert cut.tolist() == [True, False]
    assert np.diff(starts).tolist() == [1, 1]
    assert tokens.lengths.tolist() == [6 + 1 + 3, 1 + 1 + 3]


def test_the_best_window_is_the_score(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    folder = tiny_encoder("modernbert")
    task, tokenizer = new_task(folder).eval(), load_tokenizer(folder)
    save_run(tmp_path / "run", task, folder, {"long": "window", "overlap": 3}, {})
    run = Run.load(tmp_path / "run", device="cpu")
    scores = run.outputs(table())
    with torch.no_grad():
        for score, query, document in zip(scores, QUERIES, DOCUMENTS, strict=True):
            windows = by_hand(tokenizer, query, document, 3)
            assert score.value == pytest.approx(float(torch.sigmoid(task(pack(windows)).max())), abs=1e-5)
            assert not score.cut


@pytest.mark.parametrize("loss", ["bce", "lambda"])
def test_training_measuring_and_micro_batches(tiny_encoder: Callable[..., Path], loss: str) -> None:
    folder, found = tiny_encoder("modernbert"), []
    for budget in (4096, 16):
        task = new_task(folder, loss=loss).train()
        schema, tokenizer = task.schema, load_tokenizer(folder)
        examples = {
            "train": schema.examples(table(), tokenizer, "train"),
            "validation": schema.examples(table(), tokenizer, "evaluate"),
        }
        trainer = L.Trainer(
            max_steps=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        )  # fmt: skip
        trainer.fit(task, DataModule(examples, 4, budget, 0, task.encoder.config))
        found.append((task.state_dict(), float(task.throughput.loss), trainer.callback_metrics["val_map"]))
    (whole, loss_whole, measured), (parts, loss_parts, same) = found
    assert loss_whole == pytest.approx(loss_parts, abs=1e-5)
    assert measured == same
    for name, value in whole.items():
        # AdamW's first step is the sign of a gradient, which rounding may turn where it is zero.
        torch.testing.assert_close(parts[name], value, atol=2.1e-3, rtol=0, msg=name)


def test_the_doctor_counts_windows(tiny_encoder: Callable[..., Path]) -> None:
    schema, report = new_schema(), Report()
    examples = schema.examples(table(), load_tokenizer(tiny_encoder("modernbert")), "evaluate")
    assert isinstance(examples.texts, WindowTexts)
    schema.check_lengths(report, table(), examples)
    assert [problem.code for problem in report.problems] == ["text-in-windows"]
    assert "read in windows" in schema.describe_lengths()
    assert RerankingSchema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "poly"}, "task.long=window"),
        ({"long": "tail"}, "task.long=tail: allowed is head or window"),
        ({"overlap": "much"}, "task.overlap=much"),
    ],
)
def test_what_is_not_allowed(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        new_schema(**settings)
