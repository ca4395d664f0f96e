"""Training losses: pure functions of tensors, summed over examples, with the normaliser apart.

An optimiser step is several packed micro-batches. Its gradient is that of one pass over the whole step only
if each micro-batch gives a *sum* and the step divides once by the total of its `units`:

    loss = sum(loss_sum(micro) for micro in step) / sum(units(micro) for micro in step)

Every loss is computed in fp32 whatever autocast is on (float64 stays, for gradient checks), and gives the
vector of its examples instead of their sum with `reduce=False` (for a table of the worst errors).

B examples of a micro-batch, L labels, K grades of an ordinal scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from modernbert.errors import BackendError, ConfigError


def units(targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """What `sum` is divided by: the elements of `targets`, or the weight of their classes, as a 0-d fp32
    tensor.

    With it `cross_entropy_sum / units` is torch's `cross_entropy(..., reduction="mean")`, which divides by
    the weight of the *target* classes also where label smoothing spreads the loss over the others. For
    `bce_sum` and `binary_focal_sum` it counts B * L decisions, for `mse_sum` and `coral_sum` B examples.
    """
    if class_weights is None:
        return torch.tensor(float(targets.numel()), device=targets.device)
    return class_weights.to(targets.device, torch.float32)[targets].sum()


def weigh_classes(asked: Any, counts: Mapping[str, int]) -> Tensor | None:
    """Class weights (L,) fp32 in the order of `counts`, the training examples of each class; None for equal ones.

    Args:
        asked: None, "balanced" (examples / (classes * examples of the class)), or a weight for each class.

    Raises:
        ConfigError: anything else, or weights that do not name each class.
    """
    if asked is None:
        return None
    total, classes = sum(counts.values()), len(counts)
    if asked == "balanced":
        return torch.tensor([total / (classes * max(1, count)) for count in counts.values()])
    if not isinstance(asked, Mapping):
        raise ConfigError(f"task.class_weights={asked}: allowed is null, balanced or a weight for each label.")
    given = {str(name): float(weight) for name, weight in asked.items()}
    if set(given) != set(counts):
        raise ConfigError(
            f"task.class_weights must name every label once. Missing: {sorted(set(counts) - set(given))[:5]}; "
            f"unknown: {sorted(set(given) - set(counts))[:5]}."
        )
    return torch.tensor([given[name] for name in counts])


def cross_entropy_sum(
    logits: Tensor,
    targets: Tensor,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduce: bool = True,
) -> Tensor:
    """Softmax cross-entropy of logits (B, L) against class numbers (B,).

    Label smoothing as in Szegedy et al. 2016 (arXiv:1512.00567, section 7): the target keeps
    1 - e + e/L, every other class gets e/L; each class's term carries its own weight.
    """
    logits = _at_least_fp32(logits)
    _check_classes(logits, targets)
    weight = None if class_weights is None else class_weights.to(logits)
    each = F.cross_entropy(logits, targets, weight=weight, label_smoothing=label_smoothing, reduction="none")
    return _reduced(each, reduce)


def focal_sum(
    logits: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    class_weights: Tensor | None = None,
    reduce: bool = True,
) -> Tensor:
    """Focal loss of Lin et al. 2017 (arXiv:1708.02002, equation 5) over a softmax.

    -a_t (1 - p_t)^gamma log p_t, with a_t the weight of the target class: logits (B, L), targets (B,).
    gamma = 0 is weighted cross-entropy; the paper's best gamma is 2.
    """
    logits = _at_least_fp32(logits)
    _check_classes(logits, targets)
    log_p = F.log_softmax(logits, dim=-1).gather(1, targets[:, None]).squeeze(1)  # (B,)
    each = focal(log_p, gamma)
    if class_weights is not None:
        each = each * class_weights.to(logits)[targets]
    return _reduced(each, reduce)


def binary_focal_sum(
    logits: Tensor,
    targets: Tensor,
    gamma: float = 2.0,
    pos_weight: Tensor | None = None,
    reduce: bool = True,
) -> Tensor:
    """Focal loss of Lin et al. 2017 (arXiv:1708.02002) over independent sigmoids: logits, targets (B, L).

    `pos_weight` (L,) multiplies the positive terms as in `bce_sum`, so gamma = 0 is `bce_sum`. The paper's
    balance alpha is pos_weight = alpha / (1 - alpha), up to a constant factor of the whole loss.
    """
    logits, targets = _decisions(logits, targets)
    log_p = F.logsigmoid(torch.where(targets > 0.5, logits, -logits))  # (B, L)
    each = focal(log_p, gamma)
    if pos_weight is not None:
        each = each * torch.where(targets > 0.5, pos_weight.to(logits), torch.ones_like(logits))
    return _reduced(each.sum(dim=-1), reduce)


def bce_sum(
    logits: Tensor,
    targets: Tensor,
    pos_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduce: bool = True,
) -> Tensor:
    """Binary cross-entropy of independent sigmoids, for multi-label: logits, targets in [0, 1] (B, L).

    `pos_weight` (L,) multiplies the positive terms. Smoothing moves a target t to t (1 - e) + e / 2, the
    two-class case of Szegedy et al. 2016.
    """
    logits, targets = _decisions(logits, targets)
    targets = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
    weight = None if pos_weight is None else pos_weight.to(logits)
    each = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weight, reduction="none")
    return _reduced(each.sum(dim=-1), reduce)


def mse_sum(scores: Tensor, targets: Tensor, reduce: bool = True) -> Tensor:
    """Squared error of scores (B,) or (B, 1) against targets (B,)."""
    scores = _at_least_fp32(scores)
    if scores.ndim == 2 and scores.shape[1] == 1:  # a head with one output
        scores = scores.squeeze(1)
    if scores.shape != targets.shape:  # (B, 1) against (B,) would broadcast to (B, B) without a word
        raise BackendError(f"mse_sum: scores {tuple(scores.shape)} and targets {tuple(targets.shape)} differ")
    return _reduced((scores - targets.to(scores)).square(), reduce)


def coral_sum(logits: Tensor, targets: Tensor, reduce: bool = True) -> Tensor:
    """Ordinal loss CORAL of Cao, Mirjalili and Raschka 2020 (arXiv:1901.07884, equation 4), all tasks
    weighted 1.

    The head gives logits (B, K - 1) for K ordered grades: logits[:, k] = w.x + b_k with *one* weight vector w
    shared by all columns and K - 1 biases, so that sigmoid(logits[:, k]) = P(grade > k). Targets (B,) are
    grades 0 .. K - 1. Start the biases in falling order (a head with equal biases learns, only slower).
    """
    logits = _at_least_fp32(logits)
    grades = logits.shape[-1] + 1
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < grades:
        raise BackendError(
            f"coral_sum: logits {tuple(logits.shape)} stand for grades 0 .. {grades - 1}, "
            f"targets lie in {int(targets.min())} .. {int(targets.max())}"
        )
    levels = targets[:, None] > torch.arange(grades - 1, device=targets.device)  # (B, K - 1)
    each = F.binary_cross_entropy_with_logits(logits, levels.to(logits), reduction="none").sum(dim=-1)
    return _reduced(each, reduce)


def coral_probabilities(logits: Tensor) -> Tensor:
    """Probabilities (B, K) of the grades from CORAL logits (B, K - 1), in fp32.

    P(grade = k) = P(grade > k - 1) - P(grade > k). The paper proves the biases ordered at the optimum only,
    so before it the exceedance probabilities are made non-increasing, which leaves ordered ones as they are.
    """
    above = torch.sigmoid(_at_least_fp32(logits)).cummin(dim=-1).values  # (B, K - 1)
    edge = above.new_ones(above.shape[0], 1)
    return torch.cat([edge, above], dim=-1) - torch.cat([above, torch.zeros_like(edge)], dim=-1)


def coral_scores(logits: Tensor) -> Tensor:
    """Expected grade (B,) in 0 .. K - 1 from CORAL logits (B, K - 1): the sum of P(grade > k), in fp32."""
    return torch.sigmoid(_at_least_fp32(logits)).sum(dim=-1)


def focal(log_p: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p, from log p; 1 - p by expm1 keeps its digits where p is near 1."""
    # Below the floor the factor is constant: for gamma < 1 its slope at p = 1 is infinite and would give NaN.
    miss = (-torch.expm1(log_p)).clamp_min(1e-12)
    return -miss.pow(gamma) * log_p


def _decisions(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits and targets of independent decisions in the same float type and shape (B, L)."""
    logits = _at_least_fp32(logits)
    if logits.shape != targets.shape or logits.ndim != 2:
        raise BackendError(
            f"multi-label losses take logits and targets of one shape (B, L), not {tuple(logits.shape)} "
            f"and {tuple(targets.shape)}"
        )
    return logits, targets.to(logits)


def _check_classes(logits: Tensor, targets: Tensor) -> None:
    if logits.ndim != 2 or targets.shape != logits.shape[:1]:
        raise BackendError(
            f"a single-label loss takes logits (B, L) and targets (B,), not {tuple(logits.shape)} "
            f"and {tuple(targets.shape)}"
        )


def _at_least_fp32(x: Tensor) -> Tensor:
    """fp16 and bf16 raised to fp32: their sums and logarithms lose the small losses."""
    return x if x.dtype == torch.float64 else x.float()


def _reduced(each: Tensor, reduce: bool) -> Tensor:
    return each.sum() if reduce else each
