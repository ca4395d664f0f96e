"""recipe=distil: a cross-encoder scores pairs that two searches choose, a retriever learns from the scores.

Augmented SBERT (Thakur, Reimers, Daxenberger and Gurevych 2021, arXiv:2010.08240): a cross-encoder is better with few
labels, a retriever needs many; so the first labels pairs for the second. Which pairs decides most: those that BM25 and
semantic search rank high for a query.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from app import console
from app import mine as mining
from app.circle.report import Outcome
from app.circle.scores import logits
from app.circle.teacher import judged, parted
from app.circle.workshop import Rows, Workshop, composed, word
from app.search import read_queries
from modernbert.errors import ConfigError, DataError
from tasks.data import readers
from tasks.data.ranking.corpus import load_corpus
from tasks.data.ranking.rows import RankingTable, read_tuples
from tasks.data.schema import Report
from tasks.embedding import Embedder
from tasks.run import Run
from tasks.search.bm25 import Bm25
from tasks.search.known import plain
from tasks.search.mine import Mined, Mining, mine
from tasks.search.rerank import Reranker

LOSSES = ("kl", "margin_mse")
#: Documents beside the positive that a row shows in a step; a row with more shows them in turn.
NEGATIVES = 7
#: Weight of finding the positive among the documents of other rows. The scores are of near documents alone: without
#: it a retriever forgets to keep the rest away (docs/circle.md has what that cost).
CONTRAST = 1.0
#: Columns of a row that `mine` looks at.
LOOKED_AT = ("query_id", "query", "positive_id", "positive", "positive_key")


def distil(shop: Workshop) -> Outcome:
    """All stages; returns what came out.

    Raises:
        ConfigError: neither labels nor a reranker, nothing to choose pairs for, a cross-encoder that is no better than
            the retriever.
    """
    settings, data = shop.settings, shop.data
    require(shop)
    asked = {"data.corpus": data["corpus"]} | columns_of(shop)
    start = shop.untrained("start", "tuples")
    runs = {"as it is": start}
    if data["train"]:
        runs["fine-tuned"] = shop.train("fine_tuned", "retrieval", data["train"], asked)
    teacher = Path(settings["reranker"]) if settings["reranker"] else None
    if teacher is None:
        rows, held = parted(shop, mined(shop, start))
        keys = {"task.positive_weight": "balanced", "data.validation": str(held)}
        teacher = shop.train("reranker", "reranking", rows, keys)
    judgement = judged(shop, start, teacher)
    searcher = runs.get("fine-tuned", start)
    told = {key: settings[key] for key in ("engine", "depth")} | {"columns": data["columns"]}
    sources = [source for source in (data["train"], data["queries"], data["corpus"], data["test"]) if source]
    pairs = shop.table(
        "pairs.jsonl", "choosing pairs, scored by the cross-encoder", told, [*sources, searcher, teacher],
        lambda: scored_pairs(shop, searcher, teacher),
    )  # fmt: skip
    learning = {"task.loss": settings["loss"], "task.negatives": NEGATIVES, "task.contrast": CONTRAST}
    runs["distilled"] = shop.train("distilled", "retrieval", pairs, learning)
    found = {name: shop.measure(run) for name, run in runs.items()}
    metrics = "ndcg@10", "mrr@10", "recall@100"
    beside = {"BM25": {name: found["as it is"][f"bm25_{name}"] for name in metrics}}
    compared = [(name, "distilled") for name in runs if name != "distilled"]
    return Outcome(metrics, runs, beside | found, compared, (judgement, about_pairs(pairs)))


def about_pairs(pairs: Path) -> str:
    """What the cross-encoder made of the pairs: a retriever learns no better order than its teacher has."""
    table = readers.read(str(pairs))
    first = [scores[0] == max(scores) for scores in table.columns["scores"]]
    return (
        f"The cross-encoder ranks the positive first in {np.mean(first):.0%} of {len(table):,} rows of {pairs.name}. "
        "Where a retriever does that more often by itself, it loses by learning from the scores."
    )


def require(shop: Workshop) -> None:
    """ConfigError for settings that lead nowhere, before hours of training."""
    settings, data = shop.settings, shop.data
    if settings["loss"] not in LOSSES:
        raise ConfigError(f"loss={settings['loss']}: allowed is {', '.join(LOSSES)}.")
    Mining(settings["engine"], (1, settings["depth"]))  # says what is allowed
    composed("train", shop.words("retrieval", "rows.csv", columns_of(shop), None))
    if settings["reranker"]:
        Reranker(Run.load(settings["reranker"], shop.device))  # says that it is none
    elif not data["train"]:
        raise ConfigError("a cross-encoder needs labels: give data.train=<queries with their positives>, or reranker=.")
    if not data["train"] and not (data["queries"] and data["corpus"]):
        raise ConfigError("without data.train give data.queries=<queries> and data.corpus=<documents> to choose from.")


def columns_of(shop: Workshop) -> dict[str, Any]:
    """data.columns as words of the verbs that read data.train."""
    return {f"data.columns.{role}": column for role, column in shop.data["columns"].items()}


def mined(shop: Workshop, run: Path) -> Path:
    """Rows for the cross-encoder: each positive with negatives that BM25 and the run rank high."""
    data = shop.data
    settings = {"data.train": data["train"], "data.corpus": data["corpus"], "engine": "both", "preview": 0}
    settings |= columns_of(shop)
    settings |= {"device": shop.device, "threads": shop.settings["threads"], "seed": shop.settings["seed"]}

    def work(place: Path) -> None:
        keys = settings | {"run": str(run), "output": str(place)}
        mining.main(composed("mine", [word(key, value) for key, value in keys.items()]))

    sources = [data["train"], run, *([data["corpus"]] if data["corpus"] else [])]
    return shop.stages.run("mined.jsonl", "negatives for the cross-encoder", settings, sources, work)


def scored_pairs(shop: Workshop, searcher: Path, teacher: Path) -> Rows:
    """Rows of a query, its positive, the other documents that were found for it, and the cross-encoder's scores.

    A query without labels has the document of the highest score for its positive.
    """
    settings = shop.settings
    table, labelled = queries_of(shop)
    reranker = Run.load(teacher, shop.device)
    embedder = None if settings["engine"] == "bm25" else Embedder.from_run(str(searcher), shop.device)
    rule = Mining(settings["engine"], (1, settings["depth"]), margin=None, negatives=2 * settings["depth"])
    found = mine(table, rule, embedder, lambda q, d: logits(reranker, q, d), examples=0, seed=settings["seed"])
    rows = as_rows(table, found, labelled)
    if not rows["query"]:
        raise DataError("no search found a second document for any query: there is nothing to compare.")
    count = sum(len(texts) + 1 for texts in rows["negatives"])
    console.note(f"{count:,} pairs of {len(rows['query']):,} rows; {len(table) - len(rows['query']):,} rows had none")
    return rows


def queries_of(shop: Workshop) -> tuple[RankingTable, int]:
    """The labelled rows and behind them the queries without labels; how many are labelled.

    In place of a positive the latter have the document that BM25 ranks first, until the cross-encoder has spoken.
    Queries of data.test and of labelled rows are left out.
    """
    data = shop.data
    table = mining.read_rows(data) if data["train"] else None
    corpus = load_corpus(data["corpus"]) if table is None else table.corpus
    columns: dict[str, list[Any]] = {name: list(table.columns[name]) if table else [] for name in LOOKED_AT}
    labelled = len(columns["query"])
    if data["queries"]:
        roles = {role: column for role, column in data["columns"].items() if role in ("query", "query_id")}
        test = read_tuples(data["test"], data["columns"], Report(), "test", data["corpus"])
        known = {plain(text) for text in (*columns["query"], *test.columns["query"])}
        asked = dict.fromkeys(text for _, text in read_queries(data["queries"], roles))
        fresh = [text for text in asked if plain(text) not in known]
        keys = list(corpus)
        _, best = Bm25([corpus[key].full for key in keys]).rank(fresh, 1)
        for text, number in zip(fresh, best[:, 0].tolist(), strict=True):
            if number >= 0:
                key = keys[number]
                cells = (text, text, corpus[key].id or corpus[key].full, corpus[key].full, key)
                for name, cell in zip(LOOKED_AT, cells, strict=True):
                    columns[name].append(cell)
        taken = len(columns["query"]) - labelled
        console.note(
            f"{data['queries']}: {taken:,} queries; {len(asked) - len(fresh):,} left out that are in data.train or "
            f"data.test, {len(fresh) - taken:,} that share no word with a document"
        )
    count = len(columns["query"])
    return RankingTable("queries", columns, list(range(1, count + 1)), [], "tuples", "train", corpus), labelled


def as_rows(table: RankingTable, found: Mined, labelled: int) -> Rows:
    """What was mined as rows to train on; rows with a single document are left out."""
    columns: dict[str, list[Any]] = {name: [] for name in ("query_id", "query", "positive", "negatives", "scores")}
    for row, candidates in enumerate(found.negatives):
        documents = [(table.columns["positive"][row], found.positive_scores[row])]
        documents += [(found.documents[c.document], c.score) for c in candidates]
        documents = [pair for pair in documents if math.isfinite(pair[1])]
        if row >= labelled:
            documents.sort(key=lambda pair: -pair[1])
        if len(documents) < 2:
            continue
        texts, scores = zip(*documents, strict=True)
        cells = (table.columns["query_id"][row], table.columns["query"][row], texts[0], list(texts[1:]))
        for name, cell in zip(columns, (*cells, [round(score, 4) for score in scores]), strict=True):
            columns[name].append(cell)
    return columns
