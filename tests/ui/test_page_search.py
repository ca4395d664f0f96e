"""The tabs of runs that rank: the same hits, orders and scores as the library gives, and nothing left behind."""

from __future__ import annotations

import csv
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from tasks.data.ranking import Document
from tasks.embedding import Embedder
from tasks.run import Run
from tasks.search.index import Index
from tasks.search.rerank import pair_scores
from tasks.search.searcher import Searcher
from ui.page import build
from ui.ranking import Ranked, place_of, ranking
from ui.shelf import Shelf
from ui.uploads import UPLOADS

OpenPage = Callable[..., AbstractContextManager[Client]]
LONG = "The courier comes at noon. " * 12 + "My password does not work! " + "Please refund the money. " * 12
DOCUMENTS = {
    "d1": "The parcel <b>has</b> not come yet",
    "d2": "Please refund ${my} {{money}}",
    "d3": LONG,
    "d4": "shoes",
}
QUERY = "where is my parcel"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "docs.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *DOCUMENTS.items()])
    return path


@pytest.fixture(scope="module")
def search_client(search_run: Run, rerank_run: Run, open_page: OpenPage) -> Iterator[Client]:
    with open_page(search_run, rerank_run) as client:
        yield client


def search(client: Client, query: str = QUERY, **more: Any) -> tuple[str, dict[str, Any]]:
    return client.predict(query=query, api_name="/search", **more)


def searched(run: Run, folder: Path, mode: str, k: int = 10) -> list[Any]:
    embedder = Embedder.from_run(run)
    index = Index.create(folder, "exact", embedder, {"run": "x"}, "docs")
    index.add([Document(name, "", text) for name, text in DOCUMENTS.items()], embedder)
    return Searcher(index, embedder).search([QUERY], k, mode)[0]


def test_an_uploaded_corpus_is_searched_as_the_library_does(
    search_client: Client, search_run: Run, corpus: Path, tmp_path: Path
) -> None:
    told, documents, *_ = search_client.predict(handle_file(str(corpus)), api_name="/index")
    assert told.startswith("**4 documents of docs.csv can be searched.**")
    assert documents["value"] == "docs.csv (uploaded)"
    for mode in ("dense", "text", "hybrid"):
        shown, exact = search(search_client, mode=mode, documents=documents["value"])
        right = searched(search_run, tmp_path / mode, mode)
        assert [hit["id"] for hit in exact["hits"]] == [hit.id for hit in right]
        assert [hit["score"] for hit in exact["hits"]] == pytest.approx([hit.score for hit in right], abs=1e-5)
        assert re.findall(r'class="name">(d\d)<', shown) == [hit.id for hit in right]
        assert not {"{", "$"} & set(shown)
        assert "<b>" not in shown
    shown, _ = search(search_client, mode="dense", documents=documents["value"])
    (marked,) = re.findall(r'<mark class="passage">(.*?)</mark>', shown)
    assert marked in LONG
    assert len(search(search_client, documents=documents["value"], k=2)[1]["hits"]) == 2


def test_a_second_run_orders_the_hits_anew(search_client: Client, rerank_run: Run, corpus: Path) -> None:
    search_client.predict(handle_file(str(corpus)), api_name="/index")
    shown, exact = search(search_client, reranker="rerank-run", documents="docs.csv (uploaded)")
    order = [hit["id"] for hit in exact["reranked"]]
    assert sorted(order) == sorted(hit["id"] for hit in exact["hits"]) == sorted(DOCUMENTS)
    scores = dict(
        zip(DOCUMENTS, pair_scores(rerank_run, [QUERY] * 4, list(DOCUMENTS.values())), strict=True)
    )
    assert [hit["score"] for hit in exact["reranked"]] == pytest.approx([scores[name] for name in order], abs=1e-6)
    assert order == sorted(scores, key=lambda name: -scores[name])
    before = {hit["id"]: rank for rank, hit in enumerate(exact["hits"], start=1)}
    assert re.findall(r"was (\d)", shown) == [str(before[name]) for name in order]
    assert re.findall(r"<h3>(.*?)</h3>", shown) == ["As found", "Ordered anew by rerank-run"]


def test_what_is_saved_with_a_run_can_be_chosen(make_search_run: Callable[..., Run], open_page: OpenPage) -> None:
    run = make_search_run(name="indexed")
    searched(run, run.folder / "indexes" / "manual", "dense")
    with open_page(run) as client:
        boxes = {c["props"].get("label"): c["props"] for c in client.config["components"] if c["type"] == "dropdown"}
        assert boxes["Documents"]["value"] == "manual"
        assert {hit["id"] for hit in search(client)[1]["hits"]} == set(DOCUMENTS)
        with pytest.raises(AppError, match="There are no documents yet"):
            search(client, documents="../manual")


@pytest.mark.parametrize(
    ("query", "more", "message"),
    [
        (" ", {}, "The query is empty"),
        (QUERY, {"documents": ""}, "There are no documents yet"),
        (QUERY, {"reranker": "dense-search"}, "is a run of retrieval: give one of reranking"),
        (QUERY, {"reranker": "nobody"}, "There is no run 'nobody' here"),
        (QUERY, {"name": "nobody"}, "There is no run 'nobody' here"),
    ],
)
def test_what_cannot_be_searched_is_a_message(
    search_client: Client, query: str, more: dict[str, str], message: str
) -> None:
    with pytest.raises(AppError, match=message):
        search(search_client, query, **({"documents": "docs.csv (uploaded)"} | more))


def test_a_wrong_corpus_is_a_message_and_leaves_nothing(search_client: Client, tmp_path: Path) -> None:
    assert UPLOADS.path is not None
    before = set(UPLOADS.path.glob("index-*"))
    path = tmp_path / "numbers.csv"
    path.write_text("a,b,c\n1,2,3\n4,5,6\n", encoding="utf-8")
    with pytest.raises(AppError, match=r"numbers\.csv: no column is clearly the text") as caught:
        search_client.predict(handle_file(str(path)), api_name="/index")
    assert str(UPLOADS.path) not in str(caught.value)
    with pytest.raises(AppError, match="There are no documents yet"):
        search_client.predict(None, api_name="/index")
    assert set(UPLOADS.path.glob("index-*")) == before


def test_uploads_are_for_this_user_alone(search_client: Client) -> None:
    assert UPLOADS.path is not None
    assert stat.S_IMODE(UPLOADS.path.stat().st_mode) == 0o700
    assert {path.name.split("-")[0] for path in UPLOADS.path.iterdir()} <= {"cache", "index", "training"}


def test_late_interaction_warms_the_words(
    make_search_run: Callable[..., Run], open_page: OpenPage, corpus: Path
) -> None:
    with open_page(make_search_run("multi_vector", "late")) as client:
        client.predict(handle_file(str(corpus)), api_name="/index")
        shown, _ = search(client, documents="docs.csv (uploaded)")
        warm = re.findall(r'class="warm" style="--strength: ([\d.]+)" title="([^"]*)">([^<]*)<', shown)
        assert "1.00" in {strength for strength, *_ in warm}
        assert "parcel" in {text for *_, text in warm}
        assert {title.split()[0] for _, title, _ in warm} <= {*QUERY.split(), "[CLS]", "[SEP]"}
        assert "Which words met" in shown
        assert "warm" not in search(client, mode="text", documents="docs.csv (uploaded)")[0]


def test_documents_in_order(search_client: Client, rerank_run: Run, corpus: Path) -> None:
    texts = ["the parcel has not come", "please refund my money", "  ", "the app closes"]
    ask = {"query": QUERY, "name": "rerank-run", "api_name": "/rank"}
    shown, exact = search_client.predict(documents="\n".join(texts), upload=None, **ask)
    kept = [text for text in texts if text.strip()]
    scores = dict(zip(["line 1", "line 2", "line 4"], pair_scores(rerank_run, [QUERY] * 3, kept), strict=True))
    assert {row["id"]: row["score"] for row in exact["documents"]} == pytest.approx(scores, abs=1e-6)
    assert [row["id"] for row in exact["documents"]] == sorted(scores, key=lambda name: -scores[name])
    assert shown.count('role="meter"') == 3
    _, exact = search_client.predict(documents="one more", upload=handle_file(str(corpus)), **ask)
    assert {row["id"] for row in exact["documents"]} == {*DOCUMENTS, "line 1"}
    with pytest.raises(AppError, match="There are no documents: paste some"):
        search_client.predict(documents="\n \n", upload=None, **ask)
    with pytest.raises(AppError, match="more than 2,000 documents"):
        search_client.predict(documents="x\n" * 2001, upload=None, **ask)


def test_a_run_is_chosen_and_its_tab_opened(search_client: Client, search_run: Run, rerank_run: Run) -> None:
    assert search_client.predict("rerank-run", api_name="/select")[0].startswith("# rerank-run\nReranking by a cross-")
    page = build(Shelf(loaded={"search": search_run, "order": rerank_run}))
    select = next(event.fn for event in page.fns.values() if event.api_name == "select")
    for before, after in ((None, "Order documents"), ("Search", "Order documents"), ("The run", "The run")):
        _, tabs, title, *rest = select("order", before)
        assert (tabs.selected, title) == (after, after)
        assert [pane["visible"] for pane in rest[:6]] == ["hidden", "hidden", True, True, True, "hidden"]


@pytest.mark.parametrize(
    ("text", "passage", "found"),
    [
        ("One two.\n\nThree  four. Five.", "… Three four. …", "Three  four."),
        ("All of it.", "All of it.", None),
        ("a+b (c)? Yes.", "a+b (c)? …", "a+b (c)?"),
    ],
)
def test_place_of_a_passage(text: str, passage: str, found: str | None) -> None:
    place = place_of(text, passage)
    assert (place and text[slice(*place)]) == found


def test_a_long_text_is_cut_at_words() -> None:
    text = "word " * 300 + "Here it is. " + "word " * 300
    place = place_of(text, "… Here it is. …")
    shown = re.sub(r"<details>.*", "", ranking([Ranked("a", text, 0.5, place)], "Documents"))
    (inside,) = re.findall(r'<p class="found">(.*?)</p>', shown)
    plain = re.sub(r"<[^>]*>", "", inside)
    assert re.fullmatch(r"… (word ){31,33}Here it is\. (word ){31,33}…", plain)
