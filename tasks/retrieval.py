"""Retrieval: texts to vectors by which a query finds its documents, learned over whole optimiser steps.

T tokens, B texts of a batch, Q queries, N documents of a step, D features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from modernbert.packing import Packed
from modernbert.weights import Encoder, encoder_to_hf
from tasks import retrieval_files, retrieval_measure
from tasks.base import Task
from tasks.cached import step_gradient
from tasks.data.borders import Split
from tasks.data.examples import Batch
from tasks.data.passages import passage_borders
from tasks.data.ranking import SequenceBatch, TupleBatch
from tasks.data.readers import Table
from tasks.data.windows import Merging
from tasks.embedders import Head, Pooling, SparseHead, keep_tokens, new_head, require_head, require_merging
from tasks.exchange import exchange, may_join
from tasks.false_negatives import Counts
from tasks.heads import architecture
from tasks.metrics import CorrelationReport, RankingReport
from tasks.optim import Optim, require
from tasks.retrieval_loss import Known, Loss, Objective
from tasks.retrieval_schema import RetrievalSchema
from tasks.st_layout import Layout
from tasks.step_rows import StepRows, gather_rows, gather_vectors, join, join_ranks
from tasks.training import gather_weights
from tasks.vectors import Embedding, Kind, Vectors, pairwise, readable


class Retrieval(Task):
    """An encoder with a head that gives dense, multi-vector or sparse vectors.

    Args:
        encoder, schema, optim: the parts; `optim` is None where a saved run is loaded.
        name: of the task, as in task=<name>.
        kind: dense (a vector a text), multi_vector (one a token; ColBERT), sparse (weights of the vocabulary; SPLADE).
        pooling: of dense; None takes what the checkpoint's sentence-transformers modules say, else mean.
        projection: features of a vector; None: those of the encoder (dense) or 128 (multi_vector).
        skip_punctuation: leave punctuation marks out of documents (multi_vector).
        merging: how the passages of a document that is split answer together: max (each by itself, the best counts),
            or with dense mean or attention (one vector).
        loss, temperature, symmetric, false_negative_margin, focal_gamma, mix_negatives, matryoshka, flops_weight: see
            `tasks.retrieval_loss`.
        query_prefix, document_prefix, query_max_length, query_expansion, negatives, split: read by the schema.

    Raises:
        ConfigError: for a value that is not allowed or does not fit the others.
    """

    schema_type = RetrievalSchema
    pipeline = "feature-extraction"
    library = "sentence-transformers"
    ranks = True
    measure_ranking = retrieval_measure.measure_ranking
    next_steps: ClassVar[Mapping[str, str]] = {
        "make your documents searchable": "index run={run} corpus=docs.csv",
        "search them": 'search run={run} "what you look for"',
        "try it in the browser": "ui run={run}",
    }

    head: Head
    punctuation: Tensor

    def __init__(
        self,
        encoder: Encoder,
        schema: RetrievalSchema,
        optim: Optim | None = None,
        name: str = "retrieval",
        kind: Kind = "dense",
        pooling: Pooling | None = None,
        projection: int | None = None,
        skip_punctuation: bool = True,
        loss: Loss = "auto",
        temperature: float | Literal["auto"] = "auto",
        symmetric: bool = False,
        false_negative_margin: float | None = None,
        focal_gamma: float = 0.0,
        mix_negatives: int = 0,
        contrast: float = 0.0,
        matryoshka: Sequence[int] | None = None,
        flops_weight: Mapping[str, float] | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
        query_max_length: int | None = None,
        query_expansion: int = 0,
        negatives: int = 1,
        split: Split = "none",
        merging: Merging = "max",
    ) -> None:
        prices = {"flops_weight": flops_weight} if flops_weight is not None else {}
        objective = Objective(
            kind, schema.kind, loss, temperature, symmetric, false_negative_margin, focal_gamma, mix_negatives,
            matryoshka, score_range=schema.score_range, contrast=contrast, **prices,
        )  # fmt: skip
        require_head(kind, pooling, projection)
        filled, is_split = schema.query_expansion, schema.split != "none"
        require("task.query_expansion", filled, not filled or kind == "multi_vector", f"0 with task.kind={kind}")
        require_merging(kind, merging, is_split, mix_negatives)
        super().__init__(encoder, new_head(encoder, Layout(kind, pooling or "mean"), projection, None, merging), optim)
        self.name, self.schema, self.kind, self.objective = name, schema, kind, objective
        self.merging: Merging = merging
        #: The kind of vectors that texts get: of a document whose passages stay apart it has several.
        self.vector_kind: Kind = "multi_vector" if kind == "dense" and is_split and merging == "max" else kind
        self.asked_pooling, self.asked_projection, self.skip_punctuation = pooling, projection, skip_punctuation
        self.uses_word_table = isinstance(self.head, SparseHead) and self.head.tied
        self.pooler: dict[str, Tensor] = {}
        self.register_buffer("punctuation", torch.zeros(0, dtype=torch.int64), persistent=False)
        self.words: list[str] = []
        self.known: Known | None = None
        self.counts = Counts()
        self.seen: list[tuple[Tensor, Vectors, Tensor]] = []
        self.objective.check_size(self.head.size)

    @property
    def shown(self) -> tuple[str, ...]:  # type: ignore[override]
        """The metrics of a summary."""
        if self.schema.kind == "scored":
            return "spearman", "pearson"
        return "ndcg@10", "mrr@10", "recall@10", "recall@100", "map", "bm25_ndcg@10", "bm25_recall@100"

    def forward(self, packed: Packed) -> Tensor:
        """Dense (B, D), multi_vector (T, D) or sparse (B, V), in fp32."""
        return self.head.read(self.encoder, packed)

    def vectors(self, outputs: Tensor, packed: Packed, is_query: Tensor) -> Vectors:
        """The vectors of a pack from its outputs; `is_query` (B,) bool says what each text is.

        The passages of a text stay together as the tokens of a late-interaction text do: its score is that of the
        best one.
        """
        borders = passage_borders(packed)
        if self.kind != "multi_vector":
            if borders is None or self.vector_kind == self.kind:
                return Vectors(self.kind, outputs)
            return Vectors(self.vector_kind, outputs, borders)
        values, ends = outputs, packed.cu_seqlens.long()
        if self.skip_punctuation:
            of_document = ~is_query if borders is None else torch.repeat_interleave(~is_query, borders.diff())
            drop = torch.repeat_interleave(of_document, packed.lengths.long())
            values, ends = keep_tokens(outputs, packed, drop & torch.isin(packed.input_ids, self.punctuation))
        return Vectors(self.kind, values, ends if borders is None else ends[borders])

    def encode(self, packed: Packed, role: Literal["query", "document"]) -> Vectors:
        """The vectors of a pack of whole queries, or of whole documents."""
        is_query = torch.full((packed.batch_size,), role == "query", device=packed.input_ids.device)
        return self.vectors(self(packed), packed, is_query)

    # -- learning ------------------------------------------------------------------------------------------

    def units(self, batch: TupleBatch) -> float:  # type: ignore[override]
        return float(batch.queries)

    def on_train_start(self) -> None:
        examples = self.trainer.datamodule.examples["train"]  # type: ignore[attr-defined]
        self.known = Known(torch.from_numpy(examples.known).to(self.device), examples.documents)

    def backward_step(self, step: list[TupleBatch], total: float) -> Tensor:  # type: ignore[override]
        """The loss spans the step: every document of all micro-batches and ranks is a negative of every query."""
        world = self.trainer.world_size
        seed = (torch.initial_seed() + self.trainer.global_step) % 2**63
        generator = torch.Generator().manual_seed(seed)

        found: list[Counts] = []
        joined = True
        gather_weights(self)

        def loss_of(outputs: list[Tensor]) -> Tensor:
            nonlocal joined
            joined = may_join(self, step)
            self.memory.exchanged = world > 1  # a gathering that breaks off leaves the others waiting
            queries, documents, rows = join_ranks(*self.joined(step, outputs))
            self.memory.exchanged = world > 1 and joined
            progress = self.trainer.global_step / max(1, int(self.trainer.estimated_stepping_batches))
            loss, counts = self.objective(queries, documents, rows, self.known, generator, progress)
            found.append(counts)
            return loss

        loss = step_gradient(
            lambda batch: self(self.memory.at(batch).packed), step, loss_of, self.manual_backward, self.no_exchange,
            lambda: nullcontext() if joined else self.no_exchange(), world,
        )  # fmt: skip
        if not joined:
            exchange(self, step)
        self.counts.add(found[-1])  # here, as a step that runs out of memory is begun again
        return loss / world  # every rank has the loss of the whole step, and the sum over ranks is shown

    def joined(self, step: Sequence[TupleBatch], outputs: Sequence[Tensor]) -> tuple[Vectors, Vectors, StepRows]:
        """The queries, the documents and the rows of the micro-batches of a step, from their outputs."""
        found = []
        for batch, output in zip(step, outputs, strict=True):
            is_query = torch.arange(len(batch.row), device=output.device) < batch.queries
            found.append(self.vectors(output, batch.packed, is_query))
        return join(step, found)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["false_negatives"] = vars(self.counts).copy()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.counts = Counts(**checkpoint["false_negatives"])

    def on_train_epoch_end(self) -> None:
        """Says how many negatives were none, and logs it."""
        counts, self.counts = self.counts, Counts()
        if not counts.pairs:
            return
        self.print(f"epoch {self.current_epoch + 1}: {counts.in_words()}")
        for name, count in counts.items():
            self.log(f"false_negatives_{name}", float(count), batch_size=1)

    # -- measuring -----------------------------------------------------------------------------------------

    def new_report(self, split: str) -> Any:
        return CorrelationReport() if self.schema.kind == "scored" else RankingReport()

    def on_validation_epoch_start(self) -> None:
        super().on_validation_epoch_start()
        self.seen = []

    def validation_step(self, batch: SequenceBatch, batch_idx: int) -> None:  # type: ignore[override]
        vectors = self.vectors(self(batch.packed), batch.packed, batch.is_query)
        self.seen.append((batch.index, vectors.stored(), batch.is_query))

    def on_validation_epoch_end(self) -> None:
        collection = self.trainer.datamodule.examples["validation"]  # type: ignore[attr-defined]
        index = gather_rows(torch.cat([index for index, _, _ in self.seen]))
        # Every rank encoded a share of the texts; each ranks all of them for its share of the queries.
        vectors = gather_vectors(Vectors.cat([part for _, part, _ in self.seen])).select(index.argsort())
        self.seen = []
        share = slice(self.global_rank, None, self.trainer.world_size)
        retrieval_measure.fill_report(self.reports["validation"], collection, vectors, share)
        super().on_validation_epoch_end()

    # -- answering -----------------------------------------------------------------------------------------

    def decode(self, outputs: Tensor, batch: Batch, cut: Sequence[bool]) -> list[Embedding]:
        """The vector of each text; of pairs of a query and a document their similarity."""
        if isinstance(batch, TupleBatch):
            queries, documents, rows = self.joined([batch], [outputs])
            scores = pairwise(queries, documents.select(rows.positive)).tolist()
            return [Embedding(None, score, bool(c)) for score, c in zip(scores, cut, strict=True)]
        assert isinstance(batch, SequenceBatch)
        vectors = self.vectors(outputs, batch.packed, batch.is_query)
        found = [readable(vectors.select([i]), self.kind, self.words) for i in range(len(vectors))]
        return [Embedding(vector, None, bool(c)) for vector, c in zip(found, cut, strict=True)]

    def text_columns(self, table: Table) -> list[str]:
        """The query and, where the rows have them, the documents: then pairs are scored."""
        return [name for name in ("query", "positive") if name in table.columns]

    def to_columns(self, outputs: Sequence[Embedding | None]) -> dict[str, list[Any]]:
        """`score` of pairs, else `vector`; and `cut` where a text was cut short."""
        pairs = any(output is not None and output.score is not None for output in outputs)
        key = "score" if pairs else "vector"
        found = {key: [None if output is None else getattr(output, key) for output in outputs]}
        return found | {"cut": [None if output is None else output.cut for output in outputs]}

    # -- saving --------------------------------------------------------------------------------------------

    def hf_config(self) -> dict[str, Any]:
        kind = "ForMaskedLM" if self.kind == "sparse" else "Model"
        return dict(self.encoder.config.raw) | {"architectures": [architecture(self.encoder.config, kind)]}

    def to_hf(self) -> dict[str, Tensor]:
        """The encoder as `AutoModel` reads it, or with the masked-language head; a projection has its own folder."""
        tensors = encoder_to_hf(self.encoder)
        if isinstance(self.head, SparseHead):
            return tensors | self.head.to_hf()
        prefix = self.encoder.hf_prefix
        return {name.removeprefix(prefix): value for name, value in tensors.items()} | self.pooler

    def load_head(self, tensors: Mapping[str, Tensor], strict: bool = False) -> list[str]:
        """The masked-language head of a sparse model, which must be there; other heads are in `read_modules`."""
        if isinstance(self.head, SparseHead):
            return self.head.load(tensors)
        self.pooler = retrieval_files.pooler_of(tensors, self.encoder.hf_prefix)
        return []

    def usage(self, text: str) -> str:
        return retrieval_files.usage(self.kind, text)

    def write_modules(self, folder: Path) -> None:
        retrieval_files.write(self, folder)

    def read_modules(self, folder: Path, strict: bool = False) -> None:
        retrieval_files.read(self, folder, strict)
