"""Texts longer than the model: what is read of them, and how windows answer together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modernbert import load_encoder
from modernbert.errors import ConfigError, DataError
from tasks.classification import Classification, ClassificationSchema
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer, tokenise, tokenise_windows
from tasks.data.windows import WindowExamples
from tasks.optim import Optim

WORDS = (
    "the parcel has not come yet i was charged twice for one order my password does not work how do send shoes back "
    "courier left it with a neighbour again please refund money"
).split()
LONG = " ".join(WORDS[:30])
TEXTS = [LONG, "good", " ".join(WORDS[5:19]), LONG]
LIMIT = 12  # ten words and two special tokens


def table(texts: list[str] = TEXTS) -> Table:
    labels = ["a", "b"] * (len(texts) // 2)
    return Table("long.csv", {"text": texts, "label": labels}, list(range(2, 2 + len(texts))), [])


def fitted(folder: Path, **settings: Any) -> tuple[Classification, Any]:
    schema = ClassificationSchema.fit(table(), {"text": "text", "label": "label"}, settings, LIMIT)
    torch.manual_seed(0)
    task = Classification(load_encoder(folder), schema, Optim(lr=1e-3), **settings).eval()
    return task, load_tokenizer(folder)


@pytest.mark.parametrize(
    ("keep", "words"),
    [("head", WORDS[:10]), ("tail", WORDS[20:30]), ("head+tail", WORDS[:5] + WORDS[25:30])],
)
def test_the_part_that_is_asked_for_stays(tiny_encoder: Callable[..., Path], keep: Any, words: list[str]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("bert"))
    tokens = tokenise(tokenizer, TEXTS, None, LIMIT, keep=keep)
    assert tokens.input_ids[: tokens.offsets[1]].tolist() == tokenizer(" ".join(words)).input_ids
    assert (tokens.full_lengths.tolist(), tokens.cut) == ([32, 3, 16, 32], 3)


def test_windows_share_words_and_reach_both_ends(tiny_encoder: Callable[..., Path]) -> None:
    tokenizer = load_tokenizer(tiny_encoder("bert"))
    tokens, starts = tokenise_windows(tokenizer, TEXTS, LIMIT, overlap=3)
    assert starts.tolist() == [0, 4, 5, 7, 11]  # 10 words, then 7 new ones a window
    pieces = [tokens.input_ids[a:b].tolist() for a, b in zip(tokens.offsets[:-1], tokens.offsets[1:], strict=True)]
    ids = tokenizer(LONG, add_special_tokens=False).input_ids
    assert [piece[1:-1] for piece in pieces[:4]] == [ids[at : at + 10] for at in (0, 6, 13, 20)]
    assert pieces[4] == tokenizer("good").input_ids
    with pytest.raises(ConfigError, match=r"task.overlap=10: allowed is 0 to 9"):
        tokenise_windows(tokenizer, TEXTS, LIMIT, overlap=10)


def test_windows_are_cached_with_their_texts(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_encoder("bert"))
    first = tokenise_windows(tokenizer, TEXTS, LIMIT, 3, tmp_path)
    again = tokenise_windows(tokenizer, TEXTS, LIMIT, 3, tmp_path)
    other = tokenise_windows(tokenizer, TEXTS, LIMIT, 5, tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 2
    assert first[1].tolist() == again[1].tolist() != other[1].tolist()
    assert first[0].input_ids.tolist() == again[0].input_ids.tolist()


@pytest.mark.parametrize("merging", ["mean", "max", "attention"])
def test_windows_answer_together(tiny_encoder: Callable[..., Path], merging: Any) -> None:
    task, tokenizer = fitted(tiny_encoder("bert"), long="window", overlap=3, merging=merging)
    if task.attention is not None:
        torch.nn.init.normal_(task.attention.weight)
    examples = task.schema.examples(table(), tokenizer)
    assert isinstance(examples, WindowExamples)
    assert (examples.in_windows, examples.lengths.tolist()) == (3, [48, 3, 24, 48])
    batch = examples.collate([2, 0, 1])
    assert batch.cu_windows.tolist() == [0, 2, 6, 7]
    with torch.no_grad():
        each, merged = task(batch.packed), task.outputs(batch)
    logits = each[2:6, :-1] if task.attention is not None else each[2:6]
    weight = torch.softmax(each[2:6, -1:], 0) if merging == "attention" else torch.full((4, 1), 0.25)
    expected = logits.max(0).values if merging == "max" else (logits * weight).sum(0)
    assert torch.allclose(merged[1], expected, atol=1e-6)
    assert torch.allclose(merged[2], each[6, : merged.shape[1]], atol=1e-6)
    alone = torch.cat([task.outputs(examples.collate([i])).detach() for i in (2, 0, 1)])
    assert torch.allclose(merged, alone, atol=1e-5)
    loss = task.train().loss_sum(task.outputs(batch), batch)
    loss.backward()
    assert all(p.grad is not None for p in ([] if task.attention is None else task.attention.parameters()))


def test_a_training_may_read_some_windows_an_epoch_in_turn(tiny_encoder: Callable[..., Path]) -> None:
    task, tokenizer = fitted(tiny_encoder("bert"), long="window", overlap=3, windows=3)
    every = WindowExamples(*tokenise_windows(tokenizer, TEXTS, LIMIT, 3), "mean")
    examples = task.schema.examples(table(), tokenizer)
    assert examples.lengths.tolist() == [36, 3, 24, 36]
    assert task.schema.examples(table(), tokenizer, "evaluate").lengths.tolist() == every.lengths.tolist()
    whole = every.collate([0]).packed.input_ids.view(4, LIMIT)
    seen = []
    for epoch in range(4):
        examples.set_epoch(epoch)
        batch = examples.collate([1, 0, 2])
        assert batch.cu_windows.tolist() == [0, 1, 4, 6]
        shown = batch.packed.input_ids[3 : 3 + 36].view(3, LIMIT)
        seen += [next(i for i in range(4) if torch.equal(whole[i], row)) for row in shown]
    assert seen == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]
    examples.set_epoch(0)
    assert torch.equal(examples.collate([3]).packed.input_ids[:LIMIT], whole[3])  # not all texts begin with their first
    for wrong in (0, 1.5, True):
        with pytest.raises(ConfigError, match=r"task.windows=.*: allowed is null, or a whole number from 1"):
            fitted(tiny_encoder("bert"), long="window", windows=wrong)
    with pytest.raises(ConfigError, match=r"task.windows=2 is for texts in windows: set task.long=window"):
        fitted(tiny_encoder("bert"), windows=2)
    with pytest.raises(ConfigError, match=r"task.windows=1 leaves task.merging=attention nothing to weigh"):
        fitted(tiny_encoder("bert"), long="window", merging="attention", windows=1)


def test_learned_weights_are_saved_and_trained(tiny_encoder: Callable[..., Path]) -> None:
    task, _ = fitted(tiny_encoder("bert"), long="window", merging="attention")
    assert not task.attention.weight.any()
    torch.nn.init.normal_(task.attention.weight)
    other, _ = fitted(tiny_encoder("bert"), long="window", merging="attention")
    other.restore(task.fitted())
    assert torch.equal(task.attention.weight, other.attention.weight)
    grouped = {id(p) for group in task.parameter_groups(task.optim) for p in group["params"]}
    assert grouped == {id(p) for p in task.parameters()}
    assert not any("attention.weight" in name and "self" not in name for name in task.to_hf())


def test_long_texts_can_be_refused(tiny_encoder: Callable[..., Path]) -> None:
    task, tokenizer = fitted(tiny_encoder("bert"), long="error")
    report = Report()
    task.schema.check_lengths(report, table(), task.schema.examples(table(), tokenizer))
    found = [(problem.code, problem.row, problem.what) for problem in report.errors]
    sizes = {2: 32, 4: 16, 5: 32}
    assert found == [("text-too-long", row, f"has {size} tokens, allowed are 12") for row, size in sizes.items()]
    with pytest.raises(DataError, match=r"long.csv row 2 has 32 tokens.*task.long=error"):
        task.schema.examples(table(), tokenizer, "predict")


def test_what_does_not_fit_pairs_is_refused() -> None:
    rows = Table("x", {"text": ["a"] * 4, "text_pair": ["b"] * 4, "label": ["c", "d"] * 2}, [2, 3, 4, 5], [])
    columns = {"text": "text", "text_pair": "text_pair", "label": "label"}
    with pytest.raises(ConfigError, match=r"task.long=window is for single texts"):
        ClassificationSchema.fit(rows, columns, {"long": "window"}, 64)
    with pytest.raises(ConfigError, match=r"task.long=middle: allowed is head, tail, head\+tail, window, error"):
        ClassificationSchema.fit(rows, columns, {"long": "middle"}, 64)


def test_a_saved_schema_keeps_the_choice() -> None:
    schema = ClassificationSchema.fit(table(), {"text": "text", "label": "label"}, {"long": "window"}, 100)
    again = ClassificationSchema.from_json(schema.to_json())
    assert (again.long, again.overlap, again.merging) == ("window", 25, "mean")
    assert again == schema
