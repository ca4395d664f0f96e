"""Retrieval: gradients over a whole step, losses by kind of rows, validation, answers, settings that are refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from retrieval_parts import ROWS, SCORED, MakeEncoder, new_task, read, with_language_head
from torch import Tensor

from modernbert.errors import ConfigError, EncoderError
from modernbert.packing import pack
from tasks.cached import step_gradient
from tasks.data import readers
from tasks.data.module import DataModule
from tasks.data.readers import Table
from tasks.false_negatives import Counts
from tasks.retrieval import Retrieval
from tasks.retrieval_loss import Known
from tasks.run import Run, save_run
from tasks.scoring import Scoring
from tasks.step_rows import gather_vectors, join_ranks
from tasks.vectors import Vectors, similarity

KINDS = ["dense", "multi_vector", "sparse"]


class Descent(Retrieval):
    """Plain gradient descent, so that the weights after one step show the gradient itself."""

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0)
        rate = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def encoder_for(kind: str, tiny_encoder: MakeEncoder, tmp_path: Path, family: str = "bert") -> Path:
    return with_language_head(tiny_encoder(family), tmp_path / "mlm") if kind == "sparse" else tiny_encoder(family)


def trainer(**options: Any) -> L.Trainer:
    settings: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
    settings |= {"enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False}
    settings |= {"num_sanity_val_steps": 0}
    return L.Trainer(**settings | options)


def gradients(task: Retrieval) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None}
    task.zero_grad()
    return found


def loss_of(task: Retrieval, step: list[Any], known: Known | None) -> Any:
    def loss(outputs: list[Tensor]) -> Tensor:
        return task.objective(*join_ranks(*task.joined(step, outputs)), known, torch.Generator().manual_seed(0))[0]

    return loss


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("kind", KINDS)
def test_cached_gradients_are_the_plain_ones_with_dropout(
    tiny_encoder: MakeEncoder, tmp_path: Path, kind: str, family: str
) -> None:
    table = read(tmp_path, ROWS)
    task, tokenizer = new_task(encoder_for(kind, tiny_encoder, tmp_path, family), table, kind, dropout=0.1)
    task.train()
    examples = task.schema.examples(table, tokenizer, "train")
    known = Known(torch.from_numpy(examples.known), examples.documents)
    step = [examples.collate(rows) for rows in ([0, 4], [1], [2, 3, 5])]
    torch.manual_seed(5)
    plain = loss_of(task, step, known)([task(batch.packed) for batch in step])
    plain.backward()
    wanted = gradients(task)
    torch.manual_seed(5)
    found = step_gradient(lambda batch: task(batch.packed), step, loss_of(task, step, known), torch.Tensor.backward)
    assert float(found) == pytest.approx(float(plain), rel=1e-6)
    again = gradients(task)
    assert set(again) == set(wanted)
    assert max(float(g.abs().max()) for g in wanted.values()) > 1e-3
    for name, gradient in wanted.items():
        torch.testing.assert_close(again[name], gradient, atol=1e-5, rtol=1e-5, msg=name)


@pytest.mark.parametrize("options", [
    {}, {"symmetric": True, "focal_gamma": 0.5, "mix_negatives": 3}, {"matryoshka": [8, 16]}, {"loss": "decoupled"},
])  # fmt: skip
def test_micro_batches_do_not_change_a_step(tiny_encoder: MakeEncoder, tmp_path: Path, options: dict) -> None:
    found = []
    for budget in (4096, 30):
        table = read(tmp_path, ROWS)
        task, tokenizer = new_task(tiny_encoder("bert"), table, dropout=0.0, task=Descent, **options)
        examples = {"train": task.schema.examples(table, tokenizer, "train")}
        torch.manual_seed(0)
        fit = trainer(max_steps=1, limit_val_batches=0)
        fit.fit(task.train(), DataModule(examples, 6, budget, seed=0))
        found.append((task.state_dict(), task.throughput.micro_batches, float(task.throughput.loss)))
    (whole, once, loss), (parts, often, same) = found
    assert (once, often > 3) == (1, True)
    assert loss == pytest.approx(same, rel=1e-5)
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_the_loss_by_hand(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    table = read(tmp_path, ROWS)
    task, tokenizer = new_task(tiny_encoder("bert"), table)
    examples = task.schema.examples(table, tokenizer, "train")
    step = [examples.collate([0, 1]), examples.collate([2, 3])]
    known = Known(torch.from_numpy(examples.known), examples.documents)
    with torch.no_grad():
        queries, documents, rows = task.joined(step, [task(batch.packed) for batch in step])
        loss, counts = task.objective(queries, documents, rows, known, torch.Generator())
        scores = similarity(queries, documents) / 0.05
    texts = [
        [ROWS[0]["positive"], *ROWS[0]["negative"]], [ROWS[1]["positive"], *ROWS[1]["negative"]],
        [ROWS[2]["positive"]], [ROWS[3]["positive"], *ROWS[3]["negative"]],
    ]  # fmt: skip
    flat = [text for own in texts for text in own]
    relevant = {(row["query"], row["positive"]) for row in ROWS}
    total, left_out = 0.0, 0
    for i, row in enumerate(ROWS[:4]):
        place = sum(map(len, texts[:i]))
        keep = [j for j, text in enumerate(flat) if j == place or (row["query"], text) not in relevant]
        left_out += len(flat) - len(keep)
        total += float(scores[i, keep].logsumexp(0) - scores[i, place])
    assert float(loss) == pytest.approx(total / 4, rel=1e-5)
    # "where is my parcel" stands in two rows: of each, the other's positive, and one of them as a negative elsewhere.
    assert left_out == 4
    assert (counts.pairs, counts.same + counts.known) == (4 * len(flat), left_out)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("loss", ["auto", "cosine_mse"])
def test_graded_pairs_learn(tiny_encoder: MakeEncoder, tmp_path: Path, kind: str, loss: str) -> None:
    table = read(tmp_path, SCORED)
    folder = encoder_for(kind, tiny_encoder, tmp_path)
    if (kind, loss) == ("sparse", "cosine_mse"):
        with pytest.raises(ConfigError, match=r"task\.loss=cosine_mse: allowed is cosent"):
            new_task(folder, table, kind, loss=loss)
        return
    task, tokenizer = new_task(folder, table, kind, loss=loss)
    examples = task.schema.examples(table, tokenizer, "train")
    batch = examples.collate([0, 1, 2, 3, 4])
    with torch.no_grad():
        queries, documents, rows = task.joined([batch], [task(batch.packed)])
        value, _ = task.objective(queries, documents, rows, None, torch.Generator())
        scores = similarity(queries, documents).diagonal()
        if kind == "multi_vector":
            scores = scores / queries.cu_seqlens.diff()
    gold = np.array([row["score"] for row in SCORED])
    if loss == "cosine_mse":
        expected = float(((scores.numpy() - (gold - 0.5) / 4.5) ** 2).mean())
    else:
        scale = 1.0 if kind == "sparse" else 0.05
        wrong = [scores[j] - scores[i] for i in range(5) for j in range(5) if gold[i] > gold[j]]
        expected = math.log(1 + sum(math.exp(float(w) / scale) for w in wrong))
        if kind == "sparse":
            expected += float(sum(w * (v.values.mean(0) ** 2).sum() for w, v in ((5e-5, queries), (3e-5, documents))))
    assert float(value) == pytest.approx(expected, rel=1e-4)


def test_distillation_reads_the_scores_of_each_row(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    rows = [row | {"scores": [5.0, *(1.0 + i for i in range(len(row["negative"])))]} for row in ROWS]
    table = read(tmp_path, rows)
    for loss in ("margin_mse", "kl"):
        task, tokenizer = new_task(tiny_encoder("bert"), table, loss=loss)
        examples = task.schema.examples(table, tokenizer, "train")
        batch = examples.collate([0, 1, 2])
        with torch.no_grad():
            queries, documents, found = task.joined([batch], [task(batch.packed)])
            value, _ = task.objective(queries, documents, found, None, torch.Generator())
            scores = similarity(queries, documents) / 0.05
        own = [scores[0, :3], scores[1, 3:5], scores[2, 5:6]]
        teacher = [torch.tensor(row["scores"]) for row in rows[:3]]
        each = []
        for s, t in zip(own, teacher, strict=True):
            if loss == "kl":
                each.append(float((t.softmax(0) * (t.log_softmax(0) - s.log_softmax(0))).sum()))
            else:
                margins = (s[0] - s[1:]) - (t[0] - t[1:])
                each.append(float(margins.square().mean()) if len(margins) else 0.0)
        assert float(value) == pytest.approx(sum(each) / 3, rel=1e-4)
        # Beside it each query finds its positive (0, 3 and 5) among the documents of the other rows.
        task, _ = new_task(tiny_encoder("bert"), table, loss=loss, contrast=2.0)
        both, counts = task.objective(queries, documents, found, None, torch.Generator())
        others = [scores[0, [0, 3, 4, 5]], scores[1, [3, 0, 1, 2, 5]], scores[2, [5, 0, 1, 2, 3, 4]]]
        finding = sum(float(-s.log_softmax(0)[0]) for s in others) / 3
        assert float(both) == pytest.approx(float(value) + 2 * finding, rel=1e-4)
        assert counts.pairs > 0
        # A document that two rows list (the second of each of the first two) is a negative of neither.
        found.document_text[4] = found.document_text[1]
        both, _ = task.objective(queries, documents, found, None, torch.Generator())
        others = [scores[0, [0, 3, 5]], scores[1, [3, 0, 2, 5]], scores[2, [5, 0, 1, 2, 3, 4]]]
        finding = sum(float(-s.log_softmax(0)[0]) for s in others) / 3
        assert float(both) == pytest.approx(float(value) + 2 * finding, rel=1e-4)
    without = read(tmp_path, ROWS, name="plain")
    task, tokenizer = new_task(tiny_encoder("bert"), without, loss="kl")
    batch = task.schema.examples(without, tokenizer, "train").collate([0, 1])
    with pytest.raises(ConfigError, match=r"task\.loss=kl learns from a teacher's scores"):
        task.objective(*task.joined([batch], [task(batch.packed)]), None, torch.Generator())


def test_punctuation_of_documents_is_left_out(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    table = read(tmp_path, ROWS)
    task, _ = new_task(tiny_encoder("bert"), table, "multi_vector")
    task.punctuation = torch.tensor([7, 9])
    packed = pack([[2, 7, 8, 9, 3], [2, 8, 3], [7, 9]])
    kept = task.encode(packed, "document")
    assert kept.cu_seqlens.tolist() == [0, 3, 6, 8]  # a text of nothing else keeps what it has
    every = task.encode(packed, "query")
    assert every.cu_seqlens.tolist() == [0, 5, 8, 10]
    assert torch.equal(kept.values[:3], every.values[[0, 2, 4]])
    assert torch.allclose(every.values.norm(dim=1), torch.ones(10))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", [ROWS, SCORED])
def test_validation_measures_as_an_evaluation_does(
    tiny_encoder: MakeEncoder, tmp_path: Path, kind: str, rows: list[dict]
) -> None:
    table, held = read(tmp_path, rows), read(tmp_path, rows, "validation", "held")
    task, tokenizer = new_task(encoder_for(kind, tiny_encoder, tmp_path), table, kind)
    examples = {"train": task.schema.examples(table, tokenizer, "train")}
    examples["validation"] = task.schema.examples(held, tokenizer, "evaluate")
    fit = trainer(max_epochs=2)
    fit.fit(task.train(), DataModule(examples, 3, 20, seed=0))
    assert len(task.history) == 2
    told = {name: float(value) for name, value in fit.callback_metrics.items() if name.startswith("val_")}
    done: list[int] = []
    report = task.eval().measure_ranking(examples["validation"], held, "validation", tmp_path, None, done.append)
    measured = report.compute()
    name = "spearman" if rows is SCORED else "ndcg@10"
    assert told[f"val_{name}"] == pytest.approx(measured[name], abs=1e-5)
    assert sum(done) == len(held)
    if rows is ROWS:
        assert 0 < measured["bm25_ndcg@10"] <= 1
        left_out = [float(fit.callback_metrics[f"false_negatives_{why}"]) for why in ("same", "known", "close")]
        assert left_out[2] == 0


def test_pairs_and_texts_are_answered(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    table = read(tmp_path, ROWS)
    task, tokenizer = new_task(tiny_encoder("bert"), table)
    pairs = task.schema.examples(table, tokenizer, "train").collate([0, 4])
    with torch.no_grad():
        outputs = task(pairs.packed)
    answers = task.decode(outputs, pairs, [False, True])
    documents = outputs[2:]
    expected = [float(outputs[0] @ documents[0]), float(outputs[1] @ documents[3])]
    assert [answer.score for answer in answers] == pytest.approx(expected)
    assert task.to_columns([*answers, None]) == {
        "score": [*(answer.score for answer in answers), None], "cut": [False, True, None],
    }  # fmt: skip
    alone = Table("queries.csv", {"query": [row["query"] for row in ROWS]}, list(range(2, 8)))
    texts = task.schema.examples(alone, tokenizer, "predict").collate([0, 1])
    with torch.no_grad():
        found = task.decode(task(texts.packed), texts, [False, False])
        assert found[1].vector == task.encode(pack([texts.packed.input_ids[6:]]), "query").values[0].tolist()
    assert list(task.to_columns(found)) == ["vector", "cut"]


def test_files_are_predicted(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    """Rows with a document get a score, rows of queries alone a vector, as the same vectors say."""
    task, _ = new_task(tiny_encoder("bert"), read(tmp_path, ROWS), document_prefix="the ")
    save_run(tmp_path / "run", task, tiny_encoder("bert"), {"document_prefix": "the "}, {})
    run = Run.load(tmp_path / "run", "cpu")
    rows = [("where is my parcel", "the courier left it"), ("password", ""), ("map", "open map")]
    pairs, alone = tmp_path / "pairs.csv", tmp_path / "alone.csv"
    pairs.write_text("question,answer\n" + "".join(f"{q},{d}\n" for q, d in rows))
    alone.write_text("question\n" + "".join(f"{q}\n" for q, _ in rows))
    for path in (pairs, alone):
        scoring = Scoring(run)
        _, tables = run.schema.stream(str(path), {}, 2)
        assert sum(scoring.write(tables, path.with_suffix(".jsonl"), {})) == 3
    vectors = readers.read(str(alone.with_suffix(".jsonl"))).columns["vector"]
    scores = readers.read(str(pairs.with_suffix(".jsonl"))).columns["score"]
    assert scores[1] is None
    for place in (0, 2):
        with torch.no_grad():
            other = run.task.encode(pack([run.tokenizer("the " + rows[place][1]).input_ids]), "document").values[0]
        assert scores[place] == pytest.approx(float(torch.tensor(vectors[place]) @ other), abs=1e-5)


def test_sparse_answers_are_words(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    table = read(tmp_path, ROWS)
    task, tokenizer = new_task(encoder_for("sparse", tiny_encoder, tmp_path), table, "sparse")
    alone = Table("queries.csv", {"query": ["where is my parcel"]}, [2])
    batch = task.schema.examples(alone, tokenizer, "predict").collate([0])
    with torch.no_grad():
        outputs = task(batch.packed)
    [answer] = task.decode(outputs, batch, [False])
    weights = list(answer.vector.values())
    assert weights == sorted(weights, reverse=True)
    word, weight = next(iter(answer.vector.items()))
    assert float(outputs[0, tokenizer.convert_tokens_to_ids(word)]) == pytest.approx(weight, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "both"}, "task.kind=both"),
        ({"contrast": 1.0}, "task.contrast=1.0: allowed is 0 unless task.loss=margin_mse or kl"),
        ({"loss": "kl", "contrast": -1.0}, "task.contrast=-1.0: allowed is 0 (off) or more"),
        ({"loss": "cosent"}, "task.loss=cosent: allowed is auto or infonce, decoupled, margin_mse, kl"),
        ({"temperature": 0}, "task.temperature=0"),
        ({"focal_gamma": -1.0}, "task.focal_gamma=-1.0"),
        ({"mix_negatives": 2, "kind": "multi_vector"}, "task.mix_negatives=2: allowed is 0 unless task.kind=dense"),
        ({"symmetric": True, "loss": "decoupled"}, "task.symmetric=True: allowed is off unless task.loss=infonce"),
        ({"matryoshka": [16], "kind": "multi_vector"}, "task.matryoshka=[16]: allowed is null unless"),
        ({"matryoshka": [64]}, "task.matryoshka=[64]: allowed is sizes from 1 to 31"),
        ({"pooling": "max"}, "task.pooling=max"),
        ({"pooling": "cls", "kind": "multi_vector"}, "task.pooling=cls: allowed is null"),
        ({"projection": 8, "kind": "sparse"}, "task.projection=8"),
        ({"false_negative_margin": -0.1}, "task.false_negative_margin=-0.1"),
        ({"flops_weight": {"query": 1.0}, "kind": "sparse"}, "task.flops_weight="),
    ],
)
def test_settings_are_refused_in_one_line(
    tiny_encoder: MakeEncoder, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        new_task(tiny_encoder("bert"), read(tmp_path, ROWS), **settings)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_sparse_needs_a_language_head(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"task\.kind=sparse .* this encoder has none"):
        new_task(tiny_encoder("bert"), read(tmp_path, ROWS), "sparse")


def step_of(folder: Path, encoder: Path, kind: str, parts: list[list[int]], factor: float) -> dict[str, Tensor]:
    """Loss and gradients of a step over all ranks, from this one's micro-batches."""
    table = read(folder, ROWS, name=f"rows{len(parts)}")
    task, tokenizer = new_task(encoder, table, kind)
    examples = task.schema.examples(table, tokenizer, "train")
    step = [examples.collate(rows) for rows in parts]
    known = Known(torch.from_numpy(examples.known), examples.documents)
    loss = step_gradient(
        lambda batch: task(batch.packed), step, loss_of(task, step, known), torch.Tensor.backward, factor=factor
    )
    return {"loss": loss} | gradients(task)


def on_a_rank(rank: int, folder: str, encoder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        for kind in ("dense", "multi_vector"):
            found = step_of(Path(folder), Path(encoder), kind, [[[0, 4], [1]], [[2, 3, 5]]][rank], 2.0)
            for value in found.values():  # as DDP does
                dist.all_reduce(value)
                value /= 2
            torch.save(found, f"{folder}/{kind}{rank}.pt")
        # One text on the first rank, two on the second.
        words = Vectors("sparse", torch.tensor([[0.0, 2.0, 1.0], [0.0, 0.0, 0.0], [3.0, 0.0, 0.0]]))
        tokens = Vectors("multi_vector", torch.arange(10.0).view(5, 2), torch.tensor([0, 2, 3, 5]))
        for vectors in (words, words.stored(), tokens):
            every = gather_vectors(vectors.select([[0], [1, 2]][rank]))
            left, right = (v.values.to_dense() if v.is_csr else v.values for v in (every, vectors))
            assert torch.equal(left, right)
            assert vectors.cu_seqlens is None or torch.equal(vectors.cu_seqlens, every.cu_seqlens)
    finally:
        dist.destroy_process_group()


def test_ranks_share_their_negatives_with_gradients(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    encoder = tiny_encoder("bert")
    mp.spawn(on_a_rank, args=(str(tmp_path), str(encoder)), nprocs=2)  # type: ignore[no-untyped-call]
    for kind in ("dense", "multi_vector"):
        wanted = step_of(tmp_path, encoder, kind, [[0, 4, 1, 2, 3, 5]], 1.0)
        for rank in range(2):
            found = torch.load(tmp_path / f"{kind}{rank}.pt", weights_only=True)
            assert set(found) == set(wanted)
            for name, value in wanted.items():
                torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)


def test_a_resumed_epoch_counts_on(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    task, again = (new_task(tiny_encoder("bert"), read(tmp_path, ROWS))[0] for _ in range(2))
    task.counts.add(Counts(pairs=20, same=3, known=2))
    checkpoint: dict[str, Any] = {}
    task.on_save_checkpoint(checkpoint)
    again.on_load_checkpoint(checkpoint)
    assert again.counts == task.counts


def test_vectors_of_a_kind_are_what_the_head_gives(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    table = read(tmp_path, ROWS)
    task, _ = new_task(tiny_encoder("modernbert"), table, projection=12, pooling="cls")
    packed = pack([[2, 8, 3], [2, 9, 10, 3]])
    with torch.no_grad():
        hidden = task.encoder(packed)[[0, 3]]
        found = task.encode(packed, "query")
    expected = torch.nn.functional.normalize(task.head.projection(hidden), dim=1)
    assert isinstance(found, Vectors)
    assert torch.allclose(found.values, expected, atol=1e-6)
