"""Whether a cross-encoder ranks better than the retriever that is to learn from it; if not, it has nothing to teach.

N held-out rows, each a query with its positive and what two searches find beside it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app import mine as mining
from app.circle.scores import logits
from app.circle.workshop import Rows, Workshop
from modernbert.errors import ConfigError
from tasks.data import readers
from tasks.data.ranking.rows import RankingTable
from tasks.data.sampler import permutation
from tasks.embedding import Embedder
from tasks.metrics.paired import Paired, paired
from tasks.run import Run, write_json
from tasks.search.mine import Mining, mine
from tasks.verdict import LEVEL, p_value

#: Queries that a cross-encoder is not trained on: the share of a training's own validation, and of few queries more, as
#: 12 of 120 tell nothing; never more than a quarter.
SHARE, FEWEST, MOST = 0.1, 20, 500


def held_out(queries: Sequence[str], seed: int) -> set[str]:
    """The ids of the queries to judge with, drawn by `seed`."""
    distinct = list(dict.fromkeys(queries))
    count = min(max(round(SHARE * len(distinct)), FEWEST), len(distinct) // 4, MOST)
    return {distinct[i] for i in permutation(len(distinct), seed)[:count].tolist()}


def parted(shop: Workshop, mined: Path) -> tuple[Path, Path]:
    """Mined rows as those to train a cross-encoder on, and those of held-out queries, which choose its best epoch.

    Raises:
        ConfigError: too few queries to hold any out.
    """
    seed = shop.settings["seed"]

    def rows(keep: bool) -> Rows:
        table = readers.read(str(mined))
        held = held_out(table.columns["query_id"], seed)
        if not held:
            raise ConfigError(
                "data.train has fewer than 4 queries: none can be held out to judge the cross-encoder by. Give more, "
                "or reranker=<run>."
            )
        chosen = [i for i, name in enumerate(table.columns["query_id"]) if (name in held) == keep]
        return table.select(chosen).columns

    found = [
        shop.table(name, about, {"seed": seed}, [mined], lambda keep=keep: rows(keep))  # type: ignore[misc]
        for name, about, keep in (
            ("mined_train.jsonl", "rows to train the cross-encoder on", False),
            ("mined_held_out.jsonl", "rows to judge it by", True),
        )
    ]
    return found[0], found[1]


def judged(shop: Workshop, student: Path, teacher: Path) -> str:
    """Compare the two on labelled queries that the cross-encoder was not trained on here; returns what came out.

    They are those of data.validation, else some of data.train. Each ranks the positive among the documents that BM25
    and the retriever put first; ties count against it.

    Raises:
        ConfigError: the cross-encoder ranks no better.
    """
    settings, data = shop.settings, shop.data
    apart = bool(data["validation"])
    if not apart and not data["train"]:
        return "Without labelled queries (data.validation) nobody has judged the cross-encoder: see that it is better."

    def work(place: Path) -> None:
        table = mining.read_rows(data, "validation" if apart else "train")
        names = table.columns["query_id"]
        held = set(list(dict.fromkeys(names))[:MOST]) if apart else held_out(names, settings["seed"])
        rows = table.select([i for i, name in enumerate(names) if name in held])
        first, second = reciprocal_ranks(rows, student, teacher, shop)
        write_json(place, {"rows": len(first)} | (vars(paired(first, second)) if len(first) else {}))

    told = {key: settings[key] for key in ("engine", "depth", "seed")} | {"columns": data["columns"]}
    told["apart"] = apart
    files = data["validation"] or data["train"], data["corpus"]
    sources = [*(file for file in files if file), student, teacher]
    found = json.loads(
        shop.stages.run("teacher.json", "judging the cross-encoder", told, sources, work).read_text("utf-8")
    )
    count = found.pop("rows")
    if not count:
        return "No search found a second document for any held-out query: nobody has judged the cross-encoder."
    one = Paired(**found)
    told_apart = f"mean reciprocal rank {one.second:.3f} against {one.first:.3f} in {count:,} rows, p {p_value(one)}"
    if one.difference <= 0:
        raise ConfigError(
            f"the cross-encoder ranks no better than the retriever that is to learn from it ({told_apart}, of queries "
            "that it was not trained on), so its scores would make the retriever worse. Train it longer "
            "(reranking.trainer.max_epochs=, reranking.optim.lr=) or on more labels, or give one that knows more: "
            "reranker=<run>. Stages that are done are kept."
        )
    unsure = "" if one.p_value < LEVEL else " That may be chance: the rows are few."
    if settings["reranker"] and not apart:
        unsure += " If it has learned from these queries, that says too much for it: give others as data.validation."
    return f"On held-out queries the cross-encoder ranks better than the retriever as it is ({told_apart}).{unsure}"


def reciprocal_ranks(
    table: RankingTable, student: Path, teacher: Path, shop: Workshop
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(N,) of the positive, of both models; rows in which nothing else was found are left out."""
    settings = shop.settings
    rule = Mining(settings["engine"], (1, settings["depth"]), margin=None, negatives=2 * settings["depth"])
    embedder = Embedder.from_run(str(student), shop.device)
    found = mine(table, rule, embedder, examples=0, seed=settings["seed"])
    rows = [row for row, candidates in enumerate(found.negatives) if candidates]
    pairs = [
        (table.columns["query"][row], text)
        for row in rows
        for text in (table.columns["positive"][row], *(found.documents[c.document] for c in found.negatives[row]))
    ]
    own = [[found.positive_scores[row], *(c.score for c in found.negatives[row])] for row in rows]
    if not rows:
        return np.zeros(0), np.zeros(0)
    queries, documents = zip(*pairs, strict=True)
    said: Iterator[Any] = iter(logits(Run.load(teacher, shop.device), queries, documents))
    other = [[next(said) for _ in scores] for scores in own]
    return reciprocal(own), reciprocal(other)


def reciprocal(rows: Sequence[Sequence[float]]) -> NDArray[np.float64]:
    """1 / rank of the first score of each row among all of it, the worst place where scores are equal."""
    return np.array([1 / sum(score >= scores[0] for score in scores) for scores in rows])
