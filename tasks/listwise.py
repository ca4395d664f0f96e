"""Losses over the candidates of a query: pure functions of scores and labels, one value a query.

Like `tasks.losses` they are computed in fp32 and give sums that a step divides once, here by its queries. A query
whose labels are all equal has nothing to say about an order and adds 0 (`listnet` aside, whose target is then flat).

Dimensions: P pairs of a batch, Q queries, K most candidates of a query. `real` (Q, K) is False where a query has
fewer candidates; whatever stands there is ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from modernbert.errors import BackendError

#: Share of NDCG-Loss2 beside LambdaRank in NDCG-Loss2++; the value of sentence-transformers and allRank.
MU = 10.0


def to_lists(values: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Values (P,) of pairs -> (Q, K) and `real` (Q, K), a row for each run of equal numbers in `group` (P,)."""
    if values.ndim != 1 or values.shape != group.shape:
        raise BackendError(f"values {tuple(values.shape)} and group {tuple(group.shape)} must both be (P,)")
    _, row, counts = torch.unique_consecutive(group, return_inverse=True, return_counts=True)
    place = torch.arange(len(group), device=group.device) - (counts.cumsum(0) - counts)[row]
    shape = (len(counts), int(counts.max()))
    real = torch.zeros(shape, dtype=torch.bool, device=values.device)
    real[row, place] = True
    return values.new_zeros(shape).index_put((row, place), values), real


def listnet(scores: Tensor, labels: Tensor, real: Tensor) -> Tensor:
    """ListNet with top-one probabilities (Cao et al. 2007, "Learning to Rank: From Pairwise Approach to Listwise
    Approach", definition 5): cross-entropy of softmax(scores) against softmax(labels). (Q, K) each -> (Q,)."""
    return _cross_entropy(scores, _masked(labels, real).softmax(-1), real)


def softmax(scores: Tensor, labels: Tensor, real: Tensor) -> Tensor:
    """Listwise softmax cross-entropy against labels / sum(labels) (Bruch et al. 2019, "An Analysis of the Softmax
    Cross Entropy Loss for Learning-to-Rank with Binary Relevance"). (Q, K) each -> (Q,).

    With one relevant candidate it is the loss of Poly-encoder and Uni-Encoder.
    """
    gains = labels.clamp_min(0).to(torch.float32) * real
    return _cross_entropy(scores, gains / gains.sum(-1, keepdim=True).clamp_min(1e-12), real)


def lambda_loss(scores: Tensor, labels: Tensor, real: Tensor) -> Tensor:
    """LambdaLoss with the weights of NDCG-Loss2++ (Wang et al. 2018, "The LambdaLoss Framework for Ranking Metric
    Optimization", equations 17 to 19). (Q, K) each -> (Q,).

    Over pairs with label_i > label_j the sum of (rho_ij + MU delta_ij) |G_i - G_j| log2(1 + exp(s_j - s_i)), where
    G is the gain 2^label - 1 over the best DCG, rho_ij = |1/D(rank_i) - 1/D(rank_j)| as in LambdaRank,
    delta_ij = |1/D(|rank_i - rank_j|) - 1/D(|rank_i - rank_j| + 1)|, D(r) = log2(1 + r), ranks by the scores.
    """
    scores, labels = _masked(scores, real), labels.float()
    rank = scores.detach().argsort(dim=-1, descending=True, stable=True).argsort(dim=-1) + 1.0  # (Q, K), from 1
    gains = (torch.exp2(labels) - 1) * real
    ideal = gains.sort(dim=-1, descending=True).values
    best = (ideal / _discount(torch.arange(1, labels.shape[1] + 1, device=labels.device))).sum(-1)
    gains = gains / best.clamp_min(1e-12)[:, None]
    apart = (rank[:, :, None] - rank[:, None, :]).abs().clamp_min(1)
    rho = (1 / _discount(rank)[:, :, None] - 1 / _discount(rank)[:, None, :]).abs()
    delta = 1 / _discount(apart) - 1 / _discount(apart + 1)
    weight = (rho + MU * delta) * (gains[:, :, None] - gains[:, None, :]).abs()
    better = _better(labels, real)
    # log2(1 + exp(s_j - s_i)); the difference of two ignored places is not a number and is left out first
    lost = F.softplus(_differences(scores, better).neg()) / math.log(2.0)
    return (weight * lost * better).sum((1, 2))


def margin(scores: Tensor, labels: Tensor, real: Tensor, gap: float = 1.0) -> Tensor:
    """Hinge of a ranking SVM (Herbrich et al. 1999, "Support vector learning for ordinal regression"): the mean over
    pairs with label_i > label_j of max(0, gap - (s_i - s_j)). (Q, K) each -> (Q,)."""
    better = _better(labels, real)
    return _pair_mean((gap - _differences(scores.float(), better)).clamp_min(0), better)


def margin_mse(scores: Tensor, teacher: Tensor, real: Tensor, labels: Tensor | None = None) -> Tensor:
    """Margin-MSE (Hofstätter et al. 2020, arXiv:2010.02666, equation 9): the mean over pairs of the squared
    difference of the margin s_i - s_j to the teacher's. (Q, K) each -> (Q,).

    Args:
        labels: pairs are those with label_i > label_j, as in the paper; without, those the teacher tells apart.
    """
    better = _better(teacher if labels is None else labels, real)
    wanted = _differences(teacher.float(), better)
    return _pair_mean((_differences(scores.float(), better) - wanted).square(), better)


#: task.loss -> a loss over lists of scores and labels.
LISTWISE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "listnet": listnet,
    "softmax": softmax,
    "lambda": lambda_loss,
    "margin": margin,
}


def _cross_entropy(scores: Tensor, target: Tensor, real: Tensor) -> Tensor:
    log_p = _masked(scores, real).log_softmax(-1)
    return -(target * log_p.masked_fill(~real, 0.0)).sum(-1)


def _masked(values: Tensor, real: Tensor) -> Tensor:
    return values.float().masked_fill(~real, float("-inf"))


def _better(labels: Tensor, real: Tensor) -> Tensor:
    """(Q, K, K): whether candidate i is labelled above candidate j."""
    return (labels[:, :, None] > labels[:, None, :]) & real[:, :, None] & real[:, None, :]


def _differences(scores: Tensor, pairs: Tensor) -> Tensor:
    """(Q, K, K): s_i - s_j of the pairs, 0 elsewhere: neither value nor gradient of an ignored place comes in."""
    left = scores[:, :, None].expand_as(pairs).masked_fill(~pairs, 0.0)
    return left - scores[:, None, :].expand_as(pairs).masked_fill(~pairs, 0.0)


def _pair_mean(values: Tensor, pairs: Tensor) -> Tensor:
    return (values * pairs).sum((1, 2)) / pairs.sum((1, 2)).clamp_min(1)


def _discount(rank: Tensor) -> Tensor:
    return torch.log2(1.0 + rank)
