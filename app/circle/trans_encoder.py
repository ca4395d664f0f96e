"""recipe=trans_encoder: bi-encoder and cross-encoder label sentence pairs for each other, without a label of a person.

Trans-Encoder (Liu et al. 2022, arXiv:2109.13059): the cosines of a bi-encoder teach a cross-encoder, which begins with
its weights and, as it sees both sentences at once, comes out better than its teacher; its scores teach the next
bi-encoder, which goes on from there. As in the paper cross-encoders learn by cross-entropy, which forgives the
teacher's errors, from both orders of each pair, and bi-encoders by the squared error of the cosine.
"""

from __future__ import annotations

from itertools import combinations, product
from pathlib import Path
from typing import Any

from app.circle.report import Outcome
from app.circle.workshop import Rows, Workshop
from modernbert.errors import ConfigError, DataError
from tasks.data import readers
from tasks.data.ranking.rows import read_tuples
from tasks.data.readers import Table
from tasks.data.schema import Report
from tasks.run import Run, has_text
from tasks.search.rerank import pair_scores
from tasks.st_layout import read_layout

#: The authors' settings, where ours differ: passes of a cross-encoder; learning rate and batch of a bi-encoder.
CROSS: dict[str, Any] = {"task.loss": "bce", "trainer.max_epochs": 1, "data.group": "pair"}
BI: dict[str, Any] = {"task.loss": "cosine_mse", "optim.lr": 5e-5, "optim.batch_size": 128}
SIMCSE: dict[str, Any] = {"task.loss": "infonce", "trainer.max_epochs": 1, "data.validation_share": 0}


def trans_encoder(shop: Workshop) -> Outcome:
    """All stages; returns what came out.

    Raises:
        ConfigError: no pairs, a test file without scores, an encoder that a cross-encoder cannot go on from.
    """
    rounds, data = shop.settings["rounds"], shop.data
    require(shop)
    told = [data["columns"]]
    pairs = shop.table("pairs.jsonl", "sentence pairs", told, [data["train"]], lambda: sentence_pairs(shop))
    start = bi = shop.untrained("start", "scored")
    runs = {"bi-encoder, as it is": start}
    layout = read_layout(start / "model")
    assert layout is not None  # every retrieval run has one
    if layout.kind != "dense" or layout.projection:
        raise ConfigError("recipe=trans_encoder takes dense vectors without a projection, as a cross-encoder has none.")
    pooling = {"task.pooling": layout.pooling}
    if shop.settings["simcse"]:
        texts = shop.table("sentences.jsonl", "each sentence beside itself", None, [pairs], lambda: sentences(pairs))
        tuned = shop.train("simcse", "retrieval", texts, SIMCSE | pooling)
        bi = runs["bi-encoder, after SimCSE"] = shop.untrained("simcse_start", "scored", tuned)
    for number in range(1, rounds + 1):
        folder = f"round{number}"
        cross = shop.train(f"{folder}/cross", "reranking", bi_scores(shop, folder, pairs, bi), CROSS, bi)
        bi = shop.train(f"{folder}/bi", "retrieval", cross_scores(shop, folder, pairs, cross), BI | pooling, cross)
        runs |= {f"cross-encoder, round {number}": cross, f"bi-encoder, round {number}": bi}
    found = {name: shop.measure(run, test_columns(shop, name)) for name, run in runs.items()}
    before = list(runs)[: 1 + bool(shop.settings["simcse"])]  # the encoder as it is, and what SimCSE made of it
    rounds_of_bi = [name for name in runs if name.startswith("bi") and name not in before]
    compared = [*combinations(before, 2), *product(before, rounds_of_bi)]
    return Outcome(("spearman", "pearson"), runs, found, compared)


def require(shop: Workshop) -> None:
    """ConfigError for settings that lead nowhere, before hours of training."""
    data, rounds = shop.data, shop.settings["rounds"]
    if rounds < 1:
        raise ConfigError(f"rounds={rounds}: allowed is 1 or more.")
    if not data["train"]:
        raise ConfigError("recipe=trans_encoder needs data.train=<sentence pairs>.")
    for key in ("validation", "queries", "corpus"):
        if data[key]:
            raise ConfigError(f"data.{key}={data[key]}: recipe=trans_encoder has sentence pairs alone; leave it out.")
    if shop.settings["reranker"]:
        raise ConfigError("reranker=: recipe=trans_encoder trains its cross-encoders from scores; leave it out.")
    if read_tuples(data["test"], data["columns"], Report(), "test").kind != "scored":
        raise ConfigError(f"data.test={data['test']} has no scores: name their column, data.columns.score=…")


def test_columns(shop: Workshop, name: str) -> dict[str, Any]:
    """data.columns as the task of a run calls them."""
    given: dict[str, Any] = shop.data["columns"]
    if name.startswith("bi"):
        return given
    names = {"query": "query", "positive": "document", "score": "label"}
    return {names[role]: column for role, column in given.items() if role in names}


def sentence_pairs(shop: Workshop) -> Rows:
    """The different pairs of data.train, whatever else the file says of them."""
    columns = {role: name for role, name in shop.data["columns"].items() if role in ("query", "positive")}
    table = read_tuples(shop.data["train"], columns | {"score": False, "negative": False}, Report(), "train")
    sides = zip(table.columns["query"], table.columns["positive"], strict=True)
    pairs = list(dict.fromkeys(pair for pair in sides if all(has_text(text) for text in pair)))
    if len(pairs) < 2:
        raise DataError(f"{table.source} has {len(pairs)} sentence pairs: there is nothing to learn from.")
    return {"query": [first for first, _ in pairs], "positive": [second for _, second in pairs]}


def sentences(pairs: Path) -> Rows:
    """Each sentence as its own positive: two dropouts of one text are to be alike (Gao et al. 2021, SimCSE)."""
    table = readers.read(str(pairs))
    texts = list(dict.fromkeys([*table.columns["query"], *table.columns["positive"]]))
    return {"query": texts, "positive": texts}


def bi_scores(shop: Workshop, folder: str, pairs: Path, run: Path) -> Path:
    """Cosines of the pairs, in both orders, for a cross-encoder; below 0 they are 0, as chances are."""

    def rows() -> Rows:
        table = readers.read(str(pairs))
        sides = table.columns["query"], table.columns["positive"]
        found = Run.load(run, shop.device).outputs(table_of("positive", *sides))
        scores = [round(min(max(one.score, 0.0), 1.0), 6) for one in found]
        return {
            "query": [*sides[0], *sides[1]],
            "document": [*sides[1], *sides[0]],
            "label": scores * 2,
            "pair": list(range(len(table))) * 2,  # both orders on one side of the validation split
        }

    return shop.table(f"{folder}/for_cross.jsonl", "pairs scored by the bi-encoder", None, [pairs, run], rows)


def cross_scores(shop: Workshop, folder: str, pairs: Path, run: Path) -> Path:
    """Probabilities of the pairs, for a bi-encoder."""

    def rows() -> Rows:
        table = readers.read(str(pairs))
        sides = table.columns["query"], table.columns["positive"]
        scores = pair_scores(Run.load(run, shop.device), *sides)
        return {"query": sides[0], "positive": sides[1], "score": [round(score, 6) for score in scores]}

    return shop.table(f"{folder}/for_bi.jsonl", "pairs scored by the cross-encoder", None, [pairs, run], rows)


def table_of(name: str, first: list[str], second: list[str]) -> Table:
    """Pairs as a table."""
    return Table("pairs", {"query": first, name: second}, list(range(1, len(first) + 1)), [])
