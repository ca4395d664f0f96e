from __future__ import annotations

import importlib
from functools import partial
from itertools import accumulate

import pytest
import torch
from parity import assert_parity, draw

from modernbert.errors import BackendError
from modernbert.kernels import maxsim
from modernbert.kernels.maxsim import _chunks, maxsim_reference

QUERIES = (1, 32, 33, 5)
DOCUMENTS = (1, 63, 64, 65, 129, 2)
CASES = [
    (96, torch.float32, QUERIES, DOCUMENTS),
    (128, torch.float32, (33,), (70, 3)),
    (8, torch.float32, (1, 1), (1,)),
    (48, torch.bfloat16, QUERIES, DOCUMENTS),
    (48, torch.float16, QUERIES, DOCUMENTS),
]


def _ends(lengths: tuple[int, ...], device: torch.device | None = None) -> torch.Tensor:
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


@pytest.mark.parametrize(("d", "dtype", "query_lengths", "document_lengths"), CASES)
def test_parity(
    device: torch.device,
    d: int,
    dtype: torch.dtype,
    query_lengths: tuple[int, ...],
    document_lengths: tuple[int, ...],
) -> None:
    query_ends, document_ends = _ends(query_lengths), _ends(document_lengths)
    make = partial(draw, dtype=dtype, device=device, scale=d**-0.5)
    assert_parity(
        lambda q, t: maxsim(q, query_ends.to(q.device), t, document_ends.to(q.device)),
        lambda q, t: maxsim_reference(q, query_ends, t, document_ends),
        [make(sum(query_lengths), d), make(sum(document_lengths), d)],
        dtype,
    )


def test_by_hand(device: torch.device) -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 1.0]], device=device).requires_grad_()
    documents = torch.tensor([[3.0, 0.0], [1.0, 1.0], [-1.0, -1.0]], device=device).requires_grad_()
    scores = maxsim(queries, _ends((2, 1), device), documents, _ends((2, 1), device))
    # Query 0: max(3, 1) + max(0, 2) and -1 - 2; query 1: max(3, 2) and -2.
    assert scores.tolist() == [[5.0, -3.0], [3.0, -2.0]]
    grads = torch.autograd.grad(scores[0, 0], (queries, documents))
    assert grads[0].tolist() == [[3.0, 0.0], [1.0, 1.0], [0.0, 0.0]]
    assert grads[1].tolist() == [[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]]


def test_the_first_of_equal_winners_takes_the_gradient(device: torch.device) -> None:
    documents = torch.ones(70, 16, device=device, requires_grad=True)
    scores = maxsim(torch.ones(1, 16, device=device), _ends((1,), device), documents, _ends((70,), device))
    (grad,) = torch.autograd.grad(scores.sum(), documents)
    assert grad[0].tolist() == [1.0] * 16
    assert not grad[1:].any()


def test_a_neighbour_changes_nothing(device: torch.device) -> None:
    queries, documents = torch.randn(37, 32, device=device), torch.randn(137, 32, device=device)
    together = maxsim(queries, _ends((32, 5), device), documents, _ends((70, 67), device))
    alone = maxsim(queries[32:], _ends((5,), device), documents[70:], _ends((67,), device))
    torch.testing.assert_close(together[1:, 1:], alone, atol=1e-5, rtol=1e-6)


def test_without_gradient_and_not_contiguous(device: torch.device) -> None:
    queries, documents = torch.randn(16, 40, device=device).t(), torch.randn(90, 32, device=device)[:, ::2]
    ends = _ends((32, 8), device), _ends((80, 10), device)
    with torch.inference_mode():
        scores = maxsim(queries, ends[0], documents, ends[1])
    want = maxsim_reference(queries, ends[0], documents, ends[1])
    torch.testing.assert_close(scores, want, atol=1e-5, rtol=1e-5)


def test_one_chunk_or_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunked so finely that each document and each gather is its own, the CPU form says the same."""
    query_ends, document_ends = _ends(QUERIES), _ends(DOCUMENTS)
    queries, documents = (torch.randn(sum(n), 32, requires_grad=True) for n in (QUERIES, DOCUMENTS))

    def run() -> tuple[torch.Tensor, ...]:
        scores = maxsim(queries, query_ends, documents, document_ends)
        return scores, *torch.autograd.grad(scores.square().sum(), (queries, documents))

    whole = run()
    module = importlib.import_module("modernbert.kernels.maxsim")  # the package shows the function of that name
    monkeypatch.setattr(module, "CHUNK_VALUES", 1)
    torch.testing.assert_close(run(), whole, atol=2e-4, rtol=1e-5)


def test_chunks_are_whole_documents() -> None:
    assert _chunks([0, 3, 5, 15, 16], 5) == [(0, 2), (2, 3), (3, 4)]
    assert _chunks([0, 3], 100) == [(0, 1)]


def test_gradcheck() -> None:
    queries, documents = (torch.randn(n, 3).double().requires_grad_() for n in (5, 7))
    ends = _ends((2, 3)), _ends((4, 3))
    assert torch.autograd.gradcheck(lambda q, d: maxsim(q, ends[0], d, ends[1]), (queries, documents))


@pytest.mark.parametrize(
    ("queries", "query_ends", "documents", "message"),
    [
        (torch.ones(5, 4), _ends((2, 3)), torch.ones(7, 3), r"queries are \(5, 4\), documents \(7, 3\)"),
        (torch.ones(5, 3).half(), _ends((2, 3)), torch.ones(7, 3), "give one dtype"),
        (torch.ones(5, 3), _ends((2, 2)), torch.ones(7, 3), r"query_cu_seqlens are \[0, 2, 4\].*up to 5"),
        (torch.ones(5, 3), _ends((5, 0)), torch.ones(7, 3), "no sequence empty"),
        (torch.ones(5, 3), torch.tensor([0]), torch.ones(7, 3), r"query_cu_seqlens are \(1,\) torch.int64"),
        (torch.ones(5, 3), _ends((5,)).float(), torch.ones(7, 3), r"torch.float32; give \(B \+ 1,\) int32"),
        (
            torch.ones(5, 3),
            _ends((5,)).to("meta"),
            torch.ones(7, 3),
            "query_cu_seqlens are on meta, the vectors on cpu",
        ),
    ],
)
def test_refused(queries: torch.Tensor, query_ends: torch.Tensor, documents: torch.Tensor, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        maxsim(queries, query_ends, documents, _ends((7,)))
