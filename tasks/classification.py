"""Classification: binary, multi-class, multi-label, ordinal levels and regression scores, on one packed encoder.

T tokens, B sequences, L labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from modernbert.errors import ConfigError
from modernbert.packing import Packed
from modernbert.weights import Encoder
from tasks import losses, metrics, plots
from tasks.answers import Label
from tasks.base import Task
from tasks.data.examples import Batch
from tasks.data.windows import Merging
from tasks.data.writers import open_writer
from tasks.heads import Pooling, SequenceHead, labelled_config
from tasks.labels import Labels
from tasks.optim import Optim, require
from tasks.text_schema import ClassificationSchema

#: What a summary shows of each kind. Micro F1 is left out where each row has one label: it is the accuracy.
SHOWN = {
    "binary": ("accuracy", "f1_macro", "mcc", "roc_auc", "average_precision", "ece"),
    "multiclass": ("accuracy", "f1_macro", "mcc", "ece"),
    "multilabel": ("subset_accuracy", "f1_macro", "f1_micro", "f1_macro_tuned", "average_precision_macro", "ece"),
    "ordinal": ("accuracy", "qwk", "mae", "spearman"),
    "regression": ("rmse", "mae", "r2", "pearson", "spearman"),
}


class Classification(Task):
    """An encoder with the Hugging Face head of its family, for every kind of label.

    Args:
        encoder, schema, optim: the parts; `optim` is None where a saved run is loaded.
        name: of the task, as in task=<name>.
        kind, separator, long, overlap, windows: read by the schema (see `tasks.labels`, `tasks.text_schema`).
        pooling: auto (the checkpoint's own), cls or mean.
        head_dropout: None takes the checkpoint's.
        loss: cross_entropy, or focal (Lin et al. 2017) for hard, imbalanced sets.
        class_weights: None, "balanced" (rows / (classes * rows of the class)), or a weight for each label.
        merging: of what the windows of a long text say; "attention" learns a score for each window.

    Raises:
        ConfigError: for a value that is not allowed or does not fit the kind of label.
    """

    schema_type = ClassificationSchema
    pipeline = "text-classification"

    schema: ClassificationSchema
    head: SequenceHead
    class_weights: Tensor | None

    def __init__(
        self,
        encoder: Encoder,
        schema: ClassificationSchema,
        optim: Optim | None = None,
        name: str = "classification",
        kind: str = "auto",
        separator: str = ";",
        pooling: Literal["auto", "cls", "mean"] = "auto",
        head_dropout: float | None = None,
        loss: Literal["cross_entropy", "focal"] = "cross_entropy",
        focal_gamma: float = 2.0,
        label_smoothing: float = 0.0,
        class_weights: Literal["balanced"] | Mapping[str, float] | None = None,
        long: str = "head",
        overlap: int | Literal["auto"] = "auto",
        windows: int | None = None,
        merging: Merging = "mean",
    ) -> None:
        require("task.loss", loss, loss in ("cross_entropy", "focal"), "cross_entropy or focal")
        require("task.label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "0 up to, but not, 1")
        require("task.focal_gamma", focal_gamma, focal_gamma >= 0, "0 or more (usual: 2)")
        require("task.pooling", pooling, pooling in ("auto", "cls", "mean"), "auto, cls or mean")
        pool: Pooling | None = None if pooling == "auto" else pooling
        ordinal = schema.labels.kind == "ordinal"
        super().__init__(
            encoder, SequenceHead(encoder.config, schema.labels.outputs, pool, head_dropout, ordinal), optim
        )
        self.name, self.schema, self.labels = name, schema, schema.labels
        self.shown = SHOWN[schema.labels.kind]
        learned = schema.long == "window" and merging == "attention"
        self.attention = torch.nn.Linear(encoder.config.hidden_size, 1, bias=False) if learned else None
        if self.attention is not None:
            torch.nn.init.zeros_(self.attention.weight)  # at first all windows count alike
        self.focal_gamma = focal_gamma if loss == "focal" else None
        self.label_smoothing = label_smoothing
        weights = weigh(class_weights, schema)
        self.register_buffer("class_weights", weights, persistent=False)
        #: Fitted on the validation rows and saved with the run; dividing the logits by it calibrates probabilities.
        self.temperature: float | None = None
        self.thresholds: list[float] | None = None

    def forward(self, packed: Packed) -> Tensor:
        """Logits (B, L); behind them the scores of windows, where these are learned."""
        pooled = self.head.read(self.encoder, packed)
        logits = self.head(pooled)
        return logits if self.attention is None else torch.cat([logits, self.attention(pooled)], dim=1)

    def parameter_groups(self, optim: Optim) -> list[dict]:
        groups = super().parameter_groups(optim)
        if self.attention is not None:
            groups.append({"params": list(self.attention.parameters()), "lr": optim.lr, "weight_decay": 0.0})
        return groups

    # -- learning ------------------------------------------------------------------------------------------

    def loss_sum(self, outputs: Tensor, batch: Batch, reduce: bool = True) -> Tensor:
        kind, goal, weights = self.labels.kind, batch.goal, self.class_weights
        if kind == "regression":
            return losses.mse_sum(outputs, goal, reduce)
        if kind == "ordinal":
            return losses.coral_sum(outputs, goal, reduce)
        if kind == "multilabel":
            if self.focal_gamma is not None:
                return losses.binary_focal_sum(outputs, goal, self.focal_gamma, weights, reduce)
            return losses.bce_sum(outputs, goal, weights, self.label_smoothing, reduce)
        if self.focal_gamma is not None:
            return losses.focal_sum(outputs, goal, self.focal_gamma, weights, reduce)
        return losses.cross_entropy_sum(outputs, goal, weights, self.label_smoothing, reduce)

    def units(self, batch: Batch) -> float:
        weighted = self.labels.kind in ("binary", "multiclass")
        return float(losses.units(batch.goal, self.class_weights if weighted else None))

    # -- measuring -----------------------------------------------------------------------------------------

    def measure(self, report: Any, worst: metrics.WorstErrors, outputs: Tensor, batch: Batch) -> None:
        self.update_report(report, outputs, batch)
        loss = self.loss_sum(outputs, batch, reduce=False)
        if self.labels.kind != "regression":
            worst.update(loss, self.predicted(outputs), batch.goal, batch.index)

    def update_report(self, report: Any, outputs: Tensor, batch: Batch) -> None:
        """Add a batch to a report: logits and classes, or scores and values on the scale of the data."""
        goal = batch.goal
        if self.labels.kind == "regression":
            report.update(self.probabilities(outputs), goal * self.labels.std + self.labels.mean, batch.index)
        elif self.labels.kind == "ordinal":
            report.update(losses.coral_scores(outputs), goal, batch.index)
        else:
            report.update(outputs, goal, batch.index)

    def predicted(self, outputs: Tensor) -> Tensor:
        """Classes or levels (B,), or a multi-hot (B, L)."""
        if self.labels.kind == "ordinal":
            return (losses.coral_scores(outputs) + 0.5).long()  # the nearest level, as the report counts
        probabilities = self.probabilities(outputs)
        if self.labels.kind != "multilabel":
            return probabilities.argmax(dim=-1)
        limits = torch.tensor(self.thresholds or [0.5] * len(self.labels.names), device=outputs.device)
        return (probabilities >= limits).float()

    def describe(self, value: Any) -> str:
        """A class number or multi-hot as a person reads it."""
        names = self.labels.names
        if isinstance(value, list):
            return self.labels.separator.join(n for n, on in zip(names, value, strict=True) if on)
        return names[int(value)]

    def new_report(self, split: str) -> Any:
        kind, names = self.labels.kind, list(self.labels.names)
        if kind == "multilabel":
            # Validation rows alone tune thresholds: of a test that tuned its own the figures would be too good.
            usual = None if split == "validation" else [0.5] * len(names)
            return metrics.MultilabelReport(names, thresholds=self.thresholds or usual)
        if kind == "regression":
            return metrics.RegressionReport()
        if kind == "ordinal":
            return metrics.RegressionReport(grades=range(len(names)))
        return metrics.MulticlassReport(names)

    def fit(self, report: Any) -> bool:
        """Take temperature and thresholds from the report of the validation rows; True if decisions change."""
        self.temperature = report.compute().get("temperature")
        if self.labels.kind != "multilabel":
            return False
        self.thresholds = report.tuned_thresholds()
        return True

    def confusions(self, report: Any, most: int) -> list[dict[str, Any]]:
        """The pairs of labels that are mixed up most: true, predicted, count, support."""
        if self.labels.kind in ("regression", "multilabel"):
            return []
        return metrics.confused_pairs(report.confusion(), self.labels.names, most)

    def plot(self, report: Any, folder: Path) -> None:
        """per_class.csv, confusion_matrix.png and reliability.png, or scores.png of a regression."""
        if self.labels.kind == "regression":
            plots.scores(folder / "scores.png", *report.points())
            return
        rows = report.per_class()
        with open_writer(folder / "per_class.csv") as writer:
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            writer.write(columns | {"label": list(self.labels.names)})
        if self.labels.kind != "multilabel":
            plots.confusion_matrix(folder / "confusion_matrix.png", report.confusion(), list(self.labels.names))
        if self.labels.kind != "ordinal":
            plots.reliability(folder / "reliability.png", report.reliability())

    # -- answering -----------------------------------------------------------------------------------------

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Logits (B, L) -> what a person reads, (B, names) in fp32; a regression gives (B, 1) values."""
        outputs = outputs.float()
        if self.labels.kind == "regression":
            return outputs * self.labels.std + self.labels.mean
        if self.labels.kind == "ordinal":
            return losses.coral_probabilities(outputs)
        if self.labels.kind == "multilabel":
            return torch.sigmoid(outputs)
        return torch.softmax(outputs, dim=-1)

    def decode(self, outputs: Tensor, batch: Batch, cut: Sequence[bool]) -> list[Label]:
        """One Label a sequence; several labels where each passes its threshold (0.5 unless tuned)."""
        rows = self.probabilities(outputs).cpu().tolist()
        if self.labels.kind == "regression":
            return [Label((), {}, value=row[0], cut=c) for row, c in zip(rows, cut, strict=True)]
        names, chosen = self.labels.names, self.predicted(outputs).tolist()
        found = []
        for row, choice, c in zip(rows, chosen, cut, strict=True):
            several = isinstance(choice, list)
            picked = [n for n, on in zip(names, choice, strict=True) if on] if several else [names[choice]]
            found.append(Label(tuple(picked), dict(zip(names, row, strict=True)), cut=c))
        return found

    def to_columns(self, outputs: Sequence[Label | None]) -> dict[str, list[Any]]:
        """`prediction` (labels joined by the separator), `confidence`, `p_<label>` for each, `cut`."""
        found = [output or Label((), {}) for output in outputs]
        cut = [None if output is None else output.cut for output in outputs]
        if self.labels.kind == "regression":
            return {"prediction": [output.value for output in found], "cut": cut}
        joined = [self.labels.separator.join(output.labels) for output in found]
        columns: dict[str, list[Any]] = {
            "prediction": [None if output is None else name for output, name in zip(outputs, joined, strict=True)],
            "confidence": [min((o.scores[n] for n in o.labels), default=None) for o in found],
        }
        for name in self.labels.names:
            columns[f"p_{name}"] = [output.scores.get(name) for output in found]
        return columns | {"cut": cut}

    def fitted(self) -> dict[str, Any]:
        found: dict[str, Any] = {"temperature": self.temperature, "thresholds": self.thresholds}
        if self.attention is not None:
            # transformers has no place for it: in task.json it leaves `model/` a plain classifier.
            found["attention"] = self.attention.weight.tolist()
        return found

    def restore(self, fitted: Mapping[str, Any]) -> None:
        self.temperature, self.thresholds = fitted["temperature"], fitted["thresholds"]
        if self.attention is not None:
            self.attention.load_state_dict({"weight": torch.tensor(fitted["attention"])})

    def hf_config(self) -> dict[str, Any]:
        """The keys of config.json by which transformers builds the same model with the same labels."""
        config = self.encoder.config
        raw = labelled_config(config, "SequenceClassification", output_names(self.labels), self.head.drop.p)
        raw["problem_type"] = {
            "regression": "regression",
            "multilabel": "multi_label_classification",
            "ordinal": "multi_label_classification",
        }.get(self.labels.kind, "single_label_classification")
        if config.family == "modernbert":
            raw["classifier_pooling"] = self.head.pool
        return raw


def output_names(labels: Labels) -> list[str]:
    """Names of the head's outputs: labels; "above <level>" for the steps of an ordinal scale; or "value"."""
    if labels.kind == "regression":
        return ["value"]
    return [f"above {name}" for name in labels.names[:-1]] if labels.kind == "ordinal" else list(labels.names)


def weigh(weights: Any, schema: ClassificationSchema) -> Tensor | None:
    """Class weights (L,) in the order of the labels; None for equal ones."""
    if weights is not None and schema.labels.kind in ("ordinal", "regression"):
        raise ConfigError(f"task.class_weights do not apply to {schema.labels.kind} labels: leave them out.")
    return losses.weigh_classes(weights, schema.counts)
