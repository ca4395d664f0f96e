"""Vectors of texts, their similarity, and the best of a streamed collection.

Q queries, N documents, D features, V vocabulary, T tokens in all, k results.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor

from modernbert.errors import BackendError, ConfigError, ModernBertError
from modernbert.kernels.maxsim import maxsim

Kind = Literal["dense", "multi_vector", "sparse"]
KINDS: tuple[str, ...] = get_args(Kind)
#: Scores held at once while searching: 64 MiB in fp32.
BLOCK_SCORES = 2**24


@dataclass(frozen=True)
class Vectors:
    """Vectors of N texts, all of one kind.

    Args:
        kind: dense: `values` (N, D), normalised; multi_vector: `values` (T, D), each normalised, text i being the rows
            `cu_seqlens[i]` to `cu_seqlens[i + 1]`; sparse: `values` (N, V) of weights 0 or more, strided while it is
            worked on, CSR when stored (see `stored`).
        values: fp32, or bf16 and fp16 where it is stored so.
        cu_seqlens: (N + 1,) int64 of multi_vector; None else.

    Raises:
        BackendError: shapes that do not fit the kind.
    """

    kind: Kind
    values: Tensor
    cu_seqlens: Tensor | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BackendError(f"vectors of kind {self.kind!r}: allowed is {', '.join(KINDS)}")
        if (self.kind == "multi_vector") != (self.cu_seqlens is not None):
            raise BackendError("cu_seqlens belong to multi_vector, and to it alone: they say where each text begins")
        if self.values.dim() != 2:
            raise BackendError(f"vectors are {tuple(self.values.shape)}: give two dimensions")

    def __len__(self) -> int:
        return len(self.values) if self.cu_seqlens is None else len(self.cu_seqlens) - 1

    @property
    def dimension(self) -> int:
        """Features of one vector."""
        return self.values.shape[1]

    @property
    def device(self) -> torch.device:
        return self.values.device

    @property
    def is_csr(self) -> bool:
        return self.values.layout == torch.sparse_csr

    @property
    def nbytes(self) -> int:
        """Bytes of the values and of what says where they are."""
        parts = [self.values] if self.cu_seqlens is None else [self.values, self.cu_seqlens]
        if self.is_csr:
            parts = [self.values.crow_indices(), self.values.col_indices(), self.values.values()]
        return sum(part.numel() * part.element_size() for part in parts)

    def to(self, device: torch.device | str) -> Vectors:
        """The same on another device."""
        cu = None if self.cu_seqlens is None else self.cu_seqlens.to(device)
        return Vectors(self.kind, self.values.to(device), cu)

    def stored(self) -> Vectors:
        """The same as it is kept in bulk: CSR for sparse (a text has some hundred of 30,000 weights)."""
        return Vectors("sparse", self.values.to_sparse_csr()) if self.kind == "sparse" and not self.is_csr else self

    def select(self, index: Tensor | Sequence[int] | slice) -> Vectors:
        """The texts at `index`, in that order."""
        count = len(self)
        if isinstance(index, slice):
            index = torch.arange(count)[index]
        chosen = torch.as_tensor(index, dtype=torch.int64, device=self.device)
        if self.cu_seqlens is not None:
            rows, cu = _rows(self.cu_seqlens, chosen)
            return Vectors(self.kind, self.values[rows], cu)
        if not self.is_csr:
            return Vectors(self.kind, self.values[chosen])
        rows, crow = _rows(self.values.crow_indices(), chosen)
        columns, weights = self.values.col_indices()[rows], self.values.values()[rows]
        return Vectors(self.kind, torch.sparse_csr_tensor(crow, columns, weights, (len(chosen), self.dimension)))

    @staticmethod
    def cat(parts: Sequence[Vectors]) -> Vectors:
        """One after another; all of one kind, dimension and layout, at least one."""
        kind = parts[0].kind
        if any(part.kind != kind or part.dimension != parts[0].dimension for part in parts):
            given = sorted({f"{part.kind} of {part.dimension}" for part in parts})
            raise BackendError(f"vectors of different models cannot be joined: {', '.join(given)}")
        if kind == "multi_vector":
            ends = [cast(Tensor, part.cu_seqlens) for part in parts]
            return Vectors(kind, torch.cat([part.values for part in parts]), _joined(ends))
        if not any(part.is_csr for part in parts):
            return Vectors(kind, torch.cat([part.values for part in parts]))
        stored = [part.stored().values for part in parts]
        crow = _joined([part.crow_indices() for part in stored])
        columns = torch.cat([part.col_indices() for part in stored])
        weights = torch.cat([part.values() for part in stored])
        return Vectors(kind, torch.sparse_csr_tensor(crow, columns, weights, (len(crow) - 1, parts[0].dimension)))


@dataclass(frozen=True)
class Embedding:
    """The vector of a text, as `modernbert predict` answers: floats (dense), a list of them a token (multi_vector), or
    {token: weight} (sparse); or the similarity of a query and a document."""

    vector: list[float] | list[list[float]] | dict[str, float] | None
    score: float | None = None
    cut: bool = False


def readable(vectors: Vectors, kind: Kind, words: Sequence[str] = ()) -> Any:
    """One text's vector as Python values (see `Embedding`); `words` are those that sparse weights belong to."""
    if kind == "dense":
        return vectors.values[0].tolist()
    if kind == "multi_vector":
        return vectors.values.tolist()
    weights = vectors.values[0]
    order = weights.argsort(descending=True, stable=True)[: int((weights > 0).sum())]
    return {words[i]: round(float(weights[i]), 4) for i in order.tolist()}


def normalise(values: Tensor) -> Tensor:
    """(N, D) at length 1 each, in fp32 (float64 stays); a zero vector stays zero."""
    return torch.nn.functional.normalize(values if values.dtype == torch.float64 else values.float(), dim=-1)


def similarity(queries: Vectors, documents: Vectors) -> Tensor:
    """(Q, N) scores of every query against every document, fp32: dot product, or MaxSim for multi_vector.

    Differentiable but for stored (CSR) vectors.

    Raises:
        BackendError: vectors of different kinds or dimensions.
    """
    _check_pair(queries, documents)
    if not len(queries) or not len(documents):
        return queries.values.new_zeros(len(queries), len(documents), dtype=torch.float32)
    if queries.cu_seqlens is not None and documents.cu_seqlens is not None:
        return maxsim(queries.values, queries.cu_seqlens, documents.values, documents.cu_seqlens)
    first = queries.values.to_dense() if queries.is_csr else queries.values
    if documents.is_csr:
        return (documents.values.float() @ first.float().t()).t()
    # fp32 also under autocast: bf16 keeps two digits of a cosine, and most neighbours differ in the third.
    with torch.autocast(first.device.type, enabled=False):
        return _wide(first) @ _wide(documents.values).t()


def pairwise(queries: Vectors, documents: Vectors) -> Tensor:
    """(N,) the score of each query against the document at its own place. Raises as `similarity`."""
    _check_pair(queries, documents)
    if len(queries) != len(documents):
        raise BackendError(f"{len(queries)} queries and {len(documents)} documents make no pairs")
    if queries.cu_seqlens is not None and documents.cu_seqlens is not None:
        firsts = queries.values.split(queries.cu_seqlens.diff().tolist())
        seconds = documents.values.split(documents.cu_seqlens.diff().tolist())
        found = [(a @ b.t()).max(dim=1).values.sum() for a, b in zip(firsts, seconds, strict=True)]
        return torch.stack(found) if found else queries.values.new_zeros(0)
    first, second = (v.values.to_dense() if v.is_csr else v.values for v in (queries, documents))
    return (_wide(first) * _wide(second)).sum(dim=1)


def top_k(
    queries: Vectors, chunks: Iterable[tuple[Tensor, Vectors]], k: int, exclude: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The k best documents of each query out of a stream of them, the best first.

    Equal scores are ordered by id, the lower first, so that the answer does not depend on how the stream is cut. In
    memory are one chunk, at most BLOCK_SCORES scores, and Q * k results.

    Args:
        queries: Q of them, on the device where it is computed.
        chunks: (ids (n,) int64, vectors of n documents), every id once; moved to the device of the queries.
        k: results a query.
        exclude: (Q, E) int64 ids that a query must not find (itself, its known positives); -1 for none.

    Returns:
        scores (Q, k) fp32 and ids (Q, k) int64 on the queries' device; -inf and -1 where there are fewer documents.

    Raises:
        ConfigError: k below 1.
        ModernBertError: a score is NaN.
    """
    if k < 1:
        raise ConfigError(f"k={k}: at least 1 document can be asked for")
    scores = torch.full((len(queries), k), -torch.inf, device=queries.device)
    ids = torch.full((len(queries), k), -1, dtype=torch.int64, device=queries.device)
    if not len(queries):
        return scores, ids
    for numbers, documents in chunks:
        numbers, documents = numbers.to(queries.device), documents.to(queries.device)
        if bool((numbers.diff() < 0).any()):
            numbers, order = numbers.sort()
            documents = documents.select(order)
        rows = max(1, BLOCK_SCORES // max(1, len(numbers)))
        for start in range(0, len(queries), rows):
            part = slice(start, start + rows)
            found = similarity(queries if rows >= len(queries) else queries.select(part), documents)
            if exclude is not None:
                found = _without(found, numbers, exclude[part].to(queries.device))
            best, where = _best(found, k)
            new = torch.where(best == -torch.inf, -1, numbers[where])
            scores[part], ids[part] = _merge(scores[part], ids[part], best, new, k)
    if bool(scores.isnan().any()):
        rows_bad = scores.isnan().any(dim=1).nonzero().squeeze(1).tolist()
        raise ModernBertError(f"queries {rows_bad[:5]} have scores that are not a number: the weights are broken")
    return scores, ids


def _best(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(Q, min(k, n)) scores and columns, descending; of equal scores at the border the lower column is taken."""
    n = scores.shape[1]
    if k >= n:
        return torch.sort(scores, dim=1, descending=True, stable=True)
    # topk is several times a full sort's speed but may take either of two equal scores: those rows alone are sorted.
    best, where = torch.topk(scores, k + 1, dim=1)
    tied = (best[:, k - 1] == best[:, k]).nonzero().squeeze(1)
    best, where = best[:, :k].clone(), where[:, :k].clone()
    if len(tied):
        full, order = torch.sort(scores[tied], dim=1, descending=True, stable=True)
        best[tied], where[tied] = full[:, :k], order[:, :k]
    return best, where


def _merge(scores: Tensor, ids: Tensor, more: Tensor, more_ids: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k best of two lists, by score and then by id."""
    ids, by_id = torch.sort(torch.cat([ids, more_ids], dim=1), dim=1)
    scores = torch.cat([scores, more], dim=1).gather(1, by_id)
    scores, by_score = torch.sort(scores, dim=1, descending=True, stable=True)
    return scores[:, :k], ids.gather(1, by_score)[:, :k]


def _without(scores: Tensor, numbers: Tensor, exclude: Tensor) -> Tensor:
    """Scores (Q, n) with -inf at the excluded ids (Q, E) of the ascending `numbers` (n,)."""
    if not len(numbers):
        return scores
    at = torch.searchsorted(numbers, exclude.contiguous()).clamp(max=len(numbers) - 1)
    hit = numbers[at] == exclude
    row = torch.arange(len(scores), device=scores.device)[:, None].expand_as(at)
    scores = scores.clone()
    scores[row[hit], at[hit]] = -torch.inf
    return scores


def expand(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Every position of the runs that begin at `starts`, run after run, and the number of the run of each."""
    run = torch.repeat_interleave(torch.arange(len(starts), device=starts.device), lengths)
    before = lengths.cumsum(0) - lengths
    return torch.arange(len(run), device=starts.device) + (starts - before)[run], run


def _rows(ends: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Flat positions of the chosen runs of `ends`, and the ends of those runs by themselves."""
    lengths = ends.diff()[chosen].long()
    cu = torch.nn.functional.pad(lengths.cumsum(0), (1, 0))
    return expand(ends[:-1].long()[chosen], lengths)[0], cu


def _joined(ends: Sequence[Tensor]) -> Tensor:
    """Ends of runs, one list behind another."""
    lengths = torch.cat([each.diff() for each in ends]).long()
    return torch.nn.functional.pad(lengths.cumsum(0), (1, 0))


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _check_pair(queries: Vectors, documents: Vectors) -> None:
    if queries.kind != documents.kind or queries.dimension != documents.dimension:
        raise BackendError(
            f"queries are {queries.kind} of {queries.dimension} features, documents {documents.kind} of "
            f"{documents.dimension}: encode both with one model"
        )
