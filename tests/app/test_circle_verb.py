"""`modernbert circle`: stages that are done once, and both recipes as a person runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from safetensors.torch import load_file, save_file
from search_runs import write_csv

from app.circle.distil import as_rows
from app.circle.scores import logits
from app.circle.stages import Stages, Unfinished, fingerprint
from app.circle.teacher import held_out, reciprocal
from app.circle.workshop import flat, word
from app.cli import main
from app.compose import compose
from app.mine import read_rows
from tasks.data.ranking.rows import RankingTable
from tasks.run import Run
from tasks.search.mine import Candidate, Mined
from tasks.search.rerank import pair_scores

pytest_plugins = "search_runs"

FAST = ["device=cpu", *(f"{task}.trainer.max_epochs=1" for task in ("retrieval", "reranking"))]
FAST += [f"{task}.optim.{key}" for task in ("retrieval", "reranking") for key in ("lr=1e-3", "batch_size=8")]
#: Whether a teacher of a few rows is better than the retriever must not hang on what dropout draws.
STEADY = ["reranking.encoder.dropout=0", "reranking.task.head_dropout=0"]


def said(capsys: pytest.CaptureFixture) -> str:
    found = capsys.readouterr()
    return " ".join((found.out + found.err).split())


def files(folder: Path) -> list[str]:
    questions = folder / "questions.csv"
    return [f"data.train={questions}", f"data.corpus={folder / 'docs.csv'}", f"data.test={questions}"]


class TestStages:
    def count(self, stages: Stages, settings: object, source: Path, name: str = "a.txt") -> int:
        """How often the work of a stage is done."""
        calls: list[Path] = []

        def work(place: Path) -> None:
            calls.append(place)
            place.write_text(source.read_text() + str(settings))

        stages.run(name, "copying", settings, [source], work)
        return len(calls)

    def test_is_done_once_and_again_when_something_changed(self, tmp_path: Path) -> None:
        source = tmp_path / "source.txt"
        source.write_text("one")
        assert self.count(Stages(tmp_path), 1, source) == 1
        assert self.count(Stages(tmp_path), 1, source) == 0
        assert self.count(Stages(tmp_path), 2, source) == 1
        source.write_text("two")
        assert self.count(Stages(tmp_path), 2, source) == 1
        (tmp_path / "a.txt").write_text("somebody was here")
        assert self.count(Stages(tmp_path), 2, source) == 1
        assert (tmp_path / "a.txt").read_text() == "two2"

    def test_what_an_interrupted_try_left_is_there_for_the_next_one_alone(self, tmp_path: Path) -> None:
        seen: list[bool] = []

        def stopped(place: Path) -> None:
            seen.append(place.exists())
            place.mkdir(exist_ok=True)
            raise Unfinished(75)

        for settings in (1, 1, 2):
            with pytest.raises(Unfinished):
                Stages(tmp_path).run("run", "training", settings, [], stopped)
        assert seen == [False, True, False]

    def test_a_split_counts_by_its_folder(self, tmp_path: Path) -> None:
        (tmp_path / "corpus.jsonl").write_text("{}")
        before = fingerprint(f"{tmp_path}:test")
        assert before != fingerprint(f"{tmp_path}:train")
        (tmp_path / "corpus.jsonl").write_text("{ }")
        assert fingerprint(f"{tmp_path}:test") != before
        assert fingerprint("hf:some/set") == "hf:some/set"


def test_words_are_read_back_as_they_were() -> None:
    given = {"task": "retrieval", "data.train": "a b/it's, {1}=x.csv", "seed": 3, "optim.lr": 5e-5}
    given |= {"task.matryoshka": [8, 16], "data.columns.negative": ["a b", "c"], "data.columns.query": None}
    cfg = compose("train", [word(key, value) for key, value in given.items()])
    assert cfg.data.train == given["data.train"]
    assert (cfg.seed, cfg.optim.lr, list(cfg.task.matryoshka)) == (3, 5e-5, [8, 16])
    assert list(cfg.data.columns.negative) == ["a b", "c"]
    assert cfg.data.columns.query is None
    assert dict(flat({"a": {"b": 1, "c": {"d": [2]}}, "e": None})) == {"a.b": 1, "a.c.d": [2], "e": None}


def test_rows_of_scored_pairs() -> None:
    columns = {"query_id": ["1", "2", "3"], "query": ["a", "b", "c"], "positive": ["A", "B", "C"]}
    table = RankingTable("rows", columns, [1, 2, 3], [])
    found = Mined(
        ["x", "y", ""],
        [
            [Candidate(0, 0, 1, 2.0), Candidate(0, 1, 2, 1.0)],
            [Candidate(1, 0, 1, 2.0), Candidate(1, 2, 2, float("-inf"))],
            [],
        ],
        [0.5, 0.5, 0.5],
    )
    rows = as_rows(table, found, labelled=1)
    # A label stays the positive, whatever the cross-encoder says; without one its best document is.
    assert rows["positive"] == ["A", "x"]
    assert rows["negatives"] == [["x", "y"], ["B"]]
    assert rows["scores"] == [[0.5, 2.0, 1.0], [2.0, 0.5]]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["recipe=both"], "distil, trans_encoder"),
        (["recipe=distil", "loss=mse"], "kl, margin_mse"),
        (["recipe=distil", "engine=google"], "model, bm25, both"),
        (["recipe=distil", "data.train=null"], "a cross-encoder needs labels"),
        (["recipe=distil", "retrieval.seed=1"], "the recipe gives this key"),
        (["recipe=distil", "retrieval.optim.learning=1"], "'optim.learning' is not a key"),
        (["recipe=distil", "device=tpu"], "auto, cpu, cuda"),
        (["recipe=trans_encoder", "rounds=0"], "rounds=0"),
        (["recipe=trans_encoder"], "data.corpus="),
        (["recipe=trans_encoder", "data.validation=a.csv"], "data.validation=a.csv: recipe=trans_encoder"),
    ],
)
def test_mistakes(
    given: list[str], message: str, corpus_folder: Path, zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["circle", *files(corpus_folder), zero_shot, f"run_dir={tmp_path / 'run'}", *given]) == 2
    assert message in said(capsys)


def test_of_a_beir_folder_the_judges_are_another_split_than_the_learned_ones(tmp_path: Path) -> None:
    texts = {"corpus": ("map", "app"), "queries": ("where", "what")}
    for name, found in texts.items():
        lines = [json.dumps({"_id": f"{name[0]}{i}", "text": text}) for i, text in enumerate(found)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "qrels").mkdir()
    for i, split in enumerate(("train", "dev")):
        rows = f"query-id\tcorpus-id\tscore\nq{i}\tc{i}\t1\n"
        (tmp_path / "qrels" / f"{split}.tsv").write_text(rows, encoding="utf-8")
    data = {"train": str(tmp_path), "validation": str(tmp_path), "columns": {}, "corpus": None}
    assert read_rows(data).columns["query"] == ["where"]
    assert read_rows(data, "validation").columns["query"] == ["what"]


def test_sentence_pairs_are_measured_with_scores(
    zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pairs = write_csv(tmp_path / "pairs.csv", ("sentence1", "sentence2"), ("where", "open"), ("map", "app"))
    words = [f"data.train={pairs}", f"data.test={pairs}", zero_shot, f"run_dir={tmp_path / 'run'}"]
    assert main(["circle", "recipe=trans_encoder", *words]) == 2
    assert "has no scores" in said(capsys)


def test_a_folder_of_something_else_is_left_alone(
    corpus_folder: Path, zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "thesis.txt").write_text("…")
    words = [*files(corpus_folder), zero_shot, f"run_dir={tmp_path}"]
    assert main(["circle", "recipe=distil", *words]) == 2
    assert "no circle" in said(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_place_of_the_positive() -> None:
    rows = [[3.0, 1.0, 2.0], [1.0, 1.0, 2.0], [0.5], [float("-inf"), 0.0]]
    assert reciprocal(rows).tolist() == pytest.approx([1, 1 / 3, 1, 1 / 2])
    names = [f"q{i // 2}" for i in range(400)]
    held = held_out(names, 0)
    assert (len(held), len(held_out(names[:80], 0)), len(held_out(names[:6], 0))) == (20, 10, 0)
    assert held == held_out(names, 0) != held_out(names, 1)


@pytest.mark.slow
def test_distil(corpus_folder: Path, zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "circle"
    asked = [("where is the map",), ("is my money back",), ("where is my parcel money",), ("zebra",)]
    write_csv(tmp_path / "asked.csv", ("query",), *asked)
    words = [*files(corpus_folder), f"data.queries={tmp_path / 'asked.csv'}", zero_shot, *FAST, "depth=4", *STEADY]
    assert main(["circle", "recipe=distil", *words, f"run_dir={folder}"]) == 0
    told = said(capsys)
    held = {json.loads(line)["query_id"] for line in (folder / "mined_held_out.jsonl").read_text().splitlines()}
    learned = {json.loads(line)["query_id"] for line in (folder / "mined_train.jsonl").read_text().splitlines()}
    assert (len(held), len(learned), held & learned) == (7, 21, set())
    judgement = json.loads((folder / "teacher.json").read_text())
    assert judgement["rows"] == 7
    assert judgement["difference"] == pytest.approx(judgement["second"] - judgement["first"])
    assert "On held-out queries the cross-encoder ranks better than the retriever as it is" in told
    assert "2 queries; 1 left out that are in data.train or data.test, 1 that share no word" in told
    assert "distilled, against fine-tuned" in told

    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 28 + 2
    assert all(len(row["scores"]) == 1 + len(row["negatives"]) for row in rows)
    assert all(row["scores"][0] == max(row["scores"]) for row in rows[28:])
    teacher = Run.load(folder / "reranker", "cpu")
    texts = [rows[0]["positive"], *rows[0]["negatives"]]
    queries = [rows[0]["query"]] * len(texts)
    assert rows[0]["scores"] == pytest.approx(logits(teacher, queries, texts), abs=1e-3)
    chances = torch.sigmoid(torch.tensor(logits(teacher, queries, texts)))
    assert chances.tolist() == pytest.approx(pair_scores(teacher, queries, texts), abs=1e-5)

    report = json.loads((folder / "report.json").read_text())
    assert list(report["test"]) == ["BM25", "as it is", "fine-tuned", "distilled"]
    found = report["differences"]["distilled, against as it is"]["ndcg@10"]
    values = [report["test"][name]["ndcg@10"] for name in ("as it is", "distilled")]
    assert (found["first"], found["second"]) == pytest.approx(values, abs=1e-5)
    assert found["low"] <= found["difference"] <= found["high"]

    # All is done: nothing is trained again. Another loss is a matter of the last training alone.
    assert main(["circle", f"resume={folder}"]) == 0
    assert "training" not in said(capsys)
    assert main(["circle", "recipe=distil", *words, f"run_dir={folder}", "loss=margin_mse"]) == 0
    told = said(capsys)
    assert "distilled: training" in told
    assert "fine_tuned: done, unchanged" in told
    assert "pairs.jsonl: done, unchanged" in told

    # A cross-encoder that says the opposite of what this one says has nothing to teach.
    wrong = tmp_path / "wrong"
    shutil.copytree(folder / "reranker", wrong)
    tensors = load_file(wrong / "model" / "model.safetensors")
    save_file({k: -v if k.startswith("classifier.") else v for k, v in tensors.items()},
              wrong / "model" / "model.safetensors", {"format": "pt"})  # fmt: skip
    assert main(["circle", "recipe=distil", *words, f"run_dir={folder}", f"reranker={wrong}"]) == 2
    told = said(capsys)
    assert "the cross-encoder ranks no better than the retriever that is to learn from it" in told
    assert "reranking.trainer.max_epochs=" in told
    assert json.loads((folder / "teacher.json").read_text())["difference"] < 0

    # A given one may know the queries of data.train. Those of data.validation judge it in their place, all of them.
    words += [f"reranker={folder / 'reranker'}", f"run_dir={folder}"]
    for judges, rows_of, doubt in (([], 7, True), ([f"data.validation={corpus_folder / 'questions.csv'}"], 28, False)):
        assert main(["circle", "recipe=distil", *words, *judges]) == 0
        assert ("give others as data.validation" in said(capsys)) == doubt
        assert json.loads((folder / "teacher.json").read_text())["rows"] == rows_of


@pytest.mark.slow
def test_distil_of_a_given_reranker_without_labels(
    corpus_folder: Path, zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    folder = tmp_path / "circle"
    words = ("map", "app")
    rows = [(f"where is my {a}", f"the {b} come back", str(int(a == b))) for a in words for b in words]
    pairs = write_csv(tmp_path / "pairs.csv", ("query", "document", "label"), *rows * 4)
    given = [f"data.train={pairs}", "data.validation_share=0", "trainer=cpu", "trainer.max_epochs=1", zero_shot]
    assert main(["train", "task=reranking", *given, f"run_dir={tmp_path / 'reranker'}"]) == 0
    write_csv(tmp_path / "asked.csv", ("query",), *((f"is the {w} good",) for w in ("map", "money", "shoes", "app")))
    asked = [*files(corpus_folder)[1:], f"data.queries={tmp_path / 'asked.csv'}", f"reranker={tmp_path / 'reranker'}"]
    asked += [zero_shot, *FAST, "depth=3", "engine=bm25", "retrieval.data.validation_share=0"]
    assert main(["circle", "recipe=distil", *asked, f"run_dir={folder}"]) == 0
    assert list(json.loads((folder / "report.json").read_text())["test"]) == ["BM25", "as it is", "distilled"]
    assert not (folder / "fine_tuned").exists()


@pytest.mark.slow
def test_trans_encoder(zero_shot: str, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    names = "parcel money password shoes app map courier neighbour".split()
    pairs = [(f"where is my {a}", f"the {b} come back", str(i % 6)) for i, a in enumerate(names) for b in names]
    write_csv(tmp_path / "train.csv", ("sentence1", "sentence2", "score"), *pairs[:40])
    write_csv(tmp_path / "test.csv", ("sentence1", "sentence2", "score"), *pairs[40:])
    folder = tmp_path / "circle"
    words = [f"data.train={tmp_path / 'train.csv'}", f"data.test={tmp_path / 'test.csv'}", zero_shot, *FAST]
    words += ["recipe=trans_encoder", "rounds=2", "simcse=true", f"run_dir={folder}"]
    assert main(["circle", *words]) == 0
    told = said(capsys)
    for start in ("as it is", "after SimCSE"):
        assert f"bi-encoder, round 2, against bi-encoder, {start}" in told
    assert "bi-encoder, after SimCSE, against bi-encoder, as it is" in told
    first = [json.loads(line) for line in (folder / "round1" / "for_cross.jsonl").read_text().splitlines()]
    assert len(first) == 80
    assert (first[0]["query"], first[0]["label"]) == (first[40]["document"], first[40]["label"])
    outputs = Run.load(folder / "simcse_start", "cpu")
    second = [json.loads(line) for line in (folder / "round2" / "for_bi.jsonl").read_text().splitlines()]
    assert set(second[0]) == {"query", "positive", "score"}
    assert outputs.task.schema.kind == "scored"
    report = json.loads((folder / "report.json").read_text())
    assert [name for name in report["test"] if "round 2" in name] == ["cross-encoder, round 2", "bi-encoder, round 2"]
    assert -1 <= report["test"]["bi-encoder, as it is"]["spearman"] <= 1
    # The labels of the training file are not looked at: without them the same comes out.
    write_csv(tmp_path / "train.csv", ("sentence1", "sentence2"), *(pair[:2] for pair in pairs[:40]))
    assert main(["circle", *words]) == 0
    told = said(capsys)
    assert "pairs.jsonl: sentence pairs" in told
    assert "round1/cross: done, unchanged" in told


@pytest.mark.slow
def test_an_interrupted_training_goes_on(
    corpus_folder: Path, zero_shot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    import app.train
    from app.failures import TRY_AGAIN

    folder, real, calls = tmp_path / "circle", app.train.main, []
    words = ["recipe=distil", *files(corpus_folder), zero_shot, *FAST, "depth=3", f"run_dir={folder}"]

    def stopped(cfg: DictConfig) -> int:
        calls.append(Path(cfg.run_dir).name)
        if len(calls) < 3:
            real(cfg)
        if len(calls) == 2:
            return 0
        for name in ("task.json", "metrics.json"):
            (folder / "fine_tuned" / name).unlink(missing_ok=True)
        return TRY_AGAIN

    monkeypatch.setattr(app.train, "main", stopped)
    assert main(["circle", *words]) == TRY_AGAIN
    assert f"modernbert circle resume={folder}" in said(capsys)
    assert main(["circle", f"resume={folder}"]) == TRY_AGAIN
    assert calls == ["fine_tuned", "fine_tuned", "reranker"]
    told = said(capsys)
    assert "start: done, unchanged" in told
    assert f"resuming {folder / 'fine_tuned'}" in told
