"""`modernbert mine`: hard negatives, shown by rank before they are written as rows that train directly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from app import console
from app.compose import plain
from app.doctor import Doctor
from app.progress import tracking
from app.threads import use_threads
from modernbert.errors import ConfigError
from tasks.comparison import shortened
from tasks.data.ranking.rows import RankingTable, read_tuples
from tasks.data.schema import Report
from tasks.data.writers import open_writer
from tasks.run import Run
from tasks.search.mine import Mined, Mining, mine
from tasks.search.model import open_embedder
from tasks.search.rerank import pair_scores

#: Characters of a text in the preview.
SHOWN = 70
SCORES = ("positive's", "score")


def main(cfg: DictConfig) -> int:
    """Mine, show, write; returns the exit status."""
    use_threads(cfg.threads)
    settings = plain(cfg)
    names = ("engine", "margin", "min_score", "max_score", "negatives")
    ranks = settings["ranks"]
    if not isinstance(ranks, list) or not all(isinstance(rank, int) for rank in ranks):
        raise ConfigError(f"ranks={ranks}: give the first and the last rank, such as [1,100].")
    mining = Mining(ranks=tuple(ranks), **{name: settings[name] for name in names})  # type: ignore[arg-type]
    output = Path(settings["output"])
    if output.exists() and output.resolve() == Path(settings["data"]["train"]).resolve():
        raise ConfigError(f"output={output} is data.train: name another file, nothing is overwritten.")
    table = read_rows(settings["data"])
    has_model = settings["run"] is not None or any(value is not None for value in settings["encoder"].values())
    embedder = None
    if has_model or mining.engine != "bm25":
        embedder, _ = open_embedder(settings["run"], settings["encoder"], settings["device"], settings["precision"])
    scorer, pairs = "the model's" if embedder else "BM25's", None
    if settings["rerank"]:
        reranker = Run.load(settings["rerank"], settings["device"], settings["precision"])
        scorer, pairs = f"those of {settings['rerank']}", lambda q, d: pair_scores(reranker, q, d)
    console.out().print(mining.in_words(scorer), soft_wrap=True)
    budget = None if settings["tokens_per_batch"] == "auto" else int(settings["tokens_per_batch"])
    with tracking("encoding documents", len(table.corpus) if embedder else None) as advance:
        mined = mine(table, mining, embedder, pairs, budget, advance, settings["preview"], settings["seed"])
    show(mined, table)
    if not settings["write"]:
        console.out().print("write=false: nothing is written")
        return 0
    output.parent.mkdir(parents=True, exist_ok=True)
    with open_writer(output) as writer:
        writer.write(mined.columns(table))
    console.out().print(f"written: {output}")
    console.out().print(f"train on it: modernbert train task=retrieval data.train={output}", soft_wrap=True)
    return 0


def read_rows(data: Mapping[str, Any], split: Literal["train", "validation"] = "train") -> RankingTable:
    """The rows of data.<split>, those that cannot be used told by the doctor."""
    report = Report()
    table = read_tuples(data[split], data["columns"], report, split, data["corpus"])
    Doctor().show(report)
    for note in table.notes:
        if "guessed" in note:  # others speak of validation
            console.note(note)
    # A row without a query or a positive asks for nothing.
    cells = zip(table.columns["query"], table.columns["positive"], strict=True)
    return table.select([i for i, row in enumerate(cells) if all(isinstance(c, str) and c.strip() for c in row)])


def show(mined: Mined, table: RankingTable) -> None:
    """Examples of each band of ranks, then what the limits left."""
    out = console.out()
    for band, candidates in mined.bands.items():
        if not candidates:
            continue
        rows = []
        for candidate in sorted(candidates, key=lambda c: c.rank):
            query, positive = (table.columns[name][candidate.row] for name in ("query", "positive"))
            texts = (query, positive, mined.documents[candidate.document])
            own = mined.positive_scores[candidate.row]
            cells = [shortened(" ".join(text.split()), SHOWN) for text in texts]
            rows.append([*cells, f"{own:.3f}", f"{candidate.score:.3f}"])
        out.print(f"\n{band}")
        out.print(console.table(["query", "positive", "negative", *SCORES], rows, right=SCORES))
    sizes = [len(row) for row in mined.negatives]
    out.print()
    out.print(
        f"{len(sizes):,} rows, {sum(size > 0 for size in sizes):,} with negatives, {sum(sizes):,} negatives in all. Of "
        f"{mined.candidates:,} candidates {mined.near_positive:,} were left out as too near the positive (many are "
        f"answers nobody labelled), {mined.out_of_limits:,} by the score limits.",
        soft_wrap=True,
    )
