"""AdamW by rows gives the weights of torch's dense AdamW, in float64, and its clipping that of torch."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from modernbert.errors import BackendError
from tasks.row_adamw import HISTORY, RowAdamW, clip_grad_norm, gauss

V, D, L = 60, 8, 3
PAD = 0


class Net(nn.Module):
    """A table, read by rows, and a head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.table = nn.Embedding(V, D, padding_idx=PAD)
        nn.init.normal_(self.table.weight, std=0.05)  # the padding row too: it decays
        self.head = nn.Linear(D, L)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.table(ids))


def groups(net: Net, decay: float) -> list[dict[str, Any]]:
    """The table's rate is not that of the head."""
    return [
        {"params": [net.table.weight], "lr": 5e-4, "weight_decay": decay},
        {"params": [net.head.weight], "weight_decay": decay},
        {"params": [net.head.bias], "weight_decay": 0.0},
    ]


def pair(decay: float = 0.1, **settings: Any) -> tuple[Net, RowAdamW, Net, torch.optim.AdamW]:
    """A net with row updates, and the same in float64 with torch's dense ones."""
    rows, dense = Net(), Net().double()
    keys = {"lr": 1e-3} | settings
    by_rows = RowAdamW(groups(rows, decay), rows.table, **keys)
    return rows, by_rows, dense, torch.optim.AdamW(groups(dense, decay), **keys)


def rate(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """Warmup from 1/11 and a fall to 0, so that every step has another rate."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda t: min((t + 1) / 11, 1 - t / steps))


def learn(net: Net, micro_batches: list[Tensor], targets: list[Tensor]) -> None:
    for ids, target in zip(micro_batches, targets, strict=True):
        (net(ids) - target.to(net.head.bias.dtype)).square().sum().backward()


def zipf(*shape: int) -> Tensor:
    """Ids of which some come in every step and some once in hundreds."""
    return (torch.rand(shape) ** 4 * V).long()


def assert_same(rows: Net, dense: Net, rtol: float = 2e-6) -> None:
    """Within rtol of each tensor's largest value: float32 rounds at every step, torch's dense AdamW also."""
    for (name, ours), theirs in zip(rows.named_parameters(), dense.parameters(), strict=True):
        worst = float((ours.double() - theirs).detach().abs().max() / theirs.detach().abs().max())
        assert worst < rtol, f"{name}: {worst:.1e}"


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("eps", [1e-8, 1e-3, 1e-2])
def test_random_steps_give_the_dense_weights(decay: float, eps: float) -> None:
    # A gradient is about 0.03 here: 1e-3 is felt in the size of an update, 1e-2 rules it.
    rows, by_rows, dense, by_all = pair(decay, eps=eps)
    before = rows.table.weight.detach().clone()
    schedules = rate(by_rows, 60), rate(by_all, 60)
    for _ in range(60):
        micro_batches, targets = list(zipf(3, 7)), list(torch.randn(3, 7, L))
        learn(rows, micro_batches, targets)
        learn(dense, micro_batches, targets)
        ours = clip_grad_norm(rows.parameters(), 0.5)
        theirs = torch.nn.utils.clip_grad_norm_(dense.parameters(), 0.5)
        assert float(ours) == pytest.approx(float(theirs), rel=1e-5)
        for optimizer, schedule in zip((by_rows, by_all), schedules, strict=True):
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    by_rows.flush()
    assert_same(rows, dense)
    assert (rows.table.weight - before).abs().max() > 1e-3
    for name in ("exp_avg", "exp_avg_sq"):
        ours, theirs = by_rows.state[rows.table.weight][name], by_all.state[dense.table.weight][name]
        assert float((ours - theirs).abs().max() / theirs.abs().max()) < 1e-5


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.9, 0.98), (0.95, 0.99), (0.0, 0.99)])
@pytest.mark.parametrize("first", [1, 2, 50])
def test_a_row_skipped_for_any_number_of_steps(betas: tuple[float, float], first: int) -> None:
    """Row 7 has a gradient in step `first` only; the table is read after 1, 2, 3, 5 … 300 further steps."""
    missed = 300
    rows, by_rows, dense, by_all = pair(betas=betas)
    at_rest = rows.table.weight[7].detach().double().clone()
    for step in range(1, first + missed + 1):
        ids, target = torch.tensor([7 if step == first else 1, 2]), torch.ones(2, L)
        for net, optimizer in ((rows, by_rows), (dense, by_all)):
            learn(net, [ids], [target])
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * (1 + step % 7)
            optimizer.step()
            optimizer.zero_grad()
        # A copy is read, so that the row itself waits on.
        if step - first in (0, 1, 2, 3, 5, 9, 20, 60, 150, 300):
            waiting = missing_row(by_rows, 7)
            moved = float((dense.table.weight[7] - at_rest).detach().abs().max())
            assert float((waiting - dense.table.weight[7].detach()).abs().max()) < 1e-5 * moved, step - first
    assert int(by_rows.now - by_rows.seen[7]) == missed
    assert moved > 5e-3


def missing_row(optimizer: RowAdamW, row: int) -> Tensor:
    """The weight of a row as it would be read now, from the rule alone, in float64."""
    weight, state = optimizer.table.weight, optimizer.state[optimizer.table.weight]
    keep, _, _, *rule = optimizer._missed(optimizer.seen[row : row + 1].numpy())[0]
    root = state["exp_avg_sq"][row].double().sqrt()
    eps = optimizer.group["eps"]
    total = sum(amount / (root * node + eps) for node, amount in zip(rule[:4], rule[4:], strict=True))
    return (weight[row].double() * keep - state["exp_avg"][row].double() * total).detach()


def test_reading_a_row_late_gives_the_dense_output() -> None:
    rows, by_rows, dense, by_all = pair()
    for step in range(20):
        ids = torch.tensor([5, 9] if step < 3 else [9, 11])
        for net, optimizer in ((rows, by_rows), (dense, by_all)):
            learn(net, [ids], [torch.ones(2, L)])
            optimizer.step()
            optimizer.zero_grad()
    assert not torch.allclose(rows.table.weight[5].double(), dense.table.weight[5], rtol=1e-3)
    with torch.inference_mode():
        read = torch.tensor([5, 40])
        torch.testing.assert_close(rows(read).double(), dense(read), rtol=1e-5, atol=1e-6)
    assert rows.table.weight[5].double().sub(dense.table.weight[5]).abs().max() < 1e-7
    assert int(by_rows.seen[40]) == by_rows.now  # never had a gradient: it only decays
    assert int(by_rows.seen[41]) == 0


def test_the_padding_row_and_rows_never_read_only_decay() -> None:
    rows, by_rows, dense, by_all = pair(decay=0.5)
    before = rows.table.weight.detach().clone()
    for _ in range(10):
        for net, optimizer in ((rows, by_rows), (dense, by_all)):
            learn(net, [torch.tensor([PAD, 3])], [torch.ones(2, L)])
            optimizer.step()
            optimizer.zero_grad()
    by_rows.flush()
    for row in (PAD, 50):
        torch.testing.assert_close(rows.table.weight[row], before[row] * (1 - 5e-4 * 0.5) ** 10)
    assert_same(rows, dense)


@pytest.mark.parametrize("target", ["rows", "dense"])
def test_state_dict_goes_both_ways_in_the_middle(target: str) -> None:
    """Checkpoint after 25 of 50 steps, weights and state into new objects, of either optimiser."""
    torch.manual_seed(4)
    steps = [(zipf(9), torch.randn(9, L)) for _ in range(50)]

    def run(net: Net, optimizer: torch.optim.Optimizer, of: list[tuple[Tensor, Tensor]]) -> None:
        for ids, wanted in of:
            learn(net, [ids], [wanted])
            optimizer.step()
            optimizer.zero_grad()

    rows, by_rows, dense, by_all = pair()
    run(dense, by_all, steps)
    run(rows, by_rows, steps[:25])
    saved = copy.deepcopy({"net": rows.state_dict(), "optimizer": by_rows.state_dict()})
    again = Net()
    optimizer = (
        RowAdamW(groups(again, 0.1), again.table, lr=1e-3)
        if target == "rows"
        else torch.optim.AdamW(groups(again, 0.1), lr=1e-3, fused=True)
    )
    run(again, optimizer, steps[10:13])  # another past, which loading must wipe out
    again.load_state_dict(saved["net"])
    optimizer.load_state_dict(saved["optimizer"])
    run(again, optimizer, steps[25:])
    again.state_dict()
    assert_same(again, dense)


def test_loading_weights_drops_the_updates_that_waited() -> None:
    net = Net()
    best = copy.deepcopy(net.state_dict())
    optimizer = RowAdamW(groups(net, 0.1), net.table, lr=1e-3)
    for ids in ([5], [6], [7]):
        learn(net, [torch.tensor(ids)], [torch.ones(1, L)])
        optimizer.step()
        optimizer.zero_grad()
    net.load_state_dict(best)
    assert torch.equal(net.table(torch.arange(V)), best["table.weight"])


def test_the_memory_of_rates_may_run_full() -> None:
    rows, by_rows, dense, by_all = pair()
    for step in range(HISTORY + 20):
        for net, optimizer in ((rows, by_rows), (dense, by_all)):
            # Row 4 now and then, gradients set by hand: this is many steps.
            ids = torch.tensor([[4 if step % 400 == 0 else 3]])
            value = torch.full((1, D), 0.01 + step % 5)
            gradient = torch.sparse_coo_tensor(ids, value, (V, D), check_invariants=False)
            net.table.weight.grad = gradient if net is rows else gradient.to_dense().double()
            optimizer.step()
    assert by_rows.now == 20
    by_rows.flush()
    # float32 rounds each of 1,044 steps
    assert_same(rows, dense, rtol=2e-5)


def test_a_step_without_a_gradient_leaves_the_table() -> None:
    rows, by_rows, dense, by_all = pair()
    for step in range(6):
        for net, optimizer in ((rows, by_rows), (dense, by_all)):
            if step % 2:
                net.head(torch.ones(D, dtype=net.head.bias.dtype)).sum().backward()
            else:
                learn(net, [torch.tensor([5, 5, 6])], [torch.ones(3, L)])
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    by_rows.flush()
    assert float(by_rows.state[rows.table.weight]["step"]) == 3
    assert_same(rows, dense)


def test_closing_leaves_a_plain_embedding() -> None:
    rows, by_rows, dense, by_all = pair()
    for net, optimizer in ((rows, by_rows), (dense, by_all)):
        for ids in ([5], [6], [7]):
            learn(net, [torch.tensor(ids)], [torch.ones(1, L)])
            optimizer.step()
            optimizer.zero_grad()
    by_rows.close()
    assert_same(rows, dense)
    assert not rows.table._forward_pre_hooks
    learn(rows, [torch.tensor([5])], [torch.ones(1, L)])
    assert not rows.table.weight.grad.is_sparse  # type: ignore[union-attr]
    copy.deepcopy(rows)


@pytest.mark.parametrize("limit", [1e-3, 1.0, 1e3, float("inf")])
def test_clipping_counts_a_row_read_twice_once(limit: float) -> None:
    rows, dense = Net(), Net()
    rows.table.sparse = True
    for net in (rows, dense):
        learn(net, [torch.tensor([5, 5, 6]), torch.tensor([6, PAD, 8])], [torch.ones(3, L), -torch.ones(3, L)])
    ours, theirs = clip_grad_norm(rows.parameters(), limit), nn.utils.clip_grad_norm_(dense.parameters(), limit)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(rows.parameters(), dense.parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        torch.testing.assert_close(a.grad.to_dense() if a.grad.is_sparse else a.grad, b.grad)


def test_clipping_passes_on_a_gradient_that_is_no_number() -> None:
    net = Net()
    net.table.sparse = True
    learn(net, [torch.tensor([5])], [torch.full((1, L), float("nan"))])
    assert torch.isnan(clip_grad_norm(net.parameters(), 1.0))


def tied(net: Net) -> None:
    (net.table(torch.tensor([1, 2])) @ net.table.weight.T).sum().backward()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda net: net.table.weight.requires_grad_(False), "trained: False"),
        (lambda net: setattr(net.table, "max_norm", 1.0), "max_norm: 1.0"),
        (lambda net: setattr(net, "table", nn.Embedding(V, D)), "in a group: False"),
    ],
)
def test_tables_without_row_updates_are_refused(spoil: Callable[[Net], Any], message: str) -> None:
    net = Net()
    of = groups(net, 0.1)
    spoil(net)
    with pytest.raises(BackendError, match=message):
        RowAdamW(of, net.table, lr=1e-3)


def test_a_tied_table_is_refused_at_its_first_step() -> None:
    net = Net()
    optimizer = RowAdamW(groups(net, 0.1), net.table, lr=1e-3)
    tied(net)
    with pytest.raises(BackendError, match="used elsewhere too"):
        optimizer.step()


def test_a_closure_is_called_once_with_gradients() -> None:
    rows, by_rows, dense, by_all = pair()
    losses = []
    for net, optimizer in ((rows, by_rows), (dense, by_all)):

        def closure(net: Net = net) -> Tensor:
            loss = net(torch.tensor([4, 5])).square().sum()
            loss.backward()
            return loss

        losses.append(optimizer.step(closure).item())
    assert losses[0] == pytest.approx(losses[1])
    by_rows.flush()
    assert_same(rows, dense)


def test_gauss_rule_is_exact_for_polynomials() -> None:
    generator = np.random.default_rng(0)
    amounts, points = generator.random((5, 30)), generator.random((5, 30))
    amounts[0, 3:] = 0  # fewer points than nodes
    amounts[1] = 0
    nodes, weights = gauss(amounts, points, 4)
    for power in range(8):
        wanted = (amounts * points**power).sum(-1)
        np.testing.assert_allclose((weights * nodes**power).sum(-1), wanted, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("betas", "error"), [((0.9, 0.999), 1.1e-7), ((0.95, 0.99), 3e-6)])
@pytest.mark.parametrize("start", [1, 5, 50, 1000])
def test_the_rule_is_within_its_stated_error_for_any_root(betas: tuple[float, float], error: float, start: int) -> None:
    beta1, beta2 = betas
    gap = np.arange(1, 301)
    amounts = beta1**gap / (1 - beta1 ** (start + gap))
    points = 0.5 * (gap * np.log(beta2) - np.log1p(-(beta2 ** (start + gap))))
    nodes, weights = gauss(amounts[None], points[None], 4)
    for root in 10.0 ** np.arange(-14, 3):
        exact = (amounts / (root * np.exp(points) + 1e-8)).sum()
        assert (weights / (root * np.exp(nodes) + 1e-8)).sum() == pytest.approx(exact, rel=error)
