"""The routes: the numbers of the run and of transformers, and a status with a sentence for everything else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from server_runs import TEXTS, TOPICS, client_of, save_classifier, save_tagger, settings
from starlette.testclient import TestClient
from transformers import pipeline

from app.server.context import Context
from tasks.run import Run

Encoders = Callable[[str], Path]
CLASSES = ["delivery", "billing", "account", "returns", "app"]
LONG = "where is my order please " * 10  # 52 tokens of 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def teams(folder: Path, tiny_encoder: Encoders) -> Path:
    return save_classifier(folder / "teams", tiny_encoder("bert"), CLASSES)


@pytest.fixture(scope="module")
def names(folder: Path, tiny_encoder: Encoders) -> Path:
    return save_tagger(folder / "names", tiny_encoder("bert"))


@pytest.fixture(scope="module")
def client(teams: Path) -> Iterator[TestClient]:
    with client_of(Context(settings(teams))) as client:
        yield client


@pytest.fixture(scope="module")
def several(teams: Path, names: Path, folder: Path, tiny_encoder: Encoders) -> Iterator[TestClient]:
    """Two classifiers and a tagger."""
    pairs = save_classifier(folder / "pairs", tiny_encoder("modernbert"), ["yes", "no"], pair=True)
    with client_of(Context(settings(teams, pairs, names))) as client:
        yield client


def scores(found: list[dict[str, Any]]) -> dict[str, float]:
    return {each["label"]: each["score"] for each in found}


def test_a_text_has_the_numbers_of_the_run(client: TestClient, teams: Path) -> None:
    reply = client.post("/predict", json={"inputs": TEXTS[0]})
    assert reply.status_code == 200
    found = reply.json()
    label = Run.load(teams, "cpu").answer([TEXTS[0]])[0]
    assert scores(found) == pytest.approx(dict(label.scores), abs=1e-6)
    assert found[0]["label"] == label.labels[0]
    assert [each["score"] for each in found] == sorted((each["score"] for each in found), reverse=True)
    assert "X-Truncated" not in reply.headers


def test_texts_have_the_numbers_of_transformers(client: TestClient, teams: Path) -> None:
    reference = pipeline("text-classification", model=str(teams / "model"), top_k=None, device="cpu")(TEXTS)
    for inputs in (TEXTS, [[text] for text in TEXTS]):
        found = client.post("/predict", json={"inputs": inputs, "truncate": True}).json()
        assert len(found) == len(TEXTS)
        for ours, theirs in zip(found, reference, strict=True):
            assert scores(ours) == pytest.approx(scores(theirs), abs=2e-6)


def test_pairs(several: TestClient, folder: Path) -> None:
    expected = Run.load(folder / "pairs", "cpu").answer(TEXTS[:3], TOPICS[:3])
    single = several.post("/runs/pairs/predict", json={"inputs": [TEXTS[0], TOPICS[0]]}).json()
    assert scores(single) == pytest.approx(dict(expected[0].scores), abs=1e-6)
    batch = [list(pair) for pair in zip(TEXTS[:3], TOPICS[:3], strict=True)]
    found = several.post("/runs/pairs/predict", json={"inputs": batch}).json()
    assert [scores(each) for each in found] == [pytest.approx(dict(each.scores), abs=1e-6) for each in expected]
    for inputs in ("one text", ["one text"], [["a", "b", "c"]], [["a", "b"], ["c"]]):
        reply = several.post("/runs/pairs/predict", json={"inputs": inputs})
        assert (reply.status_code, "two texts" in reply.json()["error"]) == (422, True)


@pytest.mark.parametrize(
    ("kind", "labels"),
    [("multilabel", ["a;b", "b", "c"]), ("ordinal", ["1", "2", "3"]), ("regression", ["0.5", "1.5", "-2.25"])],
)
def test_other_kinds(kind: str, labels: list[str], tmp_path: Path, tiny_encoder: Encoders) -> None:
    folder = save_classifier(tmp_path / "run", tiny_encoder("bert"), labels, kind)
    answer = Run.load(folder, "cpu").answer([TEXTS[1]])[0]
    with client_of(Context(settings(folder))) as client:
        found = scores(client.post("/predict", json={"inputs": TEXTS[1]}).json())
    expected = {"value": answer.value} if kind == "regression" else dict(answer.scores)
    assert found == pytest.approx(expected, abs=1e-6)


def test_entities(several: TestClient, names: Path) -> None:
    expected = Run.load(names, "cpu").answer([*TEXTS, LONG])
    assert sum(map(len, expected)) > 3
    found = several.post("/entities", json={"inputs": [*TEXTS, LONG]}).json()
    for ours, spans, text in zip(found, expected, [*TEXTS, LONG], strict=True):
        assert [(e["start"], e["end"], e["label"], e["text"]) for e in ours] == [
            (s.start, s.end, s.label, text[s.start : s.end]) for s in spans
        ]
        assert [e["score"] for e in ours] == pytest.approx([s.score for s in spans], abs=1e-6)
    single = several.post("/entities", json={"inputs": TEXTS[0]}).json()
    assert [e["text"] for e in single] == [e["text"] for e in found[0]]


def test_a_long_text_is_never_cut_in_silence(client: TestClient, teams: Path) -> None:
    expected = Run.load(teams, "cpu").answer([LONG])[0]
    assert expected.cut
    for asked in ({}, {"truncate": True}, {"truncate": None}):
        reply = client.post("/predict", json={"inputs": [TEXTS[0], LONG, LONG]} | asked)
        assert (reply.status_code, reply.headers["X-Truncated"]) == (200, "2")
        assert scores(reply.json()[1]) == pytest.approx(dict(expected.scores), abs=1e-6)
    reply = client.post("/predict", json={"inputs": [TEXTS[0], LONG], "truncate": False})
    assert reply.status_code == 413
    assert "Text 1 (counting from 0) is longer than the 24 tokens that are read" in reply.json()["error"]


BAD: list[tuple[Any, int, str]] = [
    ({}, 422, "inputs"),
    ({"inputs": None}, 422, "inputs"),
    ({"inputs": 7}, 422, "inputs"),
    ({"inputs": [1, 2]}, 422, "inputs"),
    ({"inputs": {"text": "a"}}, 422, "inputs"),
    ({"inputs": [["a"], "b"]}, 422, "inputs"),
    ({"inputs": [[["a"]]]}, 422, "inputs"),
    ([], 422, "body"),
    ("text", 422, "body"),
    ({"inputs": []}, 422, "no text"),
    ({"inputs": ""}, 422, "Text 0 (counting from 0) is empty"),
    ({"inputs": ["a", " \n\t"]}, 422, "Text 1 (counting from 0) is empty"),
    ({"inputs": [["a", "b"]]}, 422, "this run reads one text"),
    ({"inputs": [[]]}, 422, "this run reads one text"),
    ({"inputs": "a", "imputs": "b"}, 422, "imputs"),
    ({"inputs": "a", "truncate": "maybe"}, 422, "truncate"),
    ({"inputs": "a", "raw_scores": True}, 422, "raw_scores"),
    ({"inputs": "a", "truncation_direction": "Left"}, 422, "truncation_direction"),
    ({"inputs": "half \ud800 a character"}, 422, "not Unicode"),
    ({"inputs": ["a"] * 101}, 413, "101 texts: this server takes 100 a request (limits.texts)"),
    ({"inputs": ["where is my order please " * 5] * 100}, 413, "2,400 tokens: this server takes 2,000 a request"),
]


@pytest.mark.parametrize(("body", "status", "said"), BAD)
def test_a_bad_body_is_told_what_is_wrong(client: TestClient, body: Any, status: int, said: str) -> None:
    # As ASCII: half a character cannot be sent in UTF-8, but an escape of it can.
    reply = client.post("/predict", content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert (reply.status_code, reply.json()["error_type"]) == (status, "validation")
    assert said in reply.json()["error"]


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "application/json", 422),
        (b"{", "application/json", 422),
        (b"\x00\xff\xfe\x80", "application/json", 422),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "image/png", 422),
        (b'{"inputs": "a"}', "text/plain", 422),
        (b'{"inputs": ' + b"[" * 10_000, "application/json", 400),
        (b'{"inputs": NaN}', "application/json", 422),
        (b"inputs=a", "application/x-www-form-urlencoded", 422),
    ],
)
def test_what_is_no_json_is_told_so(client: TestClient, content: bytes, kind: str, status: int) -> None:
    reply = client.post("/predict", content=content, headers={"Content-Type": kind})
    assert reply.status_code == status, reply.text
    assert reply.json()["error_type"] == "validation"


def test_ten_thousand_texts_are_refused(teams: Path) -> None:
    with client_of(Context(settings(teams, body=2_000_000))) as client:
        reply = client.post("/predict", json={"inputs": ["a text"] * 10_000})
        assert (reply.status_code, "10,000 texts" in reply.json()["error"]) == (413, True)
        assert client.post("/predict", json={"inputs": "a text"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/runs/nobody/predict", 404),
        ("/runs/../../etc/passwd/predict", 404),
        ("/runs/..%2f..%2fetc%2fpasswd/predict", 404),
        ("/runs//etc/passwd/predict", 404),
        ("/runs/sentence-transformers%2Fall-MiniLM-L6-v2/predict", 404),
        ("/runs/https:%2f%2fexample.org%2fmodel/predict", 404),
        ("/predict/", 404),
        ("/info", 405),
    ],
)
def test_no_name_of_a_client_leads_anywhere(client: TestClient, path: str, status: int) -> None:
    reply = client.post(path, json={"inputs": "a"}, follow_redirects=False)
    assert (reply.status_code, set(reply.json())) == (status, {"error", "error_type"})
    assert "root" not in reply.text.replace("root_path", "")


def test_runs_are_chosen_by_their_names(several: TestClient) -> None:
    assert several.post("/runs/teams/predict", json={"inputs": "a"}).status_code == 200
    reply = several.post("/predict", json={"inputs": "a"})
    assert reply.status_code == 422
    assert "choose /runs/teams/predict, /runs/pairs/predict" in reply.json()["error"]
    reply = several.post("/runs/names/predict", json={"inputs": "a"})
    assert (reply.status_code, "does not answer /predict but /entities" in reply.json()["error"]) == (422, True)


def test_a_route_that_no_run_answers(client: TestClient) -> None:
    reply = client.post("/entities", json={"inputs": "a"})
    assert (reply.status_code, "No run here answers /entities. teams: /predict" in reply.json()["error"]) == (422, True)


def test_info_tells_of_runs_and_limits_and_of_no_path(several: TestClient, folder: Path) -> None:
    reply = several.get("/info")
    assert str(folder) not in reply.text
    info = reply.json()
    assert [(run["name"], run["routes"][0]) for run in info["runs"]] == [
        ("teams", "/runs/teams/predict"),
        ("pairs", "/runs/pairs/predict"),
        ("names", "/runs/names/entities"),
    ]
    assert info["runs"][0]["labels"] == sorted(CLASSES)
    assert info["runs"][2]["labels"] == ["PERSON", "THING"]
    assert info["limits"]["texts"] == 100
    assert info["tokens_per_batch"] == 2048


def test_openapi_describes_every_route_with_types(client: TestClient) -> None:
    spec = client.get("/openapi.json").json()
    for route in ("/predict", "/entities", "/batch"):
        for path in (route, "/runs/{run}" + route):
            assert {"200", "413", "422"} <= set(spec["paths"][path]["post"]["responses"])
    types = spec["components"]["schemas"]
    assert {"label", "score"} == set(types["Prediction"]["properties"])
    assert "parameters" not in spec["paths"]["/predict"]["post"]
    assert [p["name"] for p in spec["paths"]["/runs/{run}/predict"]["post"]["parameters"]] == ["run"]
    assert client.get("/docs").status_code == 404  # it would load scripts from elsewhere


def test_no_answer_in_time_is_504_and_the_request_is_dropped(teams: Path) -> None:
    context = Context(settings(teams, seconds=0.2))
    with client_of(context) as client:
        context.runs["teams"].run.plain.task.forward = too_late  # type: ignore[method-assign]
        reply = client.post("/predict", json={"inputs": "a"})
        assert (reply.status_code, reply.json()["error_type"]) == (504, "timeout")
        assert context.batcher.unanswered == set()


def too_late(packed: Any) -> Any:
    time.sleep(0.6)
    raise RuntimeError("too late")


def test_a_full_queue_is_429_with_a_time_to_come_again(teams: Path) -> None:
    context = Context(settings(teams, waiting=1))
    with client_of(context) as client:
        run = context.runs["teams"].run
        run.plain.task.forward = too_late  # type: ignore[method-assign]
        context.batcher.submit(run.engine(("text",)), [("a",)], [3])
        reply = client.post("/predict", json={"inputs": "a"})
        assert (reply.status_code, reply.json()["error_type"]) == (429, "overloaded")
        assert reply.headers["Retry-After"] == "1"


def test_a_bug_of_ours_is_500_without_details(teams: Path) -> None:
    context = Context(settings(teams))
    with client_of(context) as client:
        context.runs["teams"].run.plain.task.forward = None  # type: ignore[assignment]
        reply = client.post("/predict", json={"inputs": "a"})
        assert (reply.status_code, reply.json()["error_type"]) == (500, "internal")
        assert "NoneType" not in reply.text
