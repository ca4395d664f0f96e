"""Integrated gradients: they sum to what they explain, a linear model by hand, every way of cutting a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from modernbert import weights
from modernbert.errors import ConfigError
from tasks.attribution import Attribution, attribute, attributed_outputs, neutral_token
from tasks.classification import Classification, ClassificationSchema
from tasks.data.readers import Table
from tasks.run import Run, save_run

TEXT = "the courier left my parcel with a neighbour, again! please refund the money: where is the order?"
MAX_LENGTH = 16  # cuts TEXT


def make_run(
    folder: Path, encoder: Path, kind: str = "multiclass", pair: bool = False, **settings: Any
) -> Run:
    labels = {"multilabel": ["a;b", "b", "c"], "ordinal": ["1", "2", "3"], "regression": ["1.5", "2.5", "4"]}
    cells = labels.get(kind, ["a", "b", "c"])
    columns: dict[str, list[Any]] = {"text": ["my parcel", "good money", "bad map"], "label": cells}
    roles = {"text": "text", "label": "label"}
    if pair:
        columns["other"], roles["text_pair"] = ["good", "bad", "fine"], "other"
    settings = {"kind": kind} | settings
    schema = ClassificationSchema.fit(Table("rows.csv", columns, [2, 3, 4]), roles, settings, MAX_LENGTH)
    torch.manual_seed(1)
    task = Classification(weights.load_encoder(encoder), schema, **settings).eval()
    for parameter in task.parameters():  # at the usual 0.02 a model is nearly linear
        if parameter.dim() == 2:
            torch.nn.init.normal_(parameter, std=0.2)
    save_run(folder, task, encoder, settings, {"encoder": {"source": "tiny"}})
    return Run.load(folder, "cpu")


def require_complete(found: Attribution) -> None:
    difference = found.value - found.baseline
    assert max(abs(word.score) for word in found.words) > 0.02, "a model that looks at nothing explains nothing"
    assert sum(word.score for word in found.words) == pytest.approx(difference, abs=max(1e-3, 0.01 * abs(difference)))
    assert abs(found.gap) == pytest.approx(abs(difference - sum(w.score for w in found.words)), abs=1e-6)


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_the_words_sum_to_the_difference(family: str, tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_encoder(family))
    assert attributed_outputs(run) == ["a", "b", "c"]
    for name in "abc":
        found = attribute(run, ["where is my parcel?"], name)
        require_complete(found)
        spoken = ["where is my parcel?"[word.start : word.end] for word in found.words]
        assert spoken == ["where", "is", "my", "parcel", "?"]


def test_value_and_baseline_are_the_models_own(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_encoder("bert"))
    found = [attribute(run, ["my parcel"], name) for name in "abc"]
    right = run.answer(["my parcel", "[UNK] [UNK]"])
    for at, key in enumerate(("value", "baseline")):
        shares = torch.softmax(torch.tensor([getattr(one, key) for one in found]), 0).tolist()
        assert shares == pytest.approx(list(right[at].scores.values()), abs=1e-5)


@pytest.mark.parametrize("kind", ["multilabel", "ordinal", "regression"])
def test_other_kinds_of_labels(kind: str, tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_encoder("modernbert"), kind)
    names = attributed_outputs(run)
    assert names == {"multilabel": ["a", "b", "c"], "ordinal": ["above 1"], "regression": ["value"]}[kind]
    require_complete(attribute(run, ["please refund the money"], names[0]))


def test_of_a_pair_each_text_has_its_words(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    texts = [TEXT, "the money"]
    for family in ("bert", "roberta"):
        run = make_run(tmp_path / family, tiny_encoder(family), pair=True)
        found = attribute(run, texts, "b")
        require_complete(found)
        spoken = [(word.text, texts[word.text][word.start : word.end]) for word in found.words]
        assert spoken[-2:] == [(1, "the"), (1, "money")]
        assert spoken[:3] == [(0, "the"), (0, "courier"), (0, "left")]
        assert len(spoken) == MAX_LENGTH - {"bert": 3, "roberta": 3}[family]


@pytest.mark.parametrize("long", ["head", "tail", "head+tail", "window"])
def test_only_what_was_read_is_weighed(long: str, tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_encoder("bert"), long=long, **({"overlap": 4} if long == "window" else {}))
    words = [TEXT[slice(*place)] for place in run.tokenizer.backend_tokenizer.encode(TEXT).offsets[1:-1]]
    room = MAX_LENGTH - 2
    expected = {
        "head": words[:room], "tail": words[-room:], "head+tail": words[: room // 2] + words[-room // 2 :],
        "window": words,
    }[long]  # fmt: skip
    found = attribute(run, [TEXT], "c")
    require_complete(found)
    assert [TEXT[word.start : word.end] for word in found.words] == expected


def test_a_linear_model_by_hand(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    """Where the output is a sum over word vectors, each word adds its own product with the weights."""
    run = make_run(tmp_path / "run", tiny_encoder("bert"))
    task, direction = run.task, torch.randn(32)

    def outputs(self: Any, batch: Any) -> torch.Tensor:
        vectors = self.encoder.embeddings.word_embeddings(batch.packed.input_ids) @ direction
        sums = torch.stack([part.sum() for part in vectors.split(batch.packed.lengths.tolist())])
        return torch.stack([sums, 0 * sums, -sums], dim=1)

    task.__class__ = type("Linear", (Classification,), {"outputs": outputs})
    table = task.encoder.embeddings.word_embeddings.weight.detach()
    found = attribute(run, ["my parcel"], "a")
    neutral = table[neutral_token(run.tokenizer)] @ direction
    ids = run.tokenizer("my parcel", add_special_tokens=False)["input_ids"]
    expected = [float(table[i] @ direction - neutral) for i in ids]
    assert [word.score for word in found.words] == pytest.approx(expected, abs=1e-4)


def test_the_task_itself_stays_as_it_is(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_encoder("modernbert"))
    before = run.answer([TEXT])
    attribute(run, [TEXT], "a")
    assert run.answer([TEXT]) == before
    assert all(parameter.grad is None for parameter in run.task.parameters())


def test_no_such_output(tiny_encoder: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", tiny_encoder("bert"))
    with pytest.raises(ConfigError, match=r"'d' is no output of run=.*there are a, b, c"):
        attribute(run, [TEXT], "d")
