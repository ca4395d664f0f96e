"""The index folder: both engines, growing, shrinking, resuming after a kill, refusing another model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from word_embedder import WIDTH, WordEmbedder

from modernbert.errors import ConfigError, DataError
from tasks.data.ranking import Document
from tasks.search import index as index_module
from tasks.search.index import Index, choose_engine
from tasks.search.searcher import Searcher
from tasks.vectors import Vectors, normalise

WORDS = "alpha bravo coral delta ember flint grove haven ivory jetty knoll lunar maple north ocean pearl".split()


def corpus(start: int = 0, stop: int = 12, extra: str = "") -> list[Document]:
    """Document i speaks of word i and of the next one."""
    return [Document(f"d{i}", "", f"{WORDS[i % 16]} {WORDS[(i + 1) % 16]} {extra}".strip()) for i in range(start, stop)]


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_module, "PIECE", 5)


@pytest.fixture(params=["exact", "lance"])
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "lance":
        pytest.importorskip("lancedb")
    return request.param


def build(folder: Path, engine: str, documents: Sequence[Document], embedder: Any = None) -> Index:
    embedder = embedder or WordEmbedder()
    found = Index.create(folder, engine, embedder, {"run": "r"}, "docs.csv")
    found.add(documents, embedder)
    return Index.open(folder)


def ids(found: Sequence[Any]) -> list[str]:
    return [hit.id for hit in found]


def test_finds_by_vectors_words_and_both(tmp_path: Path, engine: str) -> None:
    searcher = Searcher(build(tmp_path / "i", engine, corpus()), WordEmbedder())
    for mode in ("dense", "text", "hybrid"):
        hits = searcher.search(["delta ember", "lunar"], k=3, mode=mode)
        assert ids(hits[0])[0] == "d3", mode
        assert set(ids(hits[0])[1:]) == {"d2", "d4"}
        assert set(ids(hits[1])[:2]) == {"d10", "d11"}
        assert hits[0][0].text == "delta ember"
    dense = searcher.search(["delta ember"], k=2)[0]
    assert dense[0].score == pytest.approx(1, abs=1e-6)
    assert dense[1].score == pytest.approx(0.5, abs=1e-6)
    assert searcher.search([], k=2) == []


def test_words_alone_need_no_model(tmp_path: Path, engine: str) -> None:
    searcher = Searcher(build(tmp_path / "i", engine, corpus()))
    assert ids(searcher.search(["coral?"], mode="text")[0]) == ["d1", "d2"]
    assert searcher.search(["nowhere"], mode="text") == [[]]
    assert searcher.search(["' OR ("], mode="text") == [[]]
    with pytest.raises(ConfigError, match="mode=text"):
        searcher.search(["coral"])
    with pytest.raises(ConfigError, match="dense, text, hybrid"):
        searcher.search(["coral"], mode="fuzzy")


def test_adding_replaces_by_id_and_deleting_takes_out(tmp_path: Path, engine: str) -> None:
    index = build(tmp_path / "i", engine, corpus())
    added = index.add([Document("d3", "", "pearl it's"), Document("o'x", "", "maple")], WordEmbedder())
    assert (added.encoded, added.kept, added.replaced) == (2, 0, 1)
    assert len(index) == 13
    searcher = Searcher(Index.open(tmp_path / "i"), WordEmbedder())
    assert ids(searcher.search(["delta ember"], k=2)[0])[0] in ("d2", "d4")
    assert ids(searcher.search(["pearl it's"], k=1)[0]) == ["d3"]
    assert ids(searcher.search(["pearl"], k=3, mode="text")[0]) == ["d3"]
    assert index.delete(["o'x", "d3", "d3", "d99"]) == ["d99"]
    assert len(Index.open(tmp_path / "i")) == 11
    searcher = Searcher(Index.open(tmp_path / "i"), WordEmbedder())
    for mode in ("dense", "text", "hybrid"):
        assert not {"d3", "o'x"} & set(ids(searcher.search(["pearl maple"], k=20, mode=mode)[0]))
    index.add([Document("d3", "", "jetty jetty")], WordEmbedder())
    assert ids(Searcher(Index.open(tmp_path / "i"), WordEmbedder()).search(["jetty"], k=1)[0]) == ["d3"]


def killed_after(documents: Sequence[Document], count: int) -> Iterator[Document]:
    yield from documents[:count]
    raise KeyboardInterrupt


def test_a_killed_build_goes_on(tmp_path: Path, engine: str) -> None:
    folder, first = tmp_path / "i", WordEmbedder()
    index = Index.create(folder, engine, first, {"run": "r"}, "docs.csv")
    with pytest.raises(KeyboardInterrupt):
        index.add(killed_after(corpus(), 11), first)
    assert len(first.encoded) == 10
    with pytest.raises(ConfigError, match=r"not finished \(10 documents"):
        Index.open(folder)
    second = WordEmbedder()
    added = Index.open(folder, complete=False).add(corpus(), second)
    assert (added.encoded, added.kept) == (2, 10)
    assert second.encoded == [document.full for document in corpus()[10:]]
    whole = Searcher(Index.open(folder), second)
    other = Searcher(build(tmp_path / "j", engine, corpus()), second)
    assert whole.search(WORDS, k=5) == other.search(WORDS, k=5)


def test_a_kill_between_writing_and_saving_leaves_nothing(
    tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = build(tmp_path / "i", engine, corpus())
    with monkeypatch.context() as patched:
        patched.setattr(type(index.meta), "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        if engine == "lance":
            # `tidy` must save the version to come back to; the kill comes at the save after the change.
            patched.undo()
            index.engine.tidy()
            patched.setattr(type(index.meta), "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            index.add([Document("new", "", "ocean"), Document("d1", "", "ocean")], WordEmbedder())
    again = Index.open(tmp_path / "i")
    assert sorted(again.engine.ids()) == sorted(document.id for document in corpus())
    assert ids(Searcher(again, WordEmbedder()).search(["ocean"], k=1, mode="text")[0]) == []
    again.add([Document("new", "", "ocean")], WordEmbedder())
    found = Searcher(Index.open(tmp_path / "i"), WordEmbedder())
    assert ids(found.search(["ocean"], k=5, mode="text")[0]) == ["new"]
    assert len(found.index) == 13
    assert sorted(found.index.engine.ids()) == sorted([document.id for document in corpus()] + ["new"])


def test_a_build_of_other_documents_is_refused(tmp_path: Path, engine: str) -> None:
    embedder = WordEmbedder()
    index = Index.create(tmp_path / "i", engine, embedder, {"run": "r"}, "docs.csv")
    with pytest.raises(KeyboardInterrupt):
        index.add(killed_after(corpus(), 11), embedder)
    with pytest.raises(DataError, match="from document 6 on"):
        Index.open(tmp_path / "i", complete=False).add(corpus(0, 5) + corpus(6, 12), embedder)


def test_another_model_is_refused(tmp_path: Path) -> None:
    index = build(tmp_path / "i", "exact", corpus())
    for act in (lambda m: Searcher(index, m), lambda m: index.add(corpus(), m)):
        with pytest.raises(ConfigError, match="another model"):
            act(WordEmbedder(fingerprint="other"))


@pytest.mark.parametrize("kind", ["multi_vector", "sparse"])
def test_kinds_of_vectors(tmp_path: Path, kind: str) -> None:
    index = build(tmp_path / "i", "exact", corpus(), WordEmbedder(kind))
    index.delete(["d4"])
    hits = Searcher(Index.open(tmp_path / "i"), WordEmbedder(kind)).search(["delta ember"], k=2)[0]
    assert [(hit.id, hit.score) for hit in hits] == [("d3", 2.0), ("d2", 1.0)]
    with pytest.raises(ConfigError, match="engine=exact"):
        Index.create(tmp_path / "k", "lance", WordEmbedder(kind), {}, "docs.csv")


def test_a_corpus_too_large_for_memory_is_read_by_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = build(tmp_path / "i", "exact", corpus(0, 16))
    held = Searcher(index, WordEmbedder()).search(WORDS, k=5)
    monkeypatch.setattr("tasks.search.exact.HELD_BYTES", 0)
    assert Searcher(Index.open(tmp_path / "i"), WordEmbedder()).search(WORDS, k=5) == held


def test_approximate_search_finds_what_exact_search_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lancedb")
    monkeypatch.setattr("tasks.search.lance.ANN_ROWS", 500)
    monkeypatch.setattr(index_module, "PIECE", 1000)
    values = normalise(torch.randn(1000, WIDTH) + 3 * torch.randn(20, WIDTH).repeat_interleave(50, dim=0))

    class Given(WordEmbedder):
        def encode(self, texts: Sequence[str], role: str, *_: Any, **__: Any) -> Vectors:
            return Vectors("dense", values[[int(re.sub(r"\D", "", text)) for text in texts]])

    documents = [Document(f"d{i}", "", f"number {i}") for i in range(1000)]
    index = build(tmp_path / "i", "lance", documents, Given())
    assert {"vector_idx", "text_idx"} <= {found.name for found in index.engine.table.list_indices()}
    asked = torch.arange(0, 1000, 40)
    found = index.engine.dense(Vectors("dense", values[asked]), 10)
    wanted = (values[asked] @ values.T).topk(10).indices
    names = [{f"d{i}" for i in row} for row in wanted.tolist()]
    same = [len({name for name, _ in row} & best) for row, best in zip(found, names, strict=True)]
    assert sum(same) / (10 * len(same)) >= 0.95


def test_mistakes(tmp_path: Path, engine: str) -> None:
    with pytest.raises(ConfigError, match=r"no meta\.json"):
        Index.open(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="is no index"):
        Index.create(tmp_path, engine, WordEmbedder(), {}, "docs.csv")
    embedder = WordEmbedder()
    with pytest.raises(DataError, match="'d0' comes twice"):
        Index.create(tmp_path / "i", engine, embedder, {}, "docs.csv").add([*corpus(), corpus()[0]], embedder)
    with pytest.raises(DataError, match="no documents"):
        Index.create(tmp_path / "j", engine, embedder, {}, "docs.csv").add([], embedder)


def test_choosing_an_engine() -> None:
    assert choose_engine("auto", 19_999, "dense") == ("exact", None)
    assert choose_engine("auto", None, "dense") == ("exact", None)
    assert choose_engine("auto", 20_000, "sparse")[0] == "exact"
    pytest.importorskip("lancedb")
    assert choose_engine("auto", 20_000, "dense")[0] == "lance"
    with pytest.raises(ConfigError, match="exact, lance"):
        choose_engine("faiss", 1, "dense")
