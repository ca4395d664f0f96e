"""Vectors of the three kinds: choosing, joining, similarity by hand, and the best of a stream however it is cut."""

from __future__ import annotations

import pytest
import torch

from modernbert.errors import BackendError, ConfigError, ModernBertError
from tasks.vectors import Vectors, expand, normalise, pairwise, similarity, top_k


def dense(count: int, seed: int = 0) -> Vectors:
    # Whole numbers, so that many scores are equal, and exactly so in a matrix product of any shape.
    values = torch.randint(-2, 3, (count, 6), generator=torch.Generator().manual_seed(seed))
    return Vectors("dense", values.float())


def tokens(*lengths: int) -> Vectors:
    torch.manual_seed(sum(lengths))
    values = normalise(torch.randn(sum(lengths), 4))
    return Vectors("multi_vector", values, torch.tensor([0, *lengths]).cumsum(0))


def sparse(count: int) -> Vectors:
    torch.manual_seed(count)
    return Vectors("sparse", torch.relu(torch.randn(count, 9) - 0.5))


@pytest.mark.parametrize("found", [dense(5), tokens(3, 1, 4, 2, 2), sparse(5), sparse(5).stored()])
def test_select_and_cat_are_inverse(found: Vectors) -> None:
    assert len(found) == 5
    parts = [found.select([i]) for i in range(5)]
    joined = Vectors.cat([parts[4], parts[0], found.select(slice(1, 4))])
    again = joined.select([1, 2, 3, 4, 0])
    for a, b in ((found, again), (found.select([3, 3]), Vectors.cat([parts[3], parts[3]]))):
        left, right = (v.values.to_dense() if v.is_csr else v.values for v in (a, b))
        assert torch.equal(left, right)
        assert a.cu_seqlens is None or torch.equal(a.cu_seqlens, b.cu_seqlens)
        assert a.nbytes == b.nbytes


def test_similarity_by_hand() -> None:
    first = Vectors("dense", torch.tensor([[1.0, 0.0], [0.6, 0.8]]))
    assert torch.allclose(similarity(first, first), torch.tensor([[1.0, 0.6], [0.6, 1.0]]))
    queries = Vectors("multi_vector", torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]), torch.tensor([0, 2, 3]))
    documents = Vectors("multi_vector", torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]]), torch.tensor([0, 2, 3]))
    assert torch.allclose(similarity(queries, documents), torch.tensor([[1.6, 1.0], [0.8, 0.0]]))
    assert torch.allclose(pairwise(queries, documents), torch.tensor([1.6, 0.0]))
    weights = sparse(4)
    expected = weights.values @ weights.values.t()
    for left, right in ((weights, weights), (weights.stored(), weights), (weights, weights.stored())):
        assert torch.allclose(similarity(left, right), expected)
    assert torch.allclose(pairwise(weights.stored(), weights), expected.diagonal())
    assert similarity(first, first.select([])).shape == (2, 0)


def test_similarity_keeps_fp32_under_autocast() -> None:
    found = Vectors("dense", normalise(torch.randn(4, 6)))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = similarity(found, found)
    assert torch.equal(half, similarity(found, found))


@pytest.mark.parametrize("chunk", [1, 7, 40, 100])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_best_do_not_depend_on_chunks(chunk: int, k: int) -> None:
    queries, documents = dense(8), dense(40, seed=1)
    whole, order = torch.sort(similarity(queries, documents), dim=1, descending=True, stable=True)
    assert int((whole[:, :-1] == whole[:, 1:]).sum()) > 20  # ties are there
    stream = ((torch.arange(i, min(i + chunk, 40)), documents.select(slice(i, i + chunk))) for i in range(0, 40, chunk))
    scores, ids = top_k(queries, stream, k)
    most = min(k, 40)
    assert torch.equal(ids[:, :most], order[:, :most])
    assert torch.equal(scores[:, :most], whole[:, :most])
    assert (ids[:, most:] == -1).all()
    assert (scores[:, most:] == -torch.inf).all()


def test_excluded_and_shuffled_ids() -> None:
    queries, documents = dense(3), dense(12, seed=1)
    names = torch.randperm(12, generator=torch.Generator().manual_seed(2)) * 10
    exclude = torch.tensor([[0, 50, -1], [110, 70, 60], [-1, -1, -1]])
    chunks = [(names[:5], documents.select(slice(5))), (names[5:], documents.select(slice(5, 12)))]
    _, ids = top_k(queries, chunks, 12, exclude)
    every = similarity(queries, documents)
    for row in range(3):
        left = [(-float(every[row, i]), int(names[i])) for i in range(12) if int(names[i]) not in exclude[row].tolist()]
        assert ids[row, : len(left)].tolist() == [name for _, name in sorted(left)]
        assert (ids[row, len(left) :] == -1).all()


def test_blocks_of_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, documents = tokens(2, 3, 1, 2, 5), tokens(4, 2, 6, 1, 3, 3, 2)
    expected = top_k(queries, [(torch.arange(7), documents)], 3)
    monkeypatch.setattr("tasks.vectors.BLOCK_SCORES", 14)  # two queries at a time
    scores, ids = top_k(queries, [(torch.arange(7), documents)], 3)
    assert torch.equal(ids, expected[1])
    # A product of fewer rows may add in another order (MKL on an AMD CPU does).
    torch.testing.assert_close(scores, expected[0], atol=1e-6, rtol=1e-6)


def test_expand() -> None:
    positions, run = expand(torch.tensor([5, 0, 9]), torch.tensor([2, 0, 3]))
    assert positions.tolist() == [5, 6, 9, 10, 11]
    assert run.tolist() == [0, 0, 2, 2, 2]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(BackendError, match="kind 'both'"):
        Vectors("both", torch.zeros(2, 3))  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="cu_seqlens"):
        Vectors("multi_vector", torch.zeros(2, 3))
    with pytest.raises(BackendError, match="encode both with one model"):
        similarity(dense(2), sparse(2))
    with pytest.raises(BackendError, match="cannot be joined"):
        Vectors.cat([dense(2), sparse(2)])
    with pytest.raises(ConfigError, match="k=0"):
        top_k(dense(2), [], 0)
    broken = Vectors("dense", torch.full((1, 6), torch.nan))
    with pytest.raises(ModernBertError, match="not a number"):
        top_k(broken, [(torch.arange(2), dense(2))], 1)
