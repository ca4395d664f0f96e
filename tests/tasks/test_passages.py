"""Documents in passages: where they are split, what their vectors come to, which passage a hit points at."""

from __future__ import annotations

import json
import logging
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from retrieval_parts import ROWS, MakeEncoder, new_task, read, with_language_head

from app.server.searching import Finder
from modernbert.errors import ConfigError
from modernbert.packing import pack
from tasks.cached import step_gradient
from tasks.data.borders import SHORT, SPLITS, split_text
from tasks.data.passages import split_texts
from tasks.data.ranking import Document
from tasks.data.tokenise import load_tokenizer, tokenise
from tasks.embedding import Embedder
from tasks.run import Run, save_run
from tasks.search.index import Index
from tasks.search.searcher import Searcher
from tasks.vectors import similarity
from ui.search_tab import described

BODY = "".join(f"    total = total + {i}  # a line that makes it long enough\n" for i in range(6))
INNER = BODY.replace("    total =", "        total =")
CODE = f'''"""A module."""
import os

@property
def first(total):
{BODY}
# about the class
class Basket:
    """Holds things."""
    size = 3

    async def second(self, total):
{INNER}

        return total

    def third(self, total):
{INNER}
REST = [first, Basket]
'''
LONG = " ".join(["please send my shoes back and the parcel too"] * 30)
#: Three passages, each on something else.
PARTS = [
    "the courier left the parcel with a neighbour " * 6, "my password does not work " * 10, "refund the money " * 14
]  # fmt: skip
DOCUMENT = "\n\n".join(part.strip() for part in PARTS)


def passages(text: str, how: Any) -> list[str]:
    return [text[start:end] for start, end in split_text(text, how)[0]]


def test_paragraphs_and_short_ones() -> None:
    one, two = "a" * SHORT, "b " * SHORT
    text = f"A heading\n\n{one}\r\n \r\n{two}\n\n\nlast"
    assert passages(text, "paragraph") == [f"A heading\n\n{one}", f"{two}\n\n\nlast"]
    assert passages(f"  {one}  \n\n", "paragraph") == [one]
    assert passages("short\n\nones", "paragraph") == ["short\n\nones"]
    assert (split_text("", "paragraph")[0], split_text(" \n", "python")[0]) == ([(0, 0)], [(0, 2)])
    assert passages(f"{one}\n\n{two}", "window") == [f"{one}\n\n{two}".strip()]


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_python_is_split_around_functions_and_methods(ends: str) -> None:
    code = CODE.replace("\n", ends)
    found = passages(code, "python")
    first = [part.split(ends)[0] for part in found]
    assert first == ['"""A module."""', "# about the class", "def third(self, total):"]
    assert "@property" in found[0]  # imports are short: they go with the first function
    assert "async def second" in found[1]
    assert found[2].endswith("REST = [first, Basket]")
    assert "return total" in found[1]  # a blank line is no border
    titled, parsed = split_text(f"my basket.py {code.replace('A module.', f'A{ends}module.')}", "python")
    assert parsed
    assert len(titled) == 3


@pytest.mark.parametrize("text", ["def broken(:\n\n  pass", "plain words\n\nand more of them", "(" * 5000, "x\0y"])
def test_what_python_does_not_parse_is_split_at_blank_lines(text: str) -> None:
    found, parsed = split_text(text, "python")
    assert not parsed
    assert found == split_text(text, "paragraph")[0]


@given(st.text(alphabet="ab\n\r \té漢def class:#()@\x0c\u2028", max_size=400), st.sampled_from(SPLITS))
def test_passages_follow_one_another_and_leave_out_white_space_alone(text: str, how: Any) -> None:
    spans, _ = split_text(text, how)
    at, between = 0, []
    for start, end in spans:
        between.append(text[at:start])
        at = end
        assert start >= 0
        assert end <= len(text)
    assert not "".join([*between, text[at:]]).strip()


@pytest.mark.parametrize("text", [LONG, "courierparcel" * 60, "漢字" * 90, "x. " * 300])
def test_long_passages_become_windows_that_fit(tiny_encoder: MakeEncoder, text: str) -> None:
    tokenizer = load_tokenizer(tiny_encoder("modernbert"))

    def encode(texts: Any) -> Any:
        return tokenise(tokenizer, [f"passage: {text}" for text in texts], None, 48)

    found = split_texts(tokenizer, [text, "short", ""], "window", 48, 12, encode)
    assert not (found.full_lengths > found.lengths).any()
    assert found.tokens.lengths.max() <= 48
    spans = found.spans[: found.starts[1]]
    assert (spans[0, 0], spans[-1, 1]) == (0, len(text.rstrip()))
    assert (spans[1:, 0] < spans[:-1, 1]).all()  # windows overlap: nothing is left out
    assert np.diff(found.starts).tolist()[1:] == [1, 1]
    if " " in text:
        assert all(text[start - 1] == " " and text[end] == " " for start, end in spans[1:-1])
    assert np.array_equal(encode([text[start:end] for start, end in spans]).input_ids,
                          found.tokens.input_ids[: found.tokens.offsets[len(spans)]])  # fmt: skip


def split_task(encoder: Path, folder: Path, kind: str = "dense", **settings: Any) -> Embedder:
    settings = {"split": "paragraph", "document_prefix": "the "} | settings
    return Embedder(*new_task(encoder, read(folder, ROWS), kind, **settings))


@pytest.mark.parametrize("kind", ["dense", "multi_vector", "sparse"])
def test_the_best_passage_counts(tiny_encoder: MakeEncoder, tmp_path: Path, kind: str) -> None:
    encoder = tiny_encoder("bert")
    encoder = with_language_head(encoder, tmp_path / "mlm") if kind == "sparse" else encoder
    embedder = split_task(encoder, tmp_path, kind, split="window")
    documents, queries = [DOCUMENT, "good", LONG], ["where is my parcel", "refund"]
    found = similarity(embedder.encode(queries, "query"), embedder.encode(documents, "document"))
    asked = embedder.encode(queries, "query", whole=True)
    for number, borders in enumerate(embedder.encode_passages(documents)[1] or []):
        texts = [documents[number][start:end] for start, end in zip(borders[::2], borders[1::2], strict=True)]
        each = embedder.encode(texts, "document", whole=True)
        if kind == "dense":
            expected = similarity(asked, each).amax(dim=1)
        elif kind == "sparse":
            expected = asked.values.to_dense() @ each.values.to_dense().amax(dim=0)
        else:
            ends = asked.cu_seqlens.tolist()
            best = (asked.values @ each.values.t()).amax(dim=1)
            expected = torch.stack([best[a:b].sum() for a, b in pairwise(ends)])
        torch.testing.assert_close(found[:, number], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("merging", ["mean", "attention"])
def test_one_vector_of_all_passages_and_its_weights_are_saved(
    tiny_encoder: MakeEncoder, tmp_path: Path, merging: str
) -> None:
    encoder = tiny_encoder("bert")
    embedder = split_task(encoder, tmp_path, merging=merging)
    task = embedder.task
    if merging == "attention":
        torch.nn.init.normal_(task.head.attention.weight, std=5.0)
    vectors, borders = embedder.encode_passages([DOCUMENT, "good"])
    assert (vectors.kind, [len(each) for each in borders or []]) == ("dense", [6, 2])
    batch = task.schema.texts(embedder.tokenizer, [DOCUMENT], "document")
    pooled = []
    for i in range(3):
        ids = torch.from_numpy(batch.tokens.input_ids[slice(*batch.tokens.offsets[i : i + 2])].astype(np.int64))
        pooled.append(task.encoder(pack([ids])).mean(0))
    stacked = torch.stack(pooled)
    weights = task.head.attention(stacked).softmax(0) if merging == "attention" else torch.full((3, 1), 1 / 3)
    expected = torch.nn.functional.normalize((weights * stacked).sum(0), dim=0)
    torch.testing.assert_close(vectors.values[0], expected, atol=1e-5, rtol=1e-5)

    settings = {"kind": "dense", "split": "paragraph", "merging": merging, "document_prefix": "the "}
    save_run(tmp_path / "run", task, encoder, settings, {"encoder": {"source": "tiny"}})
    again = Embedder.from_run(Run.load(tmp_path / "run", "cpu", "32"))
    torch.testing.assert_close(again.encode([DOCUMENT], "document").values, vectors.values[:1], atol=1e-6, rtol=0)
    assert again.fingerprint == embedder.fingerprint
    if merging == "attention":
        (tmp_path / "run" / "model" / "passages.safetensors").unlink()
        with pytest.raises(ConfigError, match="how passages are weighed"):
            Run.load(tmp_path / "run", "cpu", "32")


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("sparse", {"merging": "attention"}, "task.merging=attention"),
        ("multi_vector", {"merging": "mean"}, "task.merging=mean"),
        ("dense", {"split": "none", "merging": "mean"}, "task.split"),
        ("dense", {"split": "sentence"}, "task.split=sentence"),
        ("dense", {"mix_negatives": 2, "loss": "infonce"}, "task.mix_negatives=2"),
    ],
)
def test_what_does_not_fit_is_refused(
    tiny_encoder: MakeEncoder, tmp_path: Path, kind: str, settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        split_task(tiny_encoder("bert"), tmp_path, kind, **settings)


@pytest.mark.parametrize("merging", ["max", "attention"])
@pytest.mark.parametrize("engine", ["exact", "lance"])
def test_hits_point_at_the_passage(tiny_encoder: MakeEncoder, tmp_path: Path, engine: str, merging: str) -> None:
    embedder = split_task(tiny_encoder("bert"), tmp_path, merging=merging)
    if engine == "lance":
        pytest.importorskip("lancedb")
        if merging == "max":
            with pytest.raises(ConfigError, match="engine=lance"):
                Index.create(tmp_path / "no", engine, embedder, {"run": "x"}, "docs.csv")
            return
    documents = [Document("a", "A title", DOCUMENT), Document("b", "", "good"), Document("c", "", LONG)]
    index = Index.create(tmp_path / "index", engine, embedder, {"run": "x"}, "docs.csv")
    index.add(documents, embedder)
    index.delete(["b"])
    index = Index.open(tmp_path / "index")
    query = "refund the money"
    asked = embedder.encode([query], "query", whole=True)
    for searcher, mode in ((Searcher(index, embedder), "dense"), (Searcher(index, embedder), "hybrid")):
        for hit in searcher.search([query, "parcel"], 3, mode)[0]:
            (borders,) = embedder.encode_passages([hit.text])[1] or []
            texts = [hit.text[start:end] for start, end in zip(borders[::2], borders[1::2], strict=True)]
            scores = similarity(asked, embedder.encode(texts, "document", whole=True))[0]
            assert hit.passage == hit.text[hit.start : hit.end] == texts[int(scores.argmax())]
            if mode == "dense" and merging == "max":
                assert hit.score == pytest.approx(float(scores.max()), abs=1e-5)
    (hits,) = Searcher(index, embedder).search([query], 3)
    server = Finder(str(tmp_path / "index"), embedder).find(query, embedder.encode([query], "query"), 3, "dense")
    assert [(hit["id"], hit["start"], hit["end"], hit["passage"]) for hit in server] == [
        (hit.id, hit.start, hit.end, hit.passage) for hit in hits
    ]
    assert described(query, hits, embedder) == {hit.id: ((hit.start, hit.end), None) for hit in hits}
    (words,) = Searcher(index).search([query], 3, "text")
    assert words[0].passage == PARTS[2].strip()
    assert len(index) == 2


def test_what_is_no_python_is_told(
    tiny_encoder: MakeEncoder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embedder = split_task(tiny_encoder("bert"), tmp_path, split="python")
    with caplog.at_level(logging.WARNING):
        embedder.encode([CODE, DOCUMENT], "document")
    assert "1 of 2 documents are not Python and are split at blank lines" in caplog.text


@pytest.mark.parametrize("merging", ["max", "attention"])
def test_the_gradient_does_not_depend_on_micro_batches(
    tiny_encoder: MakeEncoder, tmp_path: Path, merging: str
) -> None:
    documents = [DOCUMENT, LONG, "good", f"{LONG}\n\n{DOCUMENT}"]
    rows = [{"query": f"query {i}", "positive": text, "negative": []} for i, text in enumerate(documents)]
    table = read(tmp_path, rows)
    settings = {"split": "paragraph", "merging": merging, "matryoshka": [8]}
    task, tokenizer = new_task(tiny_encoder("bert"), table, dropout=0.0, **settings)
    examples = task.train().schema.examples(table, tokenizer, "train")
    assert examples.max_seqlen <= 64 < examples.lengths.max()
    found = []
    for parts in ([[0, 1, 2, 3]], [[0, 3], [1], [2]]):
        step = [examples.collate(part) for part in parts]

        def loss_of(outputs: list[torch.Tensor], step: list[Any] = step) -> torch.Tensor:
            return task.objective(*task.joined(step, outputs), None, torch.Generator())[0]

        step_gradient(lambda batch: task(batch.packed), step, loss_of, torch.Tensor.backward)
        found.append({name: p.grad.clone() for name, p in task.named_parameters() if p.grad is not None})
        task.zero_grad()
    if merging == "attention":
        assert float(found[0]["head.attention.weight"].abs().max()) > 0
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_queries_are_filled_up_with_the_mask(tiny_encoder: MakeEncoder, tmp_path: Path) -> None:
    table = read(tmp_path, ROWS)
    task, tokenizer = new_task(tiny_encoder("bert"), table, "multi_vector", query_expansion=12)
    with pytest.raises(ConfigError, match="tokenizer has none"):
        task.schema.tokens(tokenizer, ["good"], "query")
    encoder = tmp_path / "masked"
    shutil.copytree(tiny_encoder("bert"), encoder)
    settings = json.loads((encoder / "tokenizer_config.json").read_text()) | {"mask_token": "shoes"}
    (encoder / "tokenizer_config.json").write_text(json.dumps(settings))
    task, tokenizer = new_task(encoder, table, "multi_vector", query_expansion=12)
    embedder, text = Embedder(task, tokenizer), "where is my parcel"
    plain = tokenizer(text)["input_ids"]
    ids = torch.tensor([*plain, *[tokenizer.mask_token_id] * (12 - len(plain))])
    (found,) = [embedder.encode([text], "query")]
    expected = task.head.read(task.encoder, pack([ids]))
    assert found.values.shape[0] == 12
    torch.testing.assert_close(found.values, expected, atol=1e-6, rtol=0)
    cut = task.schema.tokens(tokenizer, [" ".join([text] * 5)], "query")
    assert (cut.lengths.tolist(), bool(cut.full_lengths[0] > 12)) == ([12], True)
    assert len(embedder.encode([text], "document").values) == len(plain)

    save_run(tmp_path / "run", task, encoder, {"kind": "multi_vector"}, {"encoder": {"source": "tiny"}})
    again = Embedder.from_run(Run.load(tmp_path / "run", "cpu", "32"))
    torch.testing.assert_close(again.encode([text], "query").values, found.values, atol=1e-6, rtol=0)
    published = Embedder.from_encoder(str(tmp_path / "run" / "model"), device="cpu")
    torch.testing.assert_close(published.encode([text], "query").values, found.values, atol=1e-6, rtol=0)
    library = pytest.importorskip("sentence_transformers")
    model = library.MultiVectorEncoder(str(tmp_path / "run" / "model"), device="cpu")
    for query in (text, " ".join([text] * 5)):
        theirs = torch.as_tensor(model.encode_query([query])[0])
        torch.testing.assert_close(theirs, again.encode([query], "query").values, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match=r"task\.query_expansion=12"):
        new_task(encoder, table, "dense", query_expansion=12)
