"""Reranking: the candidates of a query in order of relevance, by a cross-encoder or one of two cheaper models.

P pairs of a batch, Q queries, K most candidates of a query, T tokens, D hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modernbert.attention import Prefixed
from modernbert.errors import ConfigError, DataError
from modernbert.packing import Packed, split
from modernbert.weights import Encoder
from tasks import listwise, losses, metrics, reranking_tables
from tasks.base import Task
from tasks.candidates import CandidateBatch
from tasks.collapse import CollapseWatch, Setting
from tasks.data.examples import Batch
from tasks.data.module import AUTO_TOKENS
from tasks.heads import Pooling, SequenceHead, architecture, labelled_config, load_head
from tasks.interaction import KINDS, Kept, Kind, PolyHead, UniHead, new_head, poly_scores, rescale, uni_scores
from tasks.optim import Optim, require
from tasks.platt import fit_platt
from tasks.reranking_schema import POINTWISE, RerankingSchema
from tasks.reranking_tables import add_rankings, ranks_within

LOSSES = (*POINTWISE, *listwise.LISTWISE, "margin_mse")
#: Where sentence-transformers' CrossEncoder finds what turns a logit into a score.
SIGMOID, IDENTITY = "torch.nn.modules.activation.Sigmoid", "torch.nn.modules.linear.Identity"


@dataclass(frozen=True)
class Score:
    """How well a document answers its query; a probability where the loss or the calibration gives one.

    `query` numbers the queries of what was asked together: ranks are among equal numbers.
    """

    value: float
    query: int
    cut: bool = False


class Reranking(Task):
    """An encoder with one score for each pair of a query and a document.

    Args:
        encoder, schema, optim: the parts; `optim` is None where a saved run is loaded.
        name: of the task, as in task=<name>.
        kind: cross reads each pair as one text; poly and uni are in `tasks.interaction`.
        loss: of single pairs bce, mse; over the candidates of a query listnet, softmax, lambda, margin, margin_mse.
        positive_weight: of relevant pairs in bce: None for 1, "balanced" (other rows / relevant rows), or a number.
        pooling, head_dropout: of the cross- and uni-encoder's head, as in classification.
        codes: m of the poly-encoder.
        candidates, long, overlap: read by the schema.
        calibrate: platt fits probabilities on the validation rows and writes them into the last layer.
        alarm: whether a training that learns nothing is stopped (`tasks.collapse`).

    Raises:
        ConfigError: for a value that is not allowed.
    """

    schema_type = RerankingSchema
    pipeline = "text-classification"
    library = "sentence-transformers"
    ranks = True
    measure_ranking = reranking_tables.measure_ranking
    next_steps: ClassVar[Mapping[str, str]] = {
        "score pairs, and rank each query's": "predict run={run} input=pairs.csv output=ranked.csv",
        "sort what a retriever finds": 'search run=<retrieval run> rerank={run} "what you look for"',
        "try it in the browser": "ui run={run}",
    }

    schema: RerankingSchema
    head: SequenceHead | PolyHead | UniHead

    def __init__(
        self,
        encoder: Encoder,
        schema: RerankingSchema,
        optim: Optim | None = None,
        name: str = "reranking",
        kind: Kind = "cross",
        loss: str = "bce",
        positive_weight: Literal["balanced"] | float | None = None,
        pooling: Literal["auto", "cls", "mean"] = "auto",
        head_dropout: float | None = None,
        codes: int = 64,
        candidates: int | None = None,
        calibrate: Literal["none", "platt"] = "none",
        long: Literal["head", "window"] = "head",
        overlap: int | Literal["auto"] = "auto",
        alarm: bool = True,
    ) -> None:
        require("task.kind", kind, kind in KINDS, ", ".join(KINDS))
        require("task.loss", loss, loss in LOSSES, ", ".join(LOSSES))
        require("task.pooling", pooling, pooling in ("auto", "cls", "mean"), "auto, cls or mean")
        require("task.codes", codes, codes >= 1, "1 or more (the paper: 16, 64, 360)")
        require("task.alarm", alarm, isinstance(alarm, bool), "true or false")
        require("task.calibrate", calibrate, calibrate in ("none", "platt"), "none or platt")
        weight = positive_weight
        fits = weight in (None, "balanced") or (isinstance(weight, (int, float)) and weight > 0)
        require("task.positive_weight", weight, fits, "null, balanced or a number above 0")
        require("task.positive_weight", weight, weight is None or loss == "bce", f"null with task.loss={loss}")
        pool: Pooling | None = None if pooling == "auto" else pooling
        super().__init__(encoder, new_head(encoder.config, kind, pool, head_dropout, codes), optim)
        self.name, self.schema, self.kind, self.loss, self.calibrate = name, schema, kind, loss, calibrate
        balanced = schema.negatives / max(1, schema.positives)
        self.positive_weight = 1.0 if weight is None else float(balanced if weight == "balanced" else weight)
        self.shown = ("spearman", "pearson") if schema.grades == "scored" else ("map", "mrr@10", "ndcg@10")
        if kind != "cross":
            # Nothing but this package loads it.
            self.pipeline, self.library = f"{kind}-encoder", "modernbert"  # type: ignore[misc]
        #: Slope and offset that were fitted on validation rows and written into the last layer.
        self.platt: tuple[float, float] | None = None
        self.measured: tuple[Tensor, Tensor] | None = None
        self.kept = Kept()
        self.watch = CollapseWatch(
            Setting(loss, optim.lr if optim else 0.0, schema.positives, schema.negatives, self.positive_weight),
            alarm,
        )

    def forward(self, packed: Packed) -> Tensor:
        """Logits (P, 1) of the pairs of a pack; those of poly and uni must be `Prefixed`."""
        if isinstance(self.head, SequenceHead):
            return self.head(self.head.read(self.encoder, packed))
        if not isinstance(packed, Prefixed):  # what exports are made of
            raise ConfigError(
                f"A {self.kind}-encoder reads queries and documents apart, which nothing but this package does. "
                "Train with task.kind=cross for a run that other software loads."
            )
        if isinstance(self.head, UniHead):
            return uni_scores(self.encoder, self.head, packed)
        return poly_scores(self.encoder, self.head, packed, None if torch.is_grad_enabled() else self.kept)

    # -- learning ------------------------------------------------------------------------------------------

    def loss_sum(self, outputs: Tensor, batch: CandidateBatch, reduce: bool = True) -> Tensor:  # type: ignore[override]
        """Of pairs (P,) or of queries (Q,), where it is not reduced."""
        scores = outputs.squeeze(1)
        targets, each, flat = self.goal(batch), None, None
        if self.loss == "bce":
            weight = torch.tensor([self.positive_weight], device=scores.device)
            each = losses.bce_sum(outputs, targets[:, None], weight, reduce=False)
        elif self.loss == "mse":
            each = losses.mse_sum(scores, targets, reduce=False)
        else:
            each = self.list_losses(scores, targets, batch)
            flat = self.list_losses(torch.zeros_like(scores), targets, batch).sum() if self.training else None
        if self.training:
            self.watch.add(each.sum(), scores, targets, flat)
        return each.sum() if reduce else each

    def list_losses(self, scores: Tensor, targets: Tensor, batch: CandidateBatch) -> Tensor:
        """(Q,) losses over the candidates of each query."""
        lists, real = listwise.to_lists(scores, batch.query)
        goal, _ = listwise.to_lists(targets, batch.query)
        if self.loss != "margin_mse":
            return listwise.LISTWISE[self.loss](lists, goal, real)
        # Labels say which pairs count, a teacher how far apart they are; scores alone say both.
        labels = None if batch.teacher is None else listwise.to_lists(batch.goal, batch.query)[0]
        return listwise.margin_mse(lists, goal, real, labels)

    def goal(self, batch: CandidateBatch) -> Tensor:
        """(P,) what scores are compared with: labels from 0 to 1 for bce, a teacher's scores, or labels."""
        if self.loss == "bce":
            return batch.goal / self.schema.highest
        return batch.goal if batch.teacher is None else batch.teacher

    def units(self, batch: CandidateBatch) -> float:  # type: ignore[override]
        """Pairs, or queries for a loss over lists."""
        if self.loss in POINTWISE:
            return float(len(batch))
        return float(len(batch.query.unique_consecutive()))

    def backward_step(self, step: list[Batch], total: float) -> Tensor:
        self.watch.begin()
        return super().backward_step(step, total)

    def training_step(self, step: list[Batch], batch_idx: int) -> None:
        super().training_step(step, batch_idx)
        total = int(self.trainer.estimated_stepping_batches)
        self.watch.step(self.trainer.global_step, total, self.all_ranks)

    def on_fit_start(self) -> None:
        data: Any = getattr(self.trainer, "datamodule", None)
        if self.calibrate == "platt" and data is not None and "validation" not in data.examples:
            raise ConfigError("task.calibrate=platt needs validation rows: data.validation, or a share above 0.")

    # -- measuring -----------------------------------------------------------------------------------------

    def new_report(self, split: str) -> Any:
        if self.schema.grades == "scored":
            return metrics.CorrelationReport()
        return metrics.RankingReport(headline="map")

    def update_report(self, report: Any, outputs: Tensor, batch: CandidateBatch) -> None:  # type: ignore[override]
        """Add queries, each with all its candidates."""
        if self.schema.grades == "scored":
            report.update(outputs.squeeze(1), batch.goal, batch.index)
        else:
            add_rankings(report, outputs.squeeze(1), batch.goal, batch.query)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """As in other tasks, but a query with thousands of candidates is scored in parts."""
        if self.kind != "cross":
            super().validation_step(batch, batch_idx)
            return
        parts = split(batch.packed, AUTO_TOKENS[self.device.type])
        outputs = batch.merge(torch.cat([self(part) for part in parts]))
        self.update_report(self.reports["validation"], outputs.float(), batch)  # type: ignore[arg-type]

    def fit(self, report: Any) -> bool:
        """Calibrate on the validation rows that were just measured; True if scores change."""
        if self.calibrate == "none" or self.measured is None:
            return False
        logits, labels = self.measured
        slope, offset = fit_platt(logits.numpy(), labels.numpy() > 0)
        if slope <= 0:
            raise DataError(
                "task.calibrate=platt: on the validation rows higher scores are less relevant, so the model has "
                "learned the opposite of its task. Look at the labels, or train with task.calibrate=none."
            )
        rescale(self.head, slope, offset)
        self.platt = slope, offset
        return True

    # -- answering -----------------------------------------------------------------------------------------

    @property
    def probability(self) -> bool:
        """Whether scores are probabilities."""
        return self.loss == "bce" or self.platt is not None

    def values(self, logits: Tensor) -> Tensor:
        """Logits as scores, in fp32."""
        return torch.sigmoid(logits.float()) if self.probability else logits.float()

    def scored(self, outputs: Tensor, query: Tensor, cut: Sequence[bool]) -> list[Score]:
        """Logits (P, 1) as scores of the pairs of these queries (P,)."""
        values = self.values(outputs.squeeze(1)).tolist()
        return [Score(v, q, c) for v, q, c in zip(values, query.tolist(), cut, strict=True)]

    def decode(self, outputs: Tensor, batch: CandidateBatch, cut: Sequence[bool]) -> list[Score]:  # type: ignore[override]
        return self.scored(outputs, batch.query, cut)

    def to_columns(self, outputs: Sequence[Score | None]) -> dict[str, list[Any]]:
        """`score`, `rank` within the query from 1, `cut`."""
        there = [output for output in outputs if output is not None]
        ranks = iter(ranks_within([o.value for o in there], [o.query for o in there]) if there else ())
        return {
            "score": [None if output is None else output.value for output in outputs],
            "rank": [None if output is None else next(ranks) for output in outputs],
            "cut": [None if output is None else output.cut for output in outputs],
        }

    def decisions(self, outputs: Sequence[Score]) -> list[Any]:
        return self.to_columns(outputs)["rank"]

    # -- saving --------------------------------------------------------------------------------------------

    def load_head(self, tensors: Mapping[str, Tensor], strict: bool = False) -> list[str]:
        """A fresh uni-encoder takes what the checkpoint has of a sequence head (BERT's pooler)."""
        if isinstance(self.head, UniHead) and not strict:
            return load_head(self.head.uni, tensors, self.encoder.hf_prefix)
        return super().load_head(tensors, strict)

    def usage(self, text: str) -> str:
        if self.kind == "cross":
            return (
                "from sentence_transformers import CrossEncoder\n\n"
                f'CrossEncoder("model").rank({text!r}, ["The courier left it next door.", "We open at nine."])'
            )
        return (
            "from tasks.data.readers import Table\nfrom tasks.run import Run\n\n"
            f'pairs = {{"query": [{text!r}] * 2, "document": ["The courier left it next door.", "We open at nine."]}}\n'
            'Run.load(".").outputs(Table("pairs", pairs, [1, 2]))'
        )

    def fitted(self) -> dict[str, Any]:
        return {"platt": self.platt}

    def restore(self, fitted: Mapping[str, Any]) -> None:
        """The last layer holds the calibration already."""
        self.platt = None if fitted["platt"] is None else (float(fitted["platt"][0]), float(fitted["platt"][1]))

    def hf_config(self) -> dict[str, Any]:
        """config.json for transformers and sentence-transformers' CrossEncoder; of poly and uni that of the encoder."""
        if not isinstance(self.head, SequenceHead):
            return self.encoder.config.raw | {"architectures": [architecture(self.encoder.config, "Model")]}
        raw = labelled_config(self.encoder.config, "SequenceClassification", ["relevance"], self.head.drop.p)
        # A pipeline of transformers then gives the probability or the bare score, as we do.
        raw["problem_type"] = None if self.probability else "regression"
        raw["sentence_transformers"] = {"activation_fn": SIGMOID if self.probability else IDENTITY}
        if self.encoder.config.family == "modernbert":
            raw["classifier_pooling"] = self.head.pool
        return raw
