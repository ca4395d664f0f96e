"""The CRF against every path, one by one."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from tasks.crf import CRF, FORBIDDEN

TAGS = 3
LENGTHS = [4, 1, 0, 5, 4, 2]


def random_crf(constrained: bool = False) -> CRF:
    torch.manual_seed(1)
    allowed = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=torch.bool)
    first = torch.tensor([True, True, False])
    last = torch.tensor([True, False, True])
    crf = CRF(TAGS, allowed, first, last) if constrained else CRF(TAGS)
    for parameter in crf.parameters():
        torch.nn.init.normal_(parameter)
    return crf


def sequences() -> tuple[Tensor, Tensor]:
    cu_units = torch.tensor([0, *torch.tensor(LENGTHS).cumsum(0)])
    return torch.randn(sum(LENGTHS), TAGS, dtype=torch.float64), cu_units


def each_path(crf: CRF, emissions: Tensor) -> dict[tuple[int, ...], float]:
    """Every path of one sequence with its score, by the definition."""
    transitions, start, end = (s.double().tolist() for s in crf.scores())
    scores = {}
    for path in product(range(TAGS), repeat=len(emissions)):
        score = sum(float(emissions[i, tag]) for i, tag in enumerate(path))
        score += sum(transitions[a][b] for a, b in pairwise(path))
        scores[path] = score + (start[path[0]] + end[path[-1]] if path else 0.0)
    return scores


@pytest.mark.parametrize("constrained", [False, True])
def test_loss_decoding_and_marginals_are_those_of_all_paths(constrained: bool) -> None:
    crf = random_crf(constrained).double()
    emissions, cu_units = sequences()
    tags = torch.tensor([0, 1, 2, 0, 0, 0, 1, 1, 2, 0, 1, 2, 1, 0, 1, 2])
    found, best = crf.loss(emissions, tags, cu_units), crf.decode(emissions, cu_units)
    shares = crf.marginals(emissions, cu_units)
    for i, (low, high) in enumerate(pairwise(cu_units.tolist())):
        paths = each_path(crf, emissions[low:high])
        scores = torch.tensor(list(paths.values()), dtype=torch.float64)
        likelihood = paths[tuple(tags[low:high].tolist())] - float(scores.logsumexp(0))
        assert float(found[i]) == pytest.approx(-likelihood, abs=1e-9)
        if high > low:
            assert tuple(best[low:high].tolist()) == max(paths, key=paths.__getitem__)
        weights = torch.softmax(scores, 0)
        for unit in range(high - low):
            for tag in range(TAGS):
                mass = sum(float(w) for w, path in zip(weights, paths, strict=True) if path[unit] == tag)
                assert float(shares[low + unit, tag]) == pytest.approx(mass, abs=1e-5)


def test_gradient_is_that_of_finite_differences() -> None:
    crf = random_crf().double()
    emissions, cu_units = sequences()
    tags = torch.randint(TAGS, (len(emissions),))
    assert torch.autograd.gradcheck(lambda e: crf.loss(e, tags, cu_units), (emissions.requires_grad_(),))
    loss = crf.loss(emissions, tags, cu_units).sum()
    gradient = torch.autograd.grad(loss, crf.transitions)[0]
    for i, j in product(range(TAGS), repeat=2):
        values = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                crf.transitions[i, j] += step
                values.append(float(crf.loss(emissions, tags, cu_units).sum()))
                crf.transitions[i, j] -= step
        assert float(gradient[i, j]) == pytest.approx((values[0] - values[1]) / 2e-5, abs=1e-6)


def test_gradients_of_forbidden_transitions_stay_finite_and_they_are_never_decoded() -> None:
    crf = random_crf(constrained=True)
    emissions = torch.full((6, TAGS), -5.0)
    emissions[:, 0], emissions[1::2, 2] = 0.0, 30.0  # 0 -> 2 would be best by far
    cu_units = torch.tensor([0, 6])
    path = crf.decode(emissions, cu_units).tolist()
    assert (0, 2) not in pairwise(path)
    assert path[0] != 2
    assert path[-1] != 1
    crf.loss(emissions, torch.tensor(path), cu_units).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in crf.parameters())
    wrong = crf.loss(emissions, torch.tensor([0, 2, 0, 0, 0, 0]), cu_units)
    assert float(wrong.detach()) > -FORBIDDEN / 2


@torch.no_grad()
def test_a_neighbour_changes_nothing() -> None:
    crf = random_crf()
    emissions, cu_units = sequences()
    emissions = emissions.float()
    tags = torch.zeros(len(emissions), dtype=torch.long)
    whole, best = crf.loss(emissions, tags, cu_units), crf.decode(emissions, cu_units)
    for i, (low, high) in enumerate(pairwise(cu_units.tolist())):
        alone = torch.tensor([0, high - low])
        zeros = torch.zeros(high - low, dtype=torch.long)
        assert float(crf.loss(emissions[low:high], zeros, alone)) == pytest.approx(float(whole[i]), abs=1e-5)
        assert crf.decode(emissions[low:high], alone).tolist() == best[low:high].tolist()


def test_a_thousand_units_stay_finite() -> None:
    crf = random_crf()
    emissions, cu_units = 20 * torch.randn(1000, TAGS), torch.tensor([0, 1000])
    loss = crf.loss(emissions, crf.decode(emissions, cu_units), cu_units)
    assert float(loss) >= 0
    assert torch.isfinite(crf.marginals(emissions, cu_units)).all()
