"""Named entities: a tag for each word from one packed encoder, a linear or a CRF head, spans that follow the scheme.

T tokens, B texts of a batch, U units (words, as a rule), L tags, S spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from modernbert.packing import Packed
from modernbert.weights import Encoder
from tasks import losses, metrics, ner_tables, plots
from tasks.answers import Span
from tasks.base import Task
from tasks.crf import CRF, penalty, viterbi
from tasks.data.readers import Table
from tasks.data.writers import open_writer, with_columns
from tasks.heads import TokenHead, labelled_config
from tasks.ner_schema import NerSchema
from tasks.optim import Optim, require
from tasks.spans import Spans, TagTable, pair_up, spans_of
from tasks.tagged import TaggedBatch

#: Transitions start at zero and have no pretraining: with the rate of the encoder (2e-5 to 2e-4) they would hardly move
#: in the few hundred steps of a fine-tuning.
CRF_RATE = 100.0


@dataclass(frozen=True)
class Reading:
    """What a batch was read as: tags of the words (W,) with their probability, and the spans they make.

    `words` are the spans counted in words of the batch, `found` the same in characters of their texts.
    """

    tags: Tensor
    sure: Tensor
    words: Spans
    found: Spans


class Ner(Task):
    """An encoder with the Hugging Face token head of its family, and on request a CRF behind it.

    Args:
        encoder, schema, optim: the parts; `optim` is None where a saved run is loaded.
        name: of the task, as in task=<name>.
        scheme, subwords, overlap: read by the schema.
        head: linear, or crf: its transitions are learned beside the linear layer.
        head_dropout: None takes the checkpoint's.
        loss: cross_entropy, or focal (Lin et al. 2017); of the linear head, as the next three.
        class_weights: None, "balanced" (words / (classes * words of the class)), or a weight for each label and O.

    Raises:
        ConfigError: for a value that is not allowed or does not fit the head.
    """

    schema_type = NerSchema
    pipeline = "token-classification"
    pipeline_options = ', aggregation_strategy="first"'
    shown = ("f1", "precision", "recall", "f1_macro", "f1_partial", "f1_type", "token_accuracy")

    head: TokenHead
    weights: Tensor | None
    rule: Tensor
    rule_first: Tensor
    rule_last: Tensor

    def __init__(
        self,
        encoder: Encoder,
        schema: NerSchema,
        optim: Optim | None = None,
        name: str = "ner",
        scheme: Literal["BIO", "BIOES"] = "BIO",
        subwords: Literal["first", "all"] = "first",
        overlap: int | Literal["auto"] = "auto",
        head: Literal["linear", "crf"] = "linear",
        head_dropout: float | None = None,
        loss: Literal["cross_entropy", "focal"] = "cross_entropy",
        focal_gamma: float = 2.0,
        label_smoothing: float = 0.0,
        class_weights: Literal["balanced"] | Mapping[str, float] | None = None,
    ) -> None:
        require("task.head", head, head in ("linear", "crf"), "linear or crf")
        require("task.loss", loss, loss in ("cross_entropy", "focal"), "cross_entropy or focal")
        require("task.label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "0 up to, but not, 1")
        require("task.focal_gamma", focal_gamma, focal_gamma >= 0, "0 or more (usual: 2)")
        if head == "crf":
            why = "with task.head=crf, whose loss is the likelihood of whole sequences, or task.head=linear"
            require("task.loss", loss, loss == "cross_entropy", f"cross_entropy {why}")
            require("task.label_smoothing", label_smoothing, label_smoothing == 0, f"0 {why}")
            require("task.class_weights", class_weights, class_weights is None, f"null {why}")
        tags = schema.tags
        super().__init__(encoder, TokenHead(encoder.config, len(tags.names), head_dropout), optim)
        self.name, self.schema, self.tags, self.table = name, schema, tags, TagTable.of(tags)
        self.focal_gamma = focal_gamma if loss == "focal" else None
        self.label_smoothing = label_smoothing
        by_label = losses.weigh_classes(class_weights, schema.counts)  # of O and the labels; -1 + 1 is O
        self.register_buffer("weights", None if by_label is None else by_label[self.table.label + 1], persistent=False)
        allowed = torch.from_numpy(tags.transitions())
        rules = allowed[:-1, :-1], allowed[-1, :-1], allowed[:-1, -1]
        self.crf = CRF(len(tags.names), *rules) if head == "crf" else None
        for rule, mask in zip(("rule", "rule_first", "rule_last"), rules, strict=True):
            self.register_buffer(rule, penalty(mask, tuple(mask.shape)), persistent=False)

    def forward(self, packed: Packed, rows: Tensor | None = None) -> Tensor:
        """Logits (T, L); with `rows` (R,) int64 only the (R, L) of those tokens."""
        return self.head(self.encoder(packed, rows=rows))

    def outputs(self, batch: TaggedBatch) -> Tensor:  # type: ignore[override]
        """Logits (U, L) of the units. No other token goes through the last layer's MLP: of MiniLM's six layers that
        saves an eighth of what the sub-words without a tag cost."""
        return batch.over_windows(self(batch.packed, batch.unit_tokens))

    # -- learning ------------------------------------------------------------------------------------------

    def loss_sum(self, outputs: Tensor, batch: TaggedBatch, reduce: bool = True) -> Tensor:  # type: ignore[override]
        """Of units (U,) for the linear head, of texts (B,) for the CRF, where it is not reduced."""
        goal = batch.targets
        assert goal is not None
        if self.crf is not None:
            each = self.crf.loss(outputs, goal, batch.cu_units)
            return each.sum() if reduce else each
        if self.focal_gamma is not None:
            return losses.focal_sum(outputs, goal, self.focal_gamma, self.weights, reduce)
        return losses.cross_entropy_sum(outputs, goal, self.weights, self.label_smoothing, reduce)

    def units(self, batch: TaggedBatch) -> float:  # type: ignore[override]
        """Tagged units, or their weights. Of the CRF too: so one learning rate fits both heads, and a long text
        counts by its words.
        """
        assert batch.targets is not None
        return float(losses.units(batch.targets, self.weights))

    def parameter_groups(self, optim: Optim) -> list[dict]:
        groups = super().parameter_groups(optim)
        if self.crf is not None:
            rate = optim.lr * CRF_RATE
            groups.append({"params": list(self.crf.parameters()), "lr": rate, "weight_decay": 0.0})
        return groups

    # -- reading -------------------------------------------------------------------------------------------

    def read(self, outputs: Tensor, batch: TaggedBatch) -> Reading:
        """The best tags that keep to the scheme, and their spans."""
        logits = outputs.float()
        tags = self.best_tags(logits, batch.cu_units)
        chances = torch.softmax(logits, dim=1) if self.crf is None else self.crf.marginals(logits, batch.cu_units)
        sure = chances.gather(1, tags[:, None]).squeeze(1)
        cu_words, bounds = batch.words()
        tags, sure = tags[batch.heads], sure[batch.heads]
        words = spans_of(tags, cu_words, self.table)
        found = Spans(words.row, bounds[words.start, 0], bounds[words.end - 1, 1], words.label)
        return Reading(tags, sure, words, found)

    def best_tags(self, logits: Tensor, cu_units: Tensor) -> Tensor:
        """Tags (U,) of the best path through logits (U, L) without a forbidden transition."""
        if self.crf is not None:
            return self.crf.decode(logits, cu_units)
        tags = logits.argmax(dim=1)
        if self.breaks_rules(tags, cu_units):
            tags = viterbi(logits, cu_units, self.rule, self.rule_first, self.rule_last)
        return tags

    def breaks_rules(self, tags: Tensor, cu_units: Tensor) -> bool:
        """Whether a transition is forbidden; where none is, the best tags are the best path."""
        filled = cu_units.diff() > 0
        first, last = cu_units[:-1][filled], cu_units[1:][filled] - 1
        cost = self.rule_first[tags[first]].sum() + self.rule_last[tags[last]].sum()
        inside = torch.ones(max(0, len(tags) - 1), dtype=torch.bool, device=tags.device)
        inside[first[1:] - 1] = False
        return bool(cost + self.rule[tags[:-1], tags[1:]][inside].sum() < 0)

    def decode(self, outputs: Tensor, batch: TaggedBatch, cut: Sequence[bool]) -> list[list[Span]]:  # type: ignore[override]
        """The entities of each text; `score` is the mean probability of its words' tags."""
        reading = self.read(outputs, batch)
        found: list[list[Span]] = [[] for _ in batch.texts]
        scores = ner_tables.mean_over(reading.sure, reading.words.start, reading.words.end)
        columns = (reading.found.row, reading.found.start, reading.found.end, reading.found.label, scores)
        for row, start, end, label, score in zip(*(column.tolist() for column in columns), strict=True):
            found[row].append(Span(start, end, self.tags.labels[label], batch.texts[row][start:end], score))
        return found

    # -- measuring -----------------------------------------------------------------------------------------

    def new_report(self, split: str) -> metrics.SpanReport:
        return metrics.SpanReport(self.tags.labels)

    def update_report(self, report: Any, outputs: Tensor, batch: TaggedBatch) -> None:  # type: ignore[override]
        self.count(report, self.read(outputs, batch), batch)

    def measure(  # type: ignore[override]
        self, report: Any, worst: metrics.WorstErrors, outputs: Tensor, batch: TaggedBatch
    ) -> None:
        """One batch into the report and the list of the surest errors."""
        reading = self.read(outputs, batch)
        self.count(report, reading, batch)
        assert batch.gold is not None
        pairs = pair_up(batch.gold, reading.found)
        ner_tables.add_errors(worst, reading, batch, pairs, self.tags.labels)

    def count(self, report: metrics.SpanReport, reading: Reading, batch: TaggedBatch) -> None:
        assert batch.gold is not None
        assert batch.targets is not None
        lengths = batch.words()[0].diff()
        row = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        right = (reading.tags == batch.targets[batch.heads]).long()
        tokens_right = torch.zeros_like(lengths).index_add(0, row, right)
        report.update(reading.found, batch.gold, lengths, tokens_right, batch.index)

    def confusions(self, report: Any, most: int) -> list[dict[str, Any]]:
        """The types that are mixed up most, missed and invented ones among them."""
        return metrics.confused_pairs(report.confusion(), [*self.tags.labels, "no entity"], most)

    def plot(self, report: Any, folder: Path) -> None:
        """types.csv, the scores and errors of each type, and confusion_matrix.png."""
        rows = report.per_class()
        with open_writer(folder / "types.csv") as writer:
            writer.write({name: [row[name] for row in rows] for name in rows[0]})
        names = [*self.tags.labels, "no entity"]
        plots.confusion_matrix(folder / "confusion_matrix.png", report.confusion(), names, "entities")

    # -- answering -----------------------------------------------------------------------------------------

    def to_columns(self, outputs: Sequence[list[Span] | None]) -> dict[str, list[Any]]:
        """`entities`: a list of {start, end, label, text, score} for each text."""
        return {"entities": [None if found is None else [vars(span) for span in found] for found in outputs]}

    def decisions(self, outputs: Sequence[list[Span]]) -> list[Any]:
        return [ner_tables.places(spans) for spans in outputs]

    def readable(self, table: Table, outputs: Sequence[list[Span]]) -> dict[str, list[Any]]:
        return with_columns(ner_tables.readable(table, outputs), self.to_columns(outputs))

    def error_columns(self, errors: Sequence[Mapping[str, Any]], table: Table) -> dict[str, list[Any]]:
        return ner_tables.error_columns(errors, table)

    # -- saving --------------------------------------------------------------------------------------------

    def fitted(self) -> dict[str, Any]:
        """The CRF's scores. transformers has no place for them: in task.json they leave `model/` a plain classifier."""
        return {} if self.crf is None else {name: values.tolist() for name, values in self.crf.state_dict().items()}

    def restore(self, fitted: Mapping[str, Any]) -> None:
        if self.crf is not None:
            self.crf.load_state_dict({name: torch.tensor(values) for name, values in fitted.items()})

    def hf_config(self) -> dict[str, Any]:
        return labelled_config(self.encoder.config, "TokenClassification", self.tags.names, self.head.drop.p)
