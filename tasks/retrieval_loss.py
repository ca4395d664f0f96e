"""What retrieval learns from the vectors of a whole optimiser step: losses by the kind of rows, negatives left out,
vectors cut short (Matryoshka), the price of sparse ones.

Q queries (one a row), N documents of a step, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from modernbert.errors import ConfigError
from tasks import contrastive
from tasks.false_negatives import Counts, known_positives, masked, same_document, too_close
from tasks.optim import require
from tasks.step_rows import StepRows
from tasks.vectors import KINDS, Kind, Vectors, normalise, pairwise, similarity

Loss = Literal["auto", "infonce", "decoupled", "margin_mse", "kl", "cosent", "cosine_mse"]
DISTILLED = ("margin_mse", "kl")
TUPLES, SCORED = ("infonce", "decoupled", *DISTILLED), ("cosent", "cosine_mse")
#: Of cosines, which lie in -1 to 1: 20 times the cosine, as sentence-transformers and most papers have it.
COSINE_TEMPERATURE = 0.05
#: Share of the steps over which the price of sparse vectors rises, as the square of the step (Formal et al. 2021,
#: arXiv:2109.10086): from the start it would empty vectors that do not mean anything yet.
FLOPS_WARMUP = 1 / 3


@dataclass(frozen=True)
class Known:
    """The pairs that the training data call relevant: `TupleExamples.known` and its factor."""

    keys: Tensor
    documents: int


@dataclass(frozen=True)
class Objective:
    """The loss of a step. The arguments are the task's keys, see docs/retrieval.md; `rows` is the kind of the rows, and
    `score_range` that of graded ones in training.

    Raises:
        ConfigError: for a value that is not allowed or does not fit the others.
    """

    kind: Kind = "dense"
    rows: Literal["tuples", "scored"] = "tuples"
    loss: Loss = "auto"
    temperature: float | Literal["auto"] = "auto"
    symmetric: bool = False
    false_negative_margin: float | None = None
    focal_gamma: float = 0.0
    mix_negatives: int = 0
    matryoshka: Sequence[int] | None = None
    flops_weight: Mapping[str, float] = field(default_factory=lambda: {"query": 5e-5, "document": 3e-5})
    score_range: tuple[float, float] | None = None
    contrast: float = 0.0

    def __post_init__(self) -> None:
        require("task.kind", self.kind, self.kind in KINDS, f"one of {', '.join(KINDS)}")
        allowed = TUPLES if self.rows == "tuples" else SCORED
        what = "rows of queries and documents" if self.rows == "tuples" else "pairs with a score"
        require("task.loss", self.loss, self.loss in ("auto", *allowed), f"auto or {', '.join(allowed)}, for {what}")
        chosen = self.temperature
        require(
            "task.temperature", chosen, chosen == "auto" or 0 < float(chosen) <= 100, "auto, or above 0 (usual: 0.05)"
        )
        require("task.focal_gamma", self.focal_gamma, self.focal_gamma >= 0, "0 (off) or more (usual: 0.5)")
        margin = self.false_negative_margin
        require("task.false_negative_margin", margin, margin is None or margin >= 0, "null, or 0 or more (usual: 0.05)")
        require("task.mix_negatives", self.mix_negatives, self.mix_negatives >= 0, "0 (off) or more")
        named = set(self.flops_weight) == {"query", "document"}
        require("task.flops_weight", self.flops_weight, named, "a weight for query and one for document")
        for name, weight in self.flops_weight.items():
            require(f"task.flops_weight.{name}", weight, weight >= 0, "0 or more (usual: 1e-5 to 1e-3)")
        softmax = "task.loss=infonce"
        for key in ("symmetric", "focal_gamma", "mix_negatives"):
            value = getattr(self, key)
            require(f"task.{key}", value, not value or self.name == "infonce", f"off unless {softmax}")
        require("task.contrast", self.contrast, self.contrast >= 0, "0 (off) or more (usual: 1)")
        taught, losses = self.name in DISTILLED, " or ".join(DISTILLED)
        require("task.contrast", self.contrast, taught or not self.contrast, f"0 unless task.loss={losses}")
        dense = self.kind == "dense"
        require("task.mix_negatives", self.mix_negatives, dense or not self.mix_negatives, "0 unless task.kind=dense")
        require("task.matryoshka", self.matryoshka, dense or not self.matryoshka, "null unless task.kind=dense")
        fits = self.name != "cosine_mse" or self.kind != "sparse"
        require("task.loss", self.loss, fits, "cosent with task.kind=sparse, whose similarities have no bound")

    @property
    def name(self) -> str:
        """The loss; auto is that of the kind of rows."""
        return (TUPLES if self.rows == "tuples" else SCORED)[0] if self.loss == "auto" else self.loss

    @property
    def scale(self) -> float:
        """What similarities are divided by. Those of tokens are summed over the query and those of sparse vectors have
        no bound: they are large enough for a softmax as they are. (Graded multi-vector pairs are averaged.)"""
        if self.temperature != "auto":
            return float(self.temperature)
        return COSINE_TEMPERATURE if self.kind == "dense" or (self.rows == "scored" and self.kind != "sparse") else 1.0

    def check_size(self, size: int) -> None:
        """Refuse Matryoshka sizes that are no beginnings of a vector of `size`."""
        for part in self.matryoshka or ():
            ok = isinstance(part, int) and 0 < part < size
            require(
                "task.matryoshka",
                list(self.matryoshka or ()),
                ok,
                f"sizes from 1 to {size - 1}, below the whole vector",
            )

    def __call__(
        self,
        queries: Vectors,
        documents: Vectors,
        rows: StepRows,
        known: Known | None,
        generator: torch.Generator,
        progress: float = 1.0,
    ) -> tuple[Tensor, Counts]:
        """The mean loss over the rows of a step, and what was left out as negatives.

        Args:
            queries, documents: Q and N vectors; the gradient goes to them.
            rows: how they belong together.
            known: None where nothing is known but the rows themselves.
            generator: for mixed negatives, the same on every rank.
            progress: share of the training that is done, for the price of sparse vectors.
        """
        if self.name in SCORED:
            loss, counts = self.graded(queries, documents, rows), Counts()
        elif self.name in DISTILLED:
            loss, counts = self.distilled(queries, documents, rows, known)
        else:
            loss, counts = self.ranked(queries, documents, rows, known, generator)
        if self.kind == "sparse":
            rise = min(1.0, progress / FLOPS_WARMUP) ** 2
            for vectors, name in ((queries, "query"), (documents, "document")):
                loss = loss + rise * self.flops_weight[name] * contrastive.flops(vectors.values)
        return loss, counts

    def ranked(
        self, queries: Vectors, documents: Vectors, rows: StepRows, known: Known | None, generator: torch.Generator
    ) -> tuple[Tensor, Counts]:
        """InfoNCE or the decoupled softmax, at every size."""
        found = similarity(queries, documents)
        same, relevant = relevance(rows, known)
        close = None
        if self.false_negative_margin is not None:
            close = too_close(found, rows.positive, self.false_negative_margin)
        ignored, counts = masked(rows, same, relevant, close)
        losses = []
        for size in self.sizes():
            first, second = (v if size is None else shortened(v, size) for v in (queries, documents))
            scores = (found if size is None else similarity(first, second)) / self.scale
            if self.name == "decoupled":
                suspected = None if close is None else ignored & ~relevant
                each = contrastive.decoupled(scores, rows.positive, relevant, suspected)
            else:
                extra = None
                if self.mix_negatives:
                    barred = ignored.scatter(1, rows.positive[:, None], True)
                    sides = first.values, second.values
                    mixed = contrastive.mixed_scores(*sides, scores, barred, self.mix_negatives, generator)
                    extra = mixed / self.scale
                each = contrastive.info_nce(scores, rows.positive, ignored, extra, self.focal_gamma, self.symmetric)
            losses.append(each.mean())
        return torch.stack(losses).mean(), counts

    def distilled(
        self, queries: Vectors, documents: Vectors, rows: StepRows, known: Known | None
    ) -> tuple[Tensor, Counts]:
        """MarginMSE or the divergence from a teacher's scores, over each row's own documents.

        These losses do not see how near all other documents come. With `contrast`, InfoNCE over the documents of the
        other rows holds them off (Santhanam et al. 2022, arXiv:2112.01488).
        """
        if rows.targets is None:
            raise ConfigError(
                f"task.loss={self.name} learns from a teacher's scores of each row's documents, and the training rows "
                "have none: give a column of them, or task.loss=infonce."
            )
        function = contrastive.margin_mse if self.name == "margin_mse" else contrastive.kl
        ignored, counts = None, Counts()
        if self.contrast:
            ignored, counts = masked(rows, *relevance(rows, known), None)
            ignored = (ignored | rows.listed()).scatter(1, rows.positive[:, None], False)  # of these the teacher speaks
        losses = []
        for size in self.sizes():
            first, second = (v if size is None else shortened(v, size) for v in (queries, documents))
            scores = similarity(first, second) / self.scale
            own = scores.gather(1, rows.own.clamp(min=0))
            teacher = rows.targets[:, : own.shape[1]].to(own).masked_fill(rows.own < 0, torch.nan)
            losses.append(function(own, teacher).mean())
            if ignored is not None:
                losses[-1] = losses[-1] + self.contrast * contrastive.info_nce(scores, rows.positive, ignored).mean()
        return torch.stack(losses).mean(), counts

    def graded(self, queries: Vectors, documents: Vectors, rows: StepRows) -> Tensor:
        """CoSENT or the squared error, over pairs with a score."""
        assert rows.targets is not None  # pairs without a score are refused when they are read
        losses = []
        for size in self.sizes():
            first, second = (v if size is None else shortened(v, size) for v in (queries, documents))
            found = pair_scores(first, second.select(rows.positive))
            if self.name == "cosent":
                # Divided by the pairs, the loss would shrink with the batch; as it is, it is one number a step.
                losses.append(contrastive.cosent(found / self.scale, rows.targets))
            else:
                losses.append(contrastive.cosine_mse(found, self.as_cosines(rows.targets)).mean())
        return torch.stack(losses).mean()

    def as_cosines(self, targets: Tensor) -> Tensor:
        """Scores as similarities to reach: a cosine cannot be 5, so a range beyond -1 to 1 becomes 0 to 1."""
        if self.score_range is None or -1 <= self.score_range[0] <= self.score_range[1] <= 1:
            return targets
        low, high = self.score_range
        return (targets - low) / (high - low)

    def sizes(self) -> list[int | None]:
        """The sizes that are trained; None is the whole vector."""
        return [*(self.matryoshka or ()), None]


def relevance(rows: StepRows, known: Known | None) -> tuple[Tensor, Tensor]:
    """(Q, N) of the documents of a step which are the positive's own text, and these with all known as positives."""
    same = same_document(rows)
    return same, same if known is None else same | known_positives(rows, known.keys, known.documents)


def shortened(vectors: Vectors, size: int) -> Vectors:
    """The first features of dense vectors, at length 1 (Kusupati et al. 2022, arXiv:2205.13147)."""
    return Vectors(vectors.kind, normalise(vectors.values[:, :size]), vectors.cu_seqlens)


def pair_scores(queries: Vectors, documents: Vectors) -> Tensor:
    """(N,) similarity of pairs; that of tokens is averaged over the query, so that pairs can be compared."""
    found = pairwise(queries, documents)
    return found if queries.cu_seqlens is None else found / queries.cu_seqlens.diff()
