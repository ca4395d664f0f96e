"""`modernbert predict heads=[…]`: many heads over one encoder, each answering as its own run does."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from app.cli import main
from modernbert import load_encoder
from modernbert.packing import pack
from modernbert.weights import Encoder
from tasks.classification import Classification
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.data.tokenise import load_tokenizer
from tasks.export.head import write_head
from tasks.export.heads import Heads, merged
from tasks.ner import Ner
from tasks.ner_schema import NerSchema
from tasks.run import Run, copy_tokenizer, save_run
from tasks.text_schema import ClassificationSchema

TEXTS = ["where is my parcel", "refund my money again please", "the map app closes", "shoes", "good parcel",
         "where is my order " * 12]  # fmt: skip


def save(folder: Path, base: Path, task: Any, settings: dict[str, Any]) -> Run:
    """A saved run with its head exported in it; weights of the head so large that rows get different answers."""
    with torch.no_grad():
        for value in task.head.parameters():
            value.normal_(std=0.5)
        table = Table("rows", dict.fromkeys(task.schema.text_columns(), TEXTS), list(range(6)), [])
        logits = task(task.schema.examples(table, load_tokenizer(base), "predict").collate(range(6)).packed)
        logits = logits[:, : len(task.head.classifier.bias)]
        task.head.classifier.bias.sub_(logits.mean(0))  # texts of a random encoder are else all of one label
    save_run(folder, task, base, settings, {"encoder": {"source": str(base), "revision": None}})
    run = Run.load(folder, "cpu")
    head = folder / "export" / "head"
    head.mkdir(parents=True)
    copy_tokenizer(folder / "model", head, run.schema.max_length)
    (head / "task.json").write_bytes((folder / "task.json").read_bytes())
    write_head(run, head)
    return run


def classifier(folder: Path, base: Path, labels: str, limit: int = 32, column: str = "text", **settings: Any) -> Run:
    rows = Table("rows", {column: TEXTS, "label": list(labels)}, list(range(6)), [])
    schema = ClassificationSchema.fit(rows, {"text": column, "label": "label"}, settings, limit)
    return save(folder, base, Classification(load_encoder(base), schema, **settings), settings)


def entities(folder: Path, base: Path) -> Run:
    source = folder.with_name("rows.jsonl")
    lines = [{"text": text, "entities": [[0, 4, "THING"]] if text[4:5] == " " else []} for text in TEXTS]
    source.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    report = Report()
    schema = NerSchema.fit(NerSchema.read(str(source), {}, report, {}), {"text": "text"}, {}, 32)
    return save(folder, base, Ner(load_encoder(base), schema), {})


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_encoder: Callable[..., Path]) -> dict[str, Run]:
    """A classifier of the first token, one of windows, and one of words: all on one encoder."""
    folder, base = tmp_path_factory.mktemp("heads"), tiny_encoder("modernbert")
    return {
        "team": classifier(folder / "team", base, "ababab"),
        "mood": classifier(folder / "mood", base, "xyzxyz", pooling="mean", long="window", overlap=8),
        "things": entities(folder / "things", base),
    }


def folders(runs: dict[str, Run]) -> list[str]:
    return [str(run.folder / "export" / "head") for run in runs.values()]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_three_heads_answer_as_their_runs_do(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    encoder = type(runs["team"].task.encoder)
    forward = encoder.forward

    def counted(self: Encoder, packed: Any, *args: Any, **named: Any) -> Any:
        passes.append(packed.batch_size)
        return forward(self, packed, *args, **named)

    monkeypatch.setattr(encoder, "forward", counted)
    rows = [*TEXTS, ""]
    (tmp_path / "new.csv").write_text("id,text\n" + "".join(f"{i},{t}\n" for i, t in enumerate(rows)), encoding="utf-8")
    words = [f"heads=[{','.join(folders(runs))}]", f"input={tmp_path / 'new.csv'}", f"output={tmp_path / 'out.csv'}"]
    assert main(["predict", *words, "device=cpu", "threads=1"]) == 0
    said = capsys.readouterr()
    # Five short texts are one sequence for all three; of the long one the first head reads the beginning alone, which
    # is the first window of the two others.
    windows = examples(runs["mood"]).collate([5]).packed.batch_size
    assert windows > 1
    assert passes == [5 + windows]
    assert f"3 heads read {6 + 2 * (5 + windows)} sequences; {5 + windows} different ones passed" in said.err
    assert "1 rows of" in said.err
    found = read(tmp_path / "out.csv")
    assert [row["id"] for row in found] == [str(i) for i in range(7)]
    assert found[6]["team_prediction"] == found[6]["mood_prediction"] == ""
    for name in ("team", "mood"):
        for row, answer in zip(found, runs[name].answer(TEXTS), strict=False):
            assert row[f"{name}_prediction"] == answer.labels[0]
            assert float(row[f"{name}_confidence"]) == pytest.approx(max(answer.scores.values()), abs=1e-5)
    assert len({row["team_prediction"] for row in found[:6]}) == 2
    for row, spans in zip(found, runs["things"].answer(TEXTS), strict=False):
        assert [(s["start"], s["end"]) for s in json.loads(row["things_entities"])] == [(s.start, s.end) for s in spans]
    assert [row["cut"] for row in found] == ["False"] * 5 + ["True", ""]


def examples(run: Run) -> Any:
    return run.schema.examples(Table("new", {"text": TEXTS}, list(range(6)), []), run.tokenizer, "predict")


def test_first_tokens_alone_skip_the_last_layer(
    tmp_path: Path, tiny_encoder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base = tiny_encoder("bert")
    made = {name: classifier(tmp_path / name, base, labels) for name, labels in (("a", "ababab"), ("b", "xyzxyz"))}
    heads = Heads.load(folders(made), device="cpu")
    asked: list[bool] = []
    encoder = type(heads.shared.encoder)
    forward = encoder.forward

    def seen(self: Encoder, packed: Any, rows: Any = None) -> Any:
        asked.append(rows is not None)
        return forward(self, packed, rows)

    monkeypatch.setattr(encoder, "forward", seen)
    found = heads.outputs(Table("new", {"text": TEXTS}, list(range(6)), []))
    assert asked == [True]
    for number, run in enumerate(made.values()):
        for answers, answer in zip(found, run.answer(TEXTS), strict=True):
            assert answers is not None
            assert answers[number].scores == pytest.approx(answer.scores, abs=1e-5)


def test_columns_of_their_own(tmp_path: Path, tiny_encoder: Callable[..., Path]) -> None:
    base = tiny_encoder("bert")
    made = {"a": classifier(tmp_path / "a", base, "ababab", column="title")}
    made["b"] = classifier(tmp_path / "b", base, "xyzxyz")
    heads = Heads.load(folders(made), device="cpu")
    table = Table("new", {"title": [*TEXTS[:3], None], "text": [None, *TEXTS[3:5], None]}, [1, 2, 3, 4], [])
    found = heads.outputs(table)
    assert [None if pair is None else [part is not None for part in pair] for pair in found] == [
        [True, False], [True, True], [True, True], None,
    ]  # fmt: skip
    assert found[1][1].labels == made["b"].answer([TEXTS[3]])[0].labels  # type: ignore[index]


def test_merging_packs() -> None:
    first, second = pack([[5, 6], [7]]), pack([[7], [5, 6, 8]])
    union, places = merged([first, second])
    assert union.input_ids.tolist() == [5, 6, 7, 5, 6, 8]
    assert union.cu_seqlens.tolist() == [0, 2, 3, 6]
    assert [place.tolist() for place in places] == [[0, 1, 2], [2, 3, 4, 5]]
    assert union.token_type_ids is None
    pair = pack([[5, 6]], [[0, 1]])
    assert merged([first, pair])[0].token_type_ids.tolist() == [0, 0, 0, 0, 1]  # type: ignore[union-attr]


def test_another_encoder_is_refused(
    runs: dict[str, Run], tmp_path: Path, tiny_encoder: Callable[..., Path], capsys: pytest.CaptureFixture
) -> None:
    moved = load_encoder(runs["team"].folder / "model")
    with torch.no_grad():
        next(moved.parameters())[0, 0] += 1e-6
    rows = Table("rows", {"text": TEXTS, "label": list("ababab")}, list(range(6)), [])
    schema = ClassificationSchema.fit(rows, {"text": "text", "label": "label"}, {}, 32)
    other = save(tmp_path / "other", tiny_encoder("modernbert"), Classification(moved, schema), {})
    both = {"team": runs["team"], "other": other}
    words = [f"heads=[{','.join(folders(both))}]", "input=new.csv", f"output={tmp_path / 'out.csv'}"]
    assert main(["predict", *words]) == 2
    assert "trained on an encoder with SHA-256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give run=<folder of a saved run>, or heads=[a,b]"),
        (["run={team}", "heads=[{team}/export/head]"], "give run=<folder of a saved run>, or heads=[a,b]"),
        (["run={team}", "encoder.source=minilm"], "encoder.source= is the one under heads"),
        (["heads=[{team}]"], "has no head.json"),
        (["heads=[{team}/export/head,{team}/export/head]"], "two are named team"),
    ],
)
def test_mistakes(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    given = [word.format(team=runs["team"].folder) for word in words]
    assert main(["predict", *given, "input=new.csv", f"output={tmp_path / 'out.csv'}"]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
