"""Named entities: heads as transformers has them, losses, reading by the scheme, windows, tables for a person."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForTokenClassification

from modernbert import weights
from modernbert.errors import ConfigError
from modernbert.packing import unpack
from tasks.answers import Span
from tasks.data.entities import TagSet
from tasks.data.readers import Table
from tasks.data.tokenise import load_tokenizer
from tasks.losses import weigh_classes
from tasks.metrics import WorstErrors
from tasks.ner import CRF_RATE, Ner
from tasks.ner_schema import NerSchema
from tasks.optim import Optim

TEXTS = ["where is my order", "the parcel of the courier has not come", "good bad fine", "please send shoes back again"]
ENTITIES = [[(12, 17, "THING")], [(4, 10, "THING"), (14, 25, "MAN")], [], [(12, 17, "THING")]]
LONG = " ".join(["the courier left it with a neighbour again please refund money"] * 6)  # 66 words


def table(texts: list[str] = TEXTS, entities: list[Any] = ENTITIES) -> Table:
    return Table("rows.jsonl", {"text": list(texts), "entities": list(entities)}, list(range(1, len(texts) + 1)))


def ner(folder: Path, max_length: int = 64, overlap: int = 8, **settings: Any) -> tuple[Ner, Any]:
    """A task with random weights, in evaluation mode, and its tokenizer."""
    read = {key: settings[key] for key in ("scheme", "subwords") if key in settings}
    schema = NerSchema.fit(table(), {"text": "text"}, read | {"overlap": overlap}, max_length)
    torch.manual_seed(3)
    task = Ner(weights.load_encoder(folder), schema, Optim(lr=1e-4), **settings).eval()
    torch.nn.init.normal_(task.head.classifier.weight, std=0.8)  # decided tags, also forbidden ones
    return task, load_tokenizer(folder)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_head_is_that_of_transformers(tmp_path: Path, tiny_encoder: Callable[..., Path], family: str) -> None:
    task, tokenizer = ner(tiny_encoder(family))
    weights.save_checkpoint(tmp_path / "model", task.to_hf(), task.hf_config())
    oracle, report = AutoModelForTokenClassification.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert oracle.config.id2label == dict(enumerate(TagSet(("MAN", "THING")).names))
    batch = task.schema.examples(table(), tokenizer).collate([0, 1, 2, 3])
    with torch.no_grad():
        ours = unpack(task(batch.packed), batch.packed)
        for text, logits in zip(TEXTS, ours, strict=True):
            assert torch.allclose(logits, oracle(**tokenizer(text, return_tensors="pt")).logits[0], atol=1e-5)


def test_targets_are_the_tags_of_first_subwords(tiny_encoder: Callable[..., Path]) -> None:
    task, tokenizer = ner(tiny_encoder("bert"))
    batch = task.schema.examples(table(), tokenizer).collate([1, 0])
    assert [task.tags.names[i] for i in batch.targets] == [
        "O", "B-THING", "O", "B-MAN", "I-MAN", "O", "O", "O", "O", "O", "O", "B-THING",
    ]  # fmt: skip
    assert batch.cu_units.tolist() == [0, 8, 12]
    assert task.units(batch) == 12
    assert task.schema.counts == {"O": 20 - 5, "MAN": 2, "THING": 3}


def test_loss_is_summed_over_words_and_weighed_by_label(tiny_encoder: Callable[..., Path]) -> None:
    plain, tokenizer = ner(tiny_encoder("bert"))
    weighed, _ = ner(tiny_encoder("bert"), class_weights={"O": 0.5, "MAN": 3.0, "THING": 2.0})
    focal, _ = ner(tiny_encoder("bert"), loss="focal", focal_gamma=0.0)
    batch = plain.schema.examples(table(), tokenizer).collate([0, 1, 2, 3])
    with torch.no_grad():
        outputs = plain.outputs(batch)
        logits = torch.cat([one[1:-1] for one in unpack(plain(batch.packed), batch.packed)])  # without [CLS] and [SEP]
        expected = F.cross_entropy(logits, batch.targets, reduction="sum")
        assert float(plain.loss_sum(outputs, batch)) == pytest.approx(float(expected), rel=1e-6)
        assert float(focal.loss_sum(outputs, batch)) == pytest.approx(float(expected), rel=1e-5)
        by_tag = torch.tensor([0.5, 3.0, 3.0, 2.0, 2.0])
        each = F.cross_entropy(logits, batch.targets, weight=by_tag, reduction="sum")
        assert float(weighed.loss_sum(outputs, batch)) == pytest.approx(float(each), rel=1e-6)
        assert weighed.units(batch) == 15 * 0.5 + 2 * 3.0 + 3 * 2.0
    assert weigh_classes("balanced", {"O": 6, "A": 2}).tolist() == pytest.approx([8 / 12, 2.0])


@pytest.mark.parametrize("scheme", ["BIO", "BIOES"])
@pytest.mark.parametrize("head", ["linear", "crf"])
def test_forbidden_transitions_are_never_read(tiny_encoder: Callable[..., Path], head: str, scheme: str) -> None:
    task, tokenizer = ner(tiny_encoder("modernbert"), head=head, scheme=scheme)
    batch = task.schema.examples(table(), tokenizer).collate([0, 1, 2, 3])
    allowed = task.tags.transitions()
    best_invalid = 0
    for seed in range(20):
        logits = 3 * torch.randn(len(batch.heads), len(task.tags.names), generator=torch.Generator().manual_seed(seed))
        best_invalid += task.breaks_rules(logits.argmax(1), batch.cu_units)
        tags = task.best_tags(logits, batch.cu_units).tolist()
        for low, high in pairwise(batch.cu_units.tolist()):
            path = [-1, *tags[low:high], -1]  # the last row and column are start and end
            assert all(allowed[a, b] for a, b in pairwise(path))
    assert best_invalid > 10


def test_what_is_valid_is_read_as_it_is(tiny_encoder: Callable[..., Path]) -> None:
    task, tokenizer = ner(tiny_encoder("bert"))
    batch = task.schema.examples(table(), tokenizer).collate([0, 1, 2, 3])
    logits = 5 * F.one_hot(batch.targets, len(task.tags.names)).float()
    found = task.decode(logits, batch, [False] * 4)
    assert [[(span.start, span.end, span.label) for span in spans] for spans in found] == ENTITIES
    chance = float(torch.softmax(logits[0], 0).max())
    assert found[1][1] == Span(14, 25, "MAN", "the courier", pytest.approx(chance))
    report, worst = task.new_report("test"), WorstErrors()
    task.measure(report, worst, logits, batch)
    assert (report.compute()["f1"], report.compute()["token_accuracy"], worst.rows()) == (1.0, 1.0, [])


def test_windows_see_each_word_and_lose_none(tiny_encoder: Callable[..., Path]) -> None:
    texts, entities = [LONG, TEXTS[0]], [[(4, 11, "MAN")], ENTITIES[0]]
    task, tokenizer = ner(tiny_encoder("bert"), max_length=20)
    examples = task.schema.examples(table(texts, entities), tokenizer)
    batch = examples.collate([0, 1])
    assert (examples.in_windows, int(batch.packed.lengths.max()), len(batch.heads)) == (1, 20, 66 + 4)
    assert examples.lengths.tolist() == [int(batch.packed.lengths[:-1].sum()), 6]
    assert not examples.cut.any()
    assert len(batch.unit_tokens) > len(batch.heads)
    # Every word stands where its token is, in each of its windows.
    words = torch.tensor(tokenizer(" ".join(texts), add_special_tokens=False).input_ids)
    assert torch.equal(batch.packed.input_ids[batch.unit_tokens], words[batch.unit_of])
    logits = torch.randn(batch.packed.num_tokens, 5)
    merged = batch.merge(logits)
    for unit in (0, 12, 15, 40, 65):
        seen = (batch.unit_of == unit).nonzero().squeeze(1)
        share = batch.weight[seen] / batch.weight[seen].sum()
        assert torch.allclose(merged[unit], (share[:, None] * logits[batch.unit_tokens[seen]]).sum(0), atol=1e-6)
    assert int(batch.weight.min()) == 1
    assert task.loss_sum(merged, batch).isfinite()


def test_the_last_layer_sees_only_what_carries_a_tag(tiny_encoder: Callable[..., Path]) -> None:
    task, tokenizer = ner(tiny_encoder("bert"), max_length=20)
    batch = task.schema.examples(table([LONG, TEXTS[0]], [[(4, 11, "MAN")], ENTITIES[0]]), tokenizer).collate([0, 1])
    seen: list[int] = []
    for layer in task.encoder.layers:
        layer.mlp_in.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    with torch.no_grad():
        task.eval()
        torch.testing.assert_close(task.outputs(batch), batch.merge(task(batch.packed)))
    assert seen == [batch.packed.num_tokens, len(batch.unit_tokens), *[batch.packed.num_tokens] * 2]


def test_every_subword_can_learn_and_the_first_decides(shared: Path) -> None:
    folder = weights.resolve("minilm")
    tokenizer = load_tokenizer(folder)
    rows = table(["Aldervik lies north", "Hanna Virtanen signed"], [[(0, 8, "PLACE")], [(0, 14, "PERSON")]])
    first = NerSchema.fit(rows, {"text": "text"}, {}, 32)
    every = NerSchema.fit(rows, {"text": "text"}, {"subwords": "all"}, 32)
    one, all_ = (schema.examples(rows, tokenizer).collate([0, 1]) for schema in (first, every))
    assert len(one.heads) == 6
    assert len(all_.heads) > 6
    assert torch.equal(all_.targets[all_.heads], one.targets)
    inside = [first.tags.names[i] for i in all_.targets[~all_.heads]]
    assert set(inside) <= {"I-PLACE", "I-PERSON", "O"}
    assert "I-PLACE" in inside
    assert torch.equal(all_.words()[0], one.words()[0])
    assert torch.equal(all_.words()[1], one.words()[1])


def test_crf_is_saved_in_task_json_and_learns_faster(tiny_encoder: Callable[..., Path]) -> None:
    task, tokenizer = ner(tiny_encoder("bert"), head="crf")
    torch.nn.init.normal_(task.crf.transitions)
    assert not any("crf" in name for name in task.to_hf())
    again, _ = ner(tiny_encoder("bert"), head="crf")
    again.restore(task.fitted())
    assert all(torch.equal(a, b) for a, b in zip(task.crf.parameters(), again.crf.parameters(), strict=True))
    groups = task.parameter_groups(task.optim)
    assert groups[-1]["lr"] == CRF_RATE * task.optim.lr
    assert {id(p) for group in groups for p in group["params"]} == {id(p) for p in task.parameters()}
    batch = task.schema.examples(table(), tokenizer).collate([0, 1, 2, 3])
    with torch.no_grad():
        outputs = task.outputs(batch)
    each = task.loss_sum(outputs, batch, reduce=False)
    assert (each.shape, float(each.sum())) == ((4,), pytest.approx(float(task.loss_sum(outputs, batch))))


def test_errors_are_listed_in_context_the_surest_first(tiny_encoder: Callable[..., Path]) -> None:
    task, tokenizer = ner(tiny_encoder("bert"))
    batch = task.schema.examples(table(), tokenizer).collate([0, 1, 2, 3])
    wrong = batch.targets.clone()
    names = task.tags.ids
    wrong[3] = names["O"]  # "order" is missed
    wrong[5] = names["B-MAN"]  # "parcel" gets another type
    wrong[8] = names["O"]  # "the" in place of "the courier"
    wrong[12] = names["B-THING"]  # "good" is invented
    outputs = F.one_hot(wrong, len(names)) * (5 + 0.1 * torch.arange(len(wrong)))[:, None]  # surer with each word
    report, worst = task.new_report("test"), WorstErrors()
    task.measure(report, worst, outputs, batch)
    columns = task.error_columns(worst.rows(), table().select([error["index"] for error in worst.rows()]))
    listed = list(zip(columns["row"], columns["error"], columns["right"], columns["predicted"], strict=True))
    assert sorted(listed) == [
        (1, "missed", "order (THING)", ""),
        (2, "wrong boundary", "the courier (MAN)", "the (MAN)"),
        (2, "wrong type", "parcel (THING)", "parcel (MAN)"),
        (3, "spurious", "", "good (THING)"),
    ]
    assert columns["sure"] == sorted(columns["sure"], reverse=True)
    assert columns["context"][listed.index((1, "missed", "order (THING)", ""))] == "where is my [order]"
    shown = task.readable(table(), task.decode(outputs, batch, [False] * 4))
    assert (shown["right"][1], shown["predicted"][1]) == (
        "parcel (THING); the courier (MAN)",
        "parcel (MAN); the (MAN)",
    )
    assert shown["equal"] == [False, False, False, True]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "lstm"}, "task.head=lstm: allowed is linear or crf"),
        ({"head": "crf", "loss": "focal"}, "task.loss=focal: allowed is cross_entropy with task.head=crf"),
        ({"head": "crf", "label_smoothing": 0.1}, "task.label_smoothing=0.1: allowed is 0 with task.head=crf"),
        ({"head": "crf", "class_weights": "balanced"}, "task.class_weights=balanced: allowed is null"),
        ({"class_weights": {"O": 1.0, "MAN": 2.0}}, "Missing: ['THING']"),
        ({"loss": "hinge"}, "task.loss=hinge"),
        ({"scheme": "IOB1"}, "task.scheme=IOB1"),
        ({"subwords": "some"}, "task.subwords=some: allowed is first or all"),
        ({"subwords": "all", "scheme": "BIOES"}, "allowed is BIO"),
    ],
)
def test_settings_are_refused_in_one_line(
    tiny_encoder: Callable[..., Path], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        ner(tiny_encoder("bert"), **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_schema_survives_json() -> None:
    schema = NerSchema.fit(table(), {"text": "text"}, {}, 64)
    assert NerSchema.from_json(schema.to_json()) == schema
    assert (schema.overlap, schema.describe()) == (16, "named entities of 2 types")
    assert np.array_equal(schema.tags.transitions(), NerSchema.from_json(schema.to_json()).tags.transitions())
