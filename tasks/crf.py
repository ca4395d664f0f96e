"""A linear-chain CRF (Lafferty, McCallum and Pereira 2001) over sequences that lie end to end, without padding.

All recursions run over positions, for every sequence that is that long at once: a step costs one (B', L, L)
operation for the B' sequences still running. A transition that is not allowed costs FORBIDDEN, in learning and in
decoding.

U units (tokens that carry a tag) of B sequences, `cu_units` (B+1,) their boundaries, L tags.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modernbert.errors import BackendError

#: Score of what cannot follow: far below any sum of logits of a text, and finite, so that no gradient is NaN.
FORBIDDEN = -1e4


class Steps:
    """Which units stand at position 0, 1, 2 … of their sequences, the longest sequence first.

    `at[t]` (B_t,) are the units at position t; B_t never grows, so that the running sequences are the first B_t.
    `order` (B,) says which sequence stands where.
    """

    def __init__(self, cu_units: Tensor) -> None:
        lengths = cu_units.diff().long()
        self.order = lengths.argsort(descending=True, stable=True)
        starts, sizes = cu_units[:-1].long()[self.order], lengths[self.order]
        longest = int(sizes[0]) if len(sizes) else 0
        running = (sizes[None, :] > torch.arange(longest, device=sizes.device)[:, None]).sum(1).tolist()
        self.at = [starts[:n] + t for t, n in enumerate(running)]

    def __len__(self) -> int:
        return len(self.at)


class CRF(nn.Module):
    """Transition scores between L tags, and from the start and to the end of a sequence.

    Args:
        allowed: (L, L) whether the second tag may follow the first; None allows all.
        first, last: (L,) which tags may begin and end a sequence; None allows all.
    """

    penalty: Tensor
    penalty_start: Tensor
    penalty_end: Tensor

    def __init__(
        self, tags: int, allowed: Tensor | None = None, first: Tensor | None = None, last: Tensor | None = None
    ) -> None:
        super().__init__()
        self.transitions = nn.Parameter(torch.zeros(tags, tags))
        self.start = nn.Parameter(torch.zeros(tags))
        self.end = nn.Parameter(torch.zeros(tags))
        self.register_buffer("penalty", penalty(allowed, (tags, tags)), persistent=False)
        self.register_buffer("penalty_start", penalty(first, (tags,)), persistent=False)
        self.register_buffer("penalty_end", penalty(last, (tags,)), persistent=False)

    def scores(self) -> tuple[Tensor, Tensor, Tensor]:
        """Transitions (L, L), start (L,) and end (L,) with what is forbidden in them, in fp32."""
        return self.transitions + self.penalty, self.start + self.penalty_start, self.end + self.penalty_end

    def loss(self, emissions: Tensor, tags: Tensor, cu_units: Tensor) -> Tensor:
        """Negative log-likelihood (B,) of tags (U,) under emissions (U, L), in fp32; 0 for an empty sequence."""
        emissions, scores = at_least_fp32(emissions), self.scores()
        return log_partition(emissions, cu_units, *scores) - path_score(emissions, tags, cu_units, *scores)

    def decode(self, emissions: Tensor, cu_units: Tensor) -> Tensor:
        """The best path, tags (U,)."""
        return viterbi(at_least_fp32(emissions), cu_units, *self.scores())

    def marginals(self, emissions: Tensor, cu_units: Tensor) -> Tensor:
        """The probability of each tag at each unit (U, L)."""
        return marginals(at_least_fp32(emissions), cu_units, *self.scores())


def penalty(allowed: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    """0 where allowed, FORBIDDEN elsewhere."""
    if allowed is None:
        return torch.zeros(shape)
    if allowed.shape != shape:
        raise BackendError(f"allowed transitions have shape {tuple(allowed.shape)}, not {shape}")
    return torch.where(allowed, 0.0, FORBIDDEN)


def at_least_fp32(x: Tensor) -> Tensor:
    """fp16 and bf16 raised to fp32: sums over a text would lose the small scores."""
    return x if x.dtype == torch.float64 else x.float()


def path_score(
    emissions: Tensor, tags: Tensor, cu_units: Tensor, transitions: Tensor, start: Tensor, end: Tensor
) -> Tensor:
    """Score (B,) of tags (U,): emissions, transitions, start and end added up."""
    lengths = cu_units.diff().long()
    sequence = torch.repeat_interleave(torch.arange(len(lengths), device=tags.device), lengths)  # (U,)
    each = emissions.gather(1, tags[:, None]).squeeze(1)
    each = each + torch.where(borders(cu_units[:-1], lengths, len(tags)), start[tags], 0.0)
    each = each + torch.where(borders(cu_units[1:] - 1, lengths, len(tags)), end[tags], 0.0)
    total = each.new_zeros(len(lengths)).index_add(0, sequence, each)
    inside = sequence[1:] == sequence[:-1]
    steps = torch.where(inside, transitions[tags[:-1], tags[1:]], 0.0)
    return total.index_add(0, sequence[1:], steps.to(total))


def borders(units: Tensor, lengths: Tensor, count: int) -> Tensor:
    """True (count,) at the given unit of each sequence that has one."""
    mask = torch.zeros(count, dtype=torch.bool, device=units.device)
    mask[units.long()[lengths > 0]] = True
    return mask


def log_partition(emissions: Tensor, cu_units: Tensor, transitions: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Log of the summed exponentials of every path's score, (B,); 0 for an empty sequence."""
    steps = Steps(cu_units)
    total = emissions.new_zeros(len(steps.order))
    if not len(steps):
        return total
    parts = forward_scores(emissions, steps, transitions, start)
    going_on = [len(at) for at in steps.at[1:]] + [0]
    # Those that end at the last position, then at the one before it …: the order of `steps.order`.
    last = torch.cat([part[n:] for part, n in zip(reversed(parts), reversed(going_on), strict=True)])
    return total.index_copy(0, steps.order[: len(last)], torch.logsumexp(last + end, dim=1))


def forward_scores(emissions: Tensor, steps: Steps, transitions: Tensor, start: Tensor) -> list[Tensor]:
    """For each position (B_t, L): log of the summed exponentials of all paths that end there in each tag."""
    parts: list[Tensor] = []
    for t, at in enumerate(steps.at):
        if t == 0:
            parts.append(start + emissions[at])
        else:
            before = parts[-1][: len(at)]
            parts.append(torch.logsumexp(before[:, :, None] + transitions, dim=1) + emissions[at])
    return parts


def marginals(emissions: Tensor, cu_units: Tensor, transitions: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """Probability of each tag at each unit (U, L), by the forward and the backward recursion.

    The backward one is the forward one over reversed sequences with transitions the other way round.
    """
    forward = in_place(emissions, cu_units, transitions, start)
    mirror = reversal(cu_units, len(emissions))
    backward = in_place(emissions[mirror], cu_units, transitions.T, end)[mirror]
    return torch.softmax(forward + backward - emissions, dim=1)  # both count the unit's own emission


def in_place(emissions: Tensor, cu_units: Tensor, transitions: Tensor, start: Tensor) -> Tensor:
    """The forward scores (U, L) in the order of the units."""
    steps = Steps(cu_units)
    if not len(steps):
        return emissions.new_zeros(emissions.shape)
    parts = forward_scores(emissions, steps, transitions, start)
    return torch.empty_like(emissions).index_copy(0, torch.cat(steps.at), torch.cat(parts))


def reversal(cu_units: Tensor, count: int) -> Tensor:
    """Index (U,) that turns each sequence round in its place."""
    lengths = cu_units.diff().long()
    ends = torch.repeat_interleave(cu_units[:-1].long() + cu_units[1:].long() - 1, lengths)
    return ends - torch.arange(count, device=cu_units.device)


def viterbi(emissions: Tensor, cu_units: Tensor, transitions: Tensor, start: Tensor, end: Tensor) -> Tensor:
    """The tags (U,) of the path with the highest score in each sequence (Viterbi 1967)."""
    steps = Steps(cu_units)
    tags = torch.zeros(len(emissions), dtype=torch.int64, device=emissions.device)
    best: list[Tensor] = []  # (B_t, L) score of the best path to each tag
    pointers: list[Tensor] = []  # (B_t, L) the tag before it
    for t, at in enumerate(steps.at):
        if t == 0:
            best.append(start + emissions[at])
            continue
        scores, before = (best[-1][: len(at)][:, :, None] + transitions).max(dim=1)
        best.append(scores + emissions[at])
        pointers.append(before)
    chosen = tags.new_empty(0)  # (B_t,) of the position behind
    for t in range(len(steps) - 1, -1, -1):
        going_on = pointers[t].gather(1, chosen[:, None]).squeeze(1) if len(chosen) else chosen
        chosen = torch.cat([going_on, (best[t][len(going_on) :] + end).argmax(dim=1)])
        tags[steps.at[t]] = chosen
    return tags
