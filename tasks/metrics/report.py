"""What every report of metrics shares: streaming states, exact sums, plain results.

A report is fed batch by batch and answers once:

    report.update(logits, targets, index)      # any device, inside or outside of inference mode
    report.compute()                           # {"accuracy": 0.97, "accuracy_low": 0.95, ...}

It is a `torchmetrics.Metric`: Lightning moves it with the model, and in `compute` the states of all ranks are
added up (call `compute` on every rank; what follows it is local). States are whole numbers: counts, and sums
in fixed point. Adding whole numbers is exact in any order, so a result depends on the set of rows alone, not
on their order, the batches or the ranks, and devices without float64 give it too.
"""

from __future__ import annotations

import functools
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from modernbert.errors import ConfigError, DataError, ModernBertError

# Fixed point: steps of 2^-20 (1e-6, below what fp32 losses resolve) and room for sums up to 2^43 = 8.8e12.
FRACTION_BITS = 20

# Metrics of which less is better; of every other one more is.
LESS_IS_BETTER = frozenset(
    {"log_loss", "brier", "ece", "ece_calibrated", "hamming_loss", "mse", "rmse", "mae"}
)


class Report(Metric):
    """Base of the reports. `headline` picks the best checkpoint, `mode` is "min" or "max"."""

    full_state_update = False

    def __init__(self, labels: Sequence[str], headline: str, headlines: Sequence[str]) -> None:
        super().__init__()
        self.headlines = tuple(headlines)
        self.labels = [str(label) for label in labels]
        self.headline = headline
        self.mode = self.direction(headline)
        self._totals: dict[str, NDArray] = {}

    def direction(self, name: str) -> str:
        """ "min" or "max": whether less or more of a metric is better.

        Raises:
            ConfigError: no headline metric of this report has that name.
        """
        if name not in self.headlines:
            raise ConfigError(f"headline metric {name!r} is not one of {', '.join(self.headlines)}")
        return "min" if name in LESS_IS_BETTER else "max"

    @abstractmethod
    def summary(self) -> dict[str, float]:
        """The metrics from `self._totals`."""

    @abstractmethod
    def per_class(self) -> list[dict[str, Any]]:
        """One row a label, ready for JSON or a table."""

    @abstractmethod
    def confusion(self) -> NDArray:
        """Counts, gold by predicted."""

    def compute(self) -> dict[str, float | None]:
        """Every metric under its plain name with `<name>_low`, `<name>_high` where it has an interval.

        None where a metric is undefined (ROC-AUC of one class). DataError if no row was seen.
        """
        self._totals = {name: _to_numpy(getattr(self, name)) for name in self._defaults}
        return plain(self.summary())

    def totals(self) -> dict[str, NDArray]:
        """The states of all ranks as numpy arrays; computes first if nothing has yet."""
        self.compute()  # torchmetrics keeps the result, so a second call costs nothing
        return self._totals

    def _define(self, **shapes: tuple[int, ...]) -> None:
        """Adds int64 states of zeros that ranks add up."""
        for name, shape in shapes.items():
            self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, name: str, values: Tensor) -> None:
        """Adds whole numbers, of the state's shape, to a state."""
        self._writable(name).add_(values.to(torch.int64))

    def _count(self, name: str, cells: Tensor, values: Tensor | None = None) -> None:
        """Adds 1, or `values`, to the cells of a state, by their position in it flattened."""
        cells = cells.reshape(-1)
        values = torch.ones_like(cells) if values is None else values.reshape(-1)
        self._writable(name).view(-1).index_add_(0, cells, values)

    def _writable(self, name: str) -> Tensor:
        """The state, copied once if it was made in inference mode and is changed outside of it."""
        state: Tensor = getattr(self, name)
        if state.is_inference() and not torch.is_inference_mode_enabled():
            state = state.clone()
            setattr(self, name, state)
        return state


def without_autocast(update: Callable[..., None]) -> Callable[..., None]:
    """Decorates `update(self, scores, ...)`: autocast would round counts in a matrix product to bf16."""

    @functools.wraps(update)
    def wrapped(self: Report, scores: Tensor, *rest: Any, **named: Any) -> None:
        with torch.autocast(scores.device.type, enabled=False):
            update(self, scores, *rest, **named)

    return wrapped


def fixed(values: Tensor) -> Tensor:
    """Numbers as int64 multiples of 2^-FRACTION_BITS."""
    return (values * float(1 << FRACTION_BITS)).round().long()


def unfixed(total: NDArray) -> NDArray[np.float64]:
    """Sums of `fixed` numbers as float64."""
    return total.astype(np.float64) / (1 << FRACTION_BITS)


def plain(result: dict[str, Any]) -> dict[str, Any]:
    """The same for JSON: Python numbers, and None for NaN."""
    return {name: _plain(value) for name, value in result.items()}


def check_scores(scores: Tensor, index: Tensor | None) -> None:
    """ModernBertError that names the first rows whose scores (B, ...) are NaN or infinite."""
    finite = torch.isfinite(scores).reshape(scores.shape[0], -1).all(dim=1)
    if bool(finite.all()):
        return
    bad = (~finite).nonzero().squeeze(1)
    rows = (bad if index is None else index.to(bad.device)[bad])[:5].tolist()
    raise ModernBertError(
        f"the model gave NaN or infinite scores for {len(bad)} of {len(finite)} rows of a batch "
        f"(examples {', '.join(map(str, rows))}): train with a lower optim.lr or in fp32"
    )


def check_classes(targets: Tensor, labels: int) -> None:
    """DataError unless the class numbers (B,) lie in 0 .. labels - 1."""
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < labels:
        raise DataError(
            f"class numbers {int(targets.min())} .. {int(targets.max())} were given, {labels} labels allow "
            f"0 .. {labels - 1}: evaluate only rows whose label the model knows"
        )


def no_rows() -> DataError:
    return DataError("no rows were evaluated: the file or split is empty, so no metric is defined on it")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def _to_numpy(state: Tensor | list[Tensor]) -> NDArray:
    if isinstance(state, list):
        return torch.cat(state).cpu().numpy() if state else np.empty(0)
    return state.cpu().numpy()
