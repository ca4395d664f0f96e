"""Losses of retrieval: pure functions of similarities, one value a row, to be summed and divided by the rows of a step.

Scores are similarities divided by the temperature. Every loss is computed in fp32 (float64 stays).

Q queries (one a row), N documents of a step, n documents of a row (its positive first), P graded pairs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from tasks.losses import focal

#: Hardest negatives of a query that are mixed with one another (MoCHi takes them from the 1,024 hardest of 16,384
#: stored ones; a step has some hundred, of which most are easy).
MIXED_FROM = 16


def info_nce(
    scores: Tensor,
    positive: Tensor,
    ignored: Tensor | None = None,
    extra: Tensor | None = None,
    focal_gamma: float = 0.0,
    symmetric: bool = False,
) -> Tensor:
    """Cross-entropy of finding the positive among the documents of a step (van den Oord et al. 2018, arXiv:1807.03748).

    Args:
        scores: (Q, N).
        positive: (Q,) the column of each query's positive.
        ignored: (Q, N) bool, pairs that are no negatives; the positive's own place is never ignored.
        extra: (Q, M) scores of further negatives, for the direction from query to document alone.
        focal_gamma: weighs each row by (1 - p)^gamma, p being the chance of the positive (KaLM-Embedding-V2,
            arXiv:2506.20923, after Lin et al. 2017); 0 for none.
        symmetric: the mean with the other direction, each positive finding its query among all queries.

    Returns:
        (Q,) losses.
    """
    each = focal(_log_chance(scores, positive, ignored, extra), focal_gamma)
    if not symmetric:
        return each
    own = torch.arange(len(positive), device=scores.device)
    back = None if ignored is None else ignored[:, positive].t()
    return (each + focal(_log_chance(scores[:, positive].t(), own, back), focal_gamma)) / 2


def decoupled(scores: Tensor, positive: Tensor, known: Tensor, ignored: Tensor | None = None) -> Tensor:
    """The decoupled softmax for queries with many positives (Gupta et al. 2024, "Dual-encoders for extreme multi-label
    classification", arXiv:2310.10636): each positive against all negatives, but not against the other positives.

    Args:
        scores: (Q, N).
        positive: (Q,) the column of the positive of each row.
        known: (Q, N) bool, every document of the step that is known as a positive of the query.
        ignored: (Q, N) bool, further pairs that are neither (suspected false negatives).

    Returns:
        (Q,) the mean over the positives of each query in this step.
    """
    scores = _wide(scores)
    right = known.scatter(1, positive[:, None], True)
    out = right if ignored is None else right | ignored
    rest = scores.masked_fill(out, -torch.inf).logsumexp(dim=1, keepdim=True)
    each = torch.logaddexp(scores, rest) - scores  # -log of e^s / (e^s + the negatives), as if each were the positive
    return torch.where(right, each, 0.0).sum(dim=1) / right.sum(dim=1)


def margin_mse(scores: Tensor, teacher: Tensor) -> Tensor:
    """Squared error of the margins between positive and negatives (Hofstätter et al. 2020, arXiv:2010.02666).

    Args:
        scores, teacher: (Q, n), the positive first; NaN in `teacher` where a row has fewer documents.

    Returns:
        (Q,) the mean over the negatives of each row.
    """
    scores, teacher = _wide(scores), _wide(teacher)
    there = ~teacher[:, 1:].isnan()
    wanted = (teacher[:, :1] - teacher[:, 1:]).masked_fill(~there, 0.0)
    found = (scores[:, :1] - scores[:, 1:]).masked_fill(~there, 0.0)
    return (found - wanted).square().sum(dim=1) / there.sum(dim=1).clamp(min=1)


def kl(scores: Tensor, teacher: Tensor) -> Tensor:
    """Kullback-Leibler divergence of the chances of a row's documents from the teacher's. Arguments as `margin_mse`.

    Returns:
        (Q,): sum over the row of p_teacher * (log p_teacher - log p).
    """
    scores, teacher = _wide(scores), _wide(teacher)
    missing = teacher.isnan()
    wanted = teacher.masked_fill(missing, -torch.inf).log_softmax(dim=1)
    found = scores.masked_fill(missing, -torch.inf).log_softmax(dim=1)
    part = wanted.exp() * (wanted - found)
    return torch.where(missing, 0.0, part).sum(dim=1)


def cosent(scores: Tensor, targets: Tensor) -> Tensor:
    """log(1 + sum of exp(s_j - s_i) over the pairs with t_i > t_j): CoSENT (Su 2022, kexue.fm/archives/8847).

    Args:
        scores: (P,) of graded pairs, divided by the temperature.
        targets: (P,) gold similarities on any scale: only their order counts.

    Returns:
        A scalar for all of them: it is no mean over pairs.
    """
    scores = _wide(scores)
    difference = scores[None, :] - scores[:, None]  # [i, j]: s_j - s_i
    wrong = difference.masked_fill(targets[:, None] <= targets[None, :], -torch.inf)
    return torch.cat([wrong.flatten(), wrong.new_zeros(1)]).logsumexp(dim=0)


def cosine_mse(similarities: Tensor, targets: Tensor) -> Tensor:
    """(P,) squared error of similarities (not divided by a temperature) against targets on the same scale."""
    return (_wide(similarities) - targets.to(similarities)).square()


def flops(weights: Tensor) -> Tensor:
    """The sum over the vocabulary of the squared mean weight: what a search with an inverted index costs
    (Paria et al. 2020, arXiv:2004.05665). weights (N, V) -> scalar."""
    return _wide(weights).abs().mean(dim=0).square().sum()


def mixed_scores(
    queries: Tensor, documents: Tensor, scores: Tensor, barred: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Scores of negatives that are not there: mixtures of two of the hardest, at length 1.

    d = l a + (1 - l) b, normalised, of two of a query's MIXED_FROM hardest negatives a and b, l uniform in (0, 1).
    Online hard-negative mixing of KaLM-Embedding-V2 (arXiv:2506.20923); the pairs as in MoCHi (Kalantidis et al. 2020,
    arXiv:2010.01028).

    Args:
        queries, documents: (Q, D) and (N, D), normalised.
        scores: (Q, N), to know which are hard.
        barred: (Q, N) bool, what is no negative of a query, the positive among it.
        count: M mixtures a query.
        generator: on the CPU; the same on every rank, since each computes the loss of the whole step.

    Returns:
        (Q, M) similarities (not divided by the temperature); -inf where a query has fewer than two negatives.
    """
    most = min(MIXED_FROM, documents.shape[0])
    hard, where = scores.detach().masked_fill(barred, -torch.inf).topk(most, dim=1)
    there = (hard > -torch.inf).sum(dim=1, keepdim=True)
    pick = torch.rand(2, len(queries), count, generator=generator).to(queries.device)
    share = torch.rand(len(queries), count, 1, generator=generator).to(queries)
    first = (pick[0] * there).long().clamp(max=most - 1)
    # Another one than the first: a step of 1 to there - 1 further on, round the end.
    step = 1 + (pick[1] * (there - 1)).long()
    second = (first + step) % there.clamp(min=1)
    ends = [documents[where.gather(1, chosen)] for chosen in (first, second)]  # (Q, M, D) each
    mixed = F.normalize(share * ends[0] + (1 - share) * ends[1], dim=-1)
    found = (mixed * queries[:, None]).sum(dim=-1)
    return found.masked_fill(there < 2, -torch.inf)


def _log_chance(scores: Tensor, positive: Tensor, ignored: Tensor | None, extra: Tensor | None = None) -> Tensor:
    """(Q,) log of the chance that a softmax over the columns gives the positive."""
    scores = _wide(scores)
    right = scores.gather(1, positive[:, None])
    if ignored is not None:
        scores = scores.masked_fill(ignored.scatter(1, positive[:, None], False), -torch.inf)
    if extra is not None:
        scores = torch.cat([scores, _wide(extra)], dim=1)
    return right.squeeze(1) - scores.logsumexp(dim=1)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()
