"""Hard negatives: documents that a search ranks high for a query and that are not known to answer it.

What scores near or above the known answer is often an answer that nobody labelled, so a negative has to stay below it
by a margin (de Souza P. Moreira et al. 2024, "NV-Retriever", arXiv:2407.15831: 95% of the positive's score).

Q distinct queries, N documents, k ranks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from modernbert.errors import ConfigError, DataError
from tasks.data.ranking.rows import RankingTable
from tasks.embedding import Embedder
from tasks.search.bm25 import Bm25
from tasks.search.known import known_answers
from tasks.vectors import Vectors, pairwise, top_k

ENGINES = ("model", "bm25", "both")
#: Last ranks of the bands that a preview shows.
BANDS = (10, 50, 200)
#: Queries searched at once.
CHUNK = 1024

PairScores = Callable[[Sequence[str], Sequence[str]], Sequence[float]]


@dataclass(frozen=True)
class Mining:
    """What counts as a hard negative.

    Args:
        engine: whose ranking is looked at: model, bm25, or both.
        ranks: first and last rank, counted without the known answers.
        margin: least share of the positive's score by which a negative stays below it; None for no such limit.
        min_score, max_score: limits of a negative's own score.
        negatives: most of a row; the highest scores are taken.

    Raises:
        ConfigError: a value outside its range.
    """

    engine: str = "model"
    ranks: tuple[int, int] = (1, 100)
    margin: float | None = 0.05
    min_score: float | None = None
    max_score: float | None = None
    negatives: int = 7

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ConfigError(f"engine={self.engine}: allowed is {', '.join(ENGINES)}.")
        if len(self.ranks) != 2 or not 1 <= self.ranks[0] <= self.ranks[1]:
            raise ConfigError(f"ranks={list(self.ranks)}: give the first and the last rank, such as [1,100].")
        if self.margin is not None and not 0 <= self.margin < 1:
            raise ConfigError(f"margin={self.margin}: allowed is null, or 0 up to, but not, 1 (0.05: 5% below).")
        if self.negatives < 1:
            raise ConfigError(f"negatives={self.negatives}: allowed is 1 or more a row.")
        if None not in (self.min_score, self.max_score) and self.min_score > self.max_score:  # type: ignore[operator]
            raise ConfigError(f"min_score={self.min_score} is above max_score={self.max_score}.")

    def in_words(self, scorer: str) -> str:
        """The limits as a sentence; `scorer` names what gives the scores."""
        first, last = self.ranks
        whose = {"model": "the model's", "bm25": "BM25's", "both": "the model's or BM25's"}[self.engine]
        limits = [f"stands at rank {first:,} to {last:,} of {whose} ranking, known answers not counted"]
        if self.margin is not None:
            limits.append(f"scores at least {100 * self.margin:g}% below the query's own positive")
        if self.min_score is not None:
            limits.append(f"scores {self.min_score:g} or more")
        if self.max_score is not None:
            limits.append(f"scores {self.max_score:g} or less")
        return (
            f"A hard negative {', '.join(limits[:-1]) + ', and ' if len(limits) > 1 else ''}{limits[-1]}; "
            f"at most {self.negatives} a row, the highest scores first. Scores are {scorer}."
        )


@dataclass(frozen=True)
class Candidate:
    """A document (its number) for a row, at the better of its ranks."""

    row: int
    document: int
    rank: int
    score: float


@dataclass
class Mined:
    """What was found: negatives of each row, the score of its positive, examples of each band, what was left out."""

    documents: list[str]
    negatives: list[list[Candidate]]
    positive_scores: list[float]
    bands: dict[str, list[Candidate]] = field(default_factory=dict)
    candidates: int = 0
    near_positive: int = 0
    out_of_limits: int = 0

    def columns(self, table: RankingTable) -> dict[str, list]:
        """Rows that train directly: `scores` are those of the positive and of each negative."""
        scores = [[p, *(c.score for c in row)] for p, row in zip(self.positive_scores, self.negatives, strict=True)]
        return {name: table.columns[name] for name in ("query_id", "query", "positive_id", "positive")} | {
            "negatives": [[self.documents[c.document] for c in row] for row in self.negatives],
            "scores": [[round(score, 6) for score in row] for row in scores],
        }


def mine(
    table: RankingTable,
    mining: Mining,
    embedder: Embedder | None,
    pair_scores: PairScores | None = None,
    tokens_per_batch: int | None = None,
    advance: Callable[[int], None] | None = None,
    examples: int = 10,
    seed: int = 0,
) -> Mined:
    """Find hard negatives for every row.

    Args:
        table: queries and their positives, and the corpus.
        embedder: the model; may be None for engine=bm25, whose scores then count.
        pair_scores: a reranker's scores in place of the model's, for the limits and for training.
        advance: told of documents that are encoded.
        examples: kept for each band of ranks, drawn at random from all candidates within the limits.

    Raises:
        ConfigError: the engine needs a model, or the rows are graded pairs.
        DataError: no rows.
    """
    if embedder is None and mining.engine != "bm25":
        raise ConfigError(f"engine={mining.engine} needs a model: run= or encoder.source=; engine=bm25 does without.")
    if table.kind != "tuples":
        raise ConfigError(f"{table.source} has graded pairs: mining needs queries with a positive each.")
    if not len(table):
        raise DataError(f"{table.source} has no rows to mine negatives for.")
    found = _Miner(table, mining, embedder, pair_scores, tokens_per_batch, advance)
    return found.run(examples, random.Random(seed))


class _Miner:
    """The state of one mining."""

    def __init__(
        self,
        table: RankingTable,
        mining: Mining,
        embedder: Embedder | None,
        pair_scores: PairScores | None,
        tokens_per_batch: int | None,
        advance: Callable[[int], None] | None,
    ) -> None:
        self.table, self.mining, self.embedder, self.pair_scores = table, mining, embedder, pair_scores
        self.budget, self.advance = tokens_per_batch, advance
        keys = list(table.corpus)
        self.documents = [table.corpus[key].full for key in keys]
        number = {key: i for i, key in enumerate(keys)}
        self.positives = [number[key] for key in table.columns["positive_key"]]
        self.queries = list(dict.fromkeys(table.columns["query"]))
        self.rows_of: dict[str, list[int]] = {}
        for row, query in enumerate(table.columns["query"]):
            self.rows_of.setdefault(query, []).append(row)
        self.known = known_answers(table, self.positives, self.documents)
        self.bm25 = Bm25(self.documents) if mining.engine != "model" else None
        self.vectors = self.encode(self.documents, "document")

    def encode(self, texts: Sequence[str], role: str) -> Vectors | None:
        """Vectors of texts, those of documents as they are stored; None without a model."""
        if self.embedder is None:
            return None
        parts = []
        for start in range(0, len(texts), 4 * CHUNK):
            part = list(texts[start : start + 4 * CHUNK])
            vectors = self.embedder.encode(part, role, self.budget, self.advance)  # type: ignore[arg-type]
            parts.append(vectors.to("cpu").stored())
        return Vectors.cat(parts)

    def run(self, examples: int, source: random.Random) -> Mined:
        count = len(self.table)
        mined = Mined(self.documents, [[] for _ in range(count)], [math.nan] * count)
        first, last = self.mining.ranks
        seen = dict.fromkeys(band_names(first, last), 0)
        mined.bands = {name: [] for name in seen}
        for start in range(0, len(self.queries), CHUNK):
            for row, candidates in self.chunk(self.queries[start : start + CHUNK], mined):
                for candidate in candidates:
                    # Every candidate is as likely to be shown as any other (Vitter 1985, reservoir sampling).
                    name = band_names(candidate.rank, candidate.rank, first, last)[0]
                    seen[name] += 1
                    shown, place = mined.bands[name], source.randrange(seen[name])
                    if len(shown) < examples:
                        shown.append(candidate)
                    elif place < examples:
                        shown[place] = candidate
                best = sorted(candidates, key=lambda c: (-c.score, c.document))
                mined.negatives[row] = best[: self.mining.negatives]
        return mined

    def chunk(self, queries: list[str], mined: Mined) -> list[tuple[int, list[Candidate]]]:
        """The candidates within the limits of each row of some queries."""
        known = [sorted(self.known[query]) for query in queries]
        ranked = self.ranked(queries, known)
        rows = [(row, ranked[i]) for i, query in enumerate(queries) for row in self.rows_of[query]]
        pairs = [(row, document) for row, ranks in rows for document in (self.positives[row], *ranks)]
        scores = iter(self.scores(pairs))
        found = []
        for row, ranks in rows:
            own = mined.positive_scores[row] = next(scores)
            candidates = [Candidate(row, document, rank, next(scores)) for document, rank in ranks.items()]
            kept = [candidate for candidate in candidates if self.is_below(candidate.score, own)]
            within = [candidate for candidate in kept if self.is_within(candidate.score)]
            mined.candidates += len(candidates)
            mined.near_positive += len(candidates) - len(kept)
            mined.out_of_limits += len(kept) - len(within)
            found.append((row, within))
        return found

    def ranked(self, queries: list[str], known: list[list[int]]) -> list[dict[int, int]]:
        """For each query the documents of the asked ranks with their rank, the better of two."""
        first, last = self.mining.ranks
        found: list[dict[int, int]] = [{} for _ in queries]
        k = min(last, len(self.documents))
        lists: list[Tensor] = []
        if self.mining.engine != "bm25":
            widest = max(map(len, known))
            exclude = torch.tensor([numbers + [-1] * (widest - len(numbers)) for numbers in known])
            vectors, asked = self.vectors, self.asked(queries)
            assert vectors is not None
            parts = torch.arange(len(vectors)).split(16 * CHUNK)
            lists.append(top_k(asked, ((part, vectors.select(part)) for part in parts), k, exclude)[1])
        if self.bm25 is not None:
            lists.append(self.bm25.rank(queries, k, known)[1])
        for ranking in lists:
            for ranks, numbers in zip(found, ranking.tolist(), strict=True):
                for rank, document in enumerate(numbers[first - 1 :], start=first):
                    if document >= 0:
                        ranks[document] = min(rank, ranks.get(document, rank))
        return found

    def asked(self, queries: Sequence[str]) -> Vectors:
        assert self.embedder is not None
        return self.embedder.encode(queries, "query", self.budget)

    def scores(self, pairs: Sequence[tuple[int, int]]) -> list[float]:
        """The score of each (row, document), the row's query with the document."""
        queries = [self.table.columns["query"][row] for row, _ in pairs]
        if self.pair_scores is not None:
            return list(self.pair_scores(queries, [self.documents[document] for _, document in pairs]))
        if self.vectors is None:
            assert self.bm25 is not None
            by_query: dict[str, list[float]] = {}
            for query in dict.fromkeys(queries):
                by_query[query] = self.bm25.scores(query).tolist()
            return [by_query[query][document] for query, (_, document) in zip(queries, pairs, strict=True)]
        distinct = {query: i for i, query in enumerate(dict.fromkeys(queries))}
        asked = self.asked(list(distinct)).to("cpu").stored()
        found: list[float] = []
        for start in range(0, len(pairs), 16 * CHUNK):
            part = slice(start, start + 16 * CHUNK)
            left = asked.select([distinct[query] for query in queries[part]])
            found += pairwise(left, self.vectors.select([document for _, document in pairs[part]])).tolist()
        return found

    def is_below(self, score: float, positive: float) -> bool:
        """Whether a score is far enough below the positive's; of a negative score a share is still a distance."""
        return self.mining.margin is None or score <= positive - self.mining.margin * abs(positive)

    def is_within(self, score: float) -> bool:
        low, high = self.mining.min_score, self.mining.max_score
        return (low is None or score >= low) and (high is None or score <= high)


def band_names(low: int, high: int, first: int = 1, last: int | None = None) -> list[str]:
    """The bands of ranks that hold ranks `low` to `high`, cut to `first` to `last` where these are given."""
    first, last = (low, high) if last is None else (first, last)
    starts = [1, *(edge + 1 for edge in BANDS)]
    ends = [*BANDS, max(last, BANDS[-1])]
    bands = zip(starts, ends, strict=True)
    return [f"rank {max(a, first):,} to {min(b, last):,}" for a, b in bands if a <= high and b >= low]
