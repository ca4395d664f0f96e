"""MaxSim of late interaction over packed queries and packed documents.

score(q, d) = sum over the tokens of q of the maximum over the tokens of d of their dot product.
Tq, Td tokens in all, Bq, Bd sequences, D features. Nothing is padded, and of the (Tq, Td) similarities only a
chunk is ever in memory; the backward needs which document token won, (Tq, Bd) integers.
Source: Khattab, Zaharia, "ColBERT", arXiv:2004.12832.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from modernbert.errors import BackendError
from modernbert.kernels import dispatch

CHUNK_VALUES = 2**22  # similarities (forward) or gradient values (backward) held at once: 16 MiB in float32


def maxsim(queries: Tensor, query_cu_seqlens: Tensor, documents: Tensor, document_cu_seqlens: Tensor) -> Tensor:
    """Scores (Bq, Bd) of every query against every document, float32 (float64 for float64 input).

    Args:
        queries: (Tq, D) token vectors, packed.
        query_cu_seqlens: (Bq + 1,) int32 or int64, from 0 to Tq, on the device of the vectors.
        documents: (Td, D) in the dtype of `queries`.
        document_cu_seqlens: (Bd + 1,), from 0 to Td; no empty document (its maximum is undefined).

    The gradient of a maximum goes to the first of equal winners.

    Raises:
        BackendError: a shape, dtype or device that does not fit, or (checked on CPU only) wrong cu_seqlens.
    """
    _check(queries, query_cu_seqlens, documents, document_cu_seqlens)
    if dispatch.runs_triton(queries):
        from modernbert.kernels import maxsim_triton

        return maxsim_triton.maxsim(queries, query_cu_seqlens, documents, document_cu_seqlens)
    return _MaxSim.apply(queries, query_cu_seqlens, documents, document_cu_seqlens)


def maxsim_reference(
    queries: Tensor, query_cu_seqlens: Tensor, documents: Tensor, document_cu_seqlens: Tensor
) -> Tensor:
    """The definition, pair by pair."""
    query_ends, document_ends = query_cu_seqlens.tolist(), document_cu_seqlens.tolist()
    rows = []
    for q in range(len(query_ends) - 1):
        query = queries[query_ends[q] : query_ends[q + 1]]
        parts = (documents[a:b] for a, b in itertools.pairwise(document_ends))
        rows.append(torch.stack([(query @ part.t()).max(dim=1).values.sum() for part in parts]))
    return torch.stack(rows)


def sequence_of_token(cu_seqlens: Tensor, tokens: int) -> Tensor:
    """(T,) int64: the sequence of each packed token. `tokens` is given so that no GPU is waited for."""
    lengths = cu_seqlens.diff()
    index = torch.arange(lengths.numel(), device=cu_seqlens.device)
    return torch.repeat_interleave(index, lengths, output_size=tokens)


class _MaxSim(torch.autograd.Function):
    """The torch form: similarities of a chunk of documents at once, then one maximum a document."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, query_cu: Tensor, documents: Tensor, document_cu: Tensor) -> Tensor:
        wide = torch.promote_types(queries.dtype, torch.float32)
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        ends = document_cu.tolist()
        count = len(ends) - 1
        best = queries.new_empty(count, queries.shape[0], dtype=wide)
        winner = torch.empty_like(best, dtype=torch.int32) if keep else None
        wide_queries = queries.to(wide)
        for first, last in _chunks(ends, CHUNK_VALUES // max(1, queries.shape[0])):
            start = ends[first]
            similarity = documents[start : ends[last]].to(wide) @ wide_queries.t()  # (tokens, Tq)
            for b in range(first, last):
                part = similarity[ends[b] - start : ends[b + 1] - start]
                if winner is None:
                    torch.amax(part, dim=0, out=best[b])
                else:
                    best[b], index = part.max(dim=0)
                    winner[b] = index + ends[b]
        ctx.save_for_backward(queries, query_cu, documents, winner)
        scores = best.new_zeros(query_cu.numel() - 1, count)
        return scores.index_add_(0, sequence_of_token(query_cu, queries.shape[0]), best.t())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        queries, query_cu, documents, winner = ctx.saved_tensors
        tokens, d = queries.shape
        pull = grad.t()[:, sequence_of_token(query_cu, tokens)]  # (Bd, Tq): what each maximum weighs
        wide_queries = queries.to(grad.dtype)
        grad_queries = torch.zeros_like(wide_queries)
        grad_documents = torch.zeros_like(documents, dtype=grad.dtype)
        step = max(1, CHUNK_VALUES // max(1, tokens * d))
        for b in range(0, len(winner), step):
            weight = pull[b : b + step, :, None]  # (step, Tq, 1)
            index = winner[b : b + step].reshape(-1)
            won = documents[index].to(grad.dtype).view(-1, tokens, d)
            grad_queries += (weight * won).sum(0)
            grad_documents.index_add_(0, index, (weight * wide_queries).view(-1, d))
        return grad_queries.to(queries.dtype), None, grad_documents.to(documents.dtype), None


def _chunks(ends: list[int], most: int) -> list[tuple[int, int]]:
    """Runs [first, last) of whole documents of at most `most` tokens; a longer one is a run of its own."""
    runs = []
    first = 0
    for b in range(1, len(ends)):
        if ends[b] - ends[first] > most and b - 1 > first:
            runs.append((first, b - 1))
            first = b - 1
    if first < len(ends) - 1:
        runs.append((first, len(ends) - 1))
    return runs


def _check(queries: Tensor, query_cu: Tensor, documents: Tensor, document_cu: Tensor) -> None:
    dispatch.check_floats("maxsim", queries=queries, documents=documents)
    if queries.dim() != 2 or documents.dim() != 2 or queries.shape[1] != documents.shape[1]:
        given = f"queries are {tuple(queries.shape)}, documents {tuple(documents.shape)}"
        raise BackendError(f"maxsim: {given}; give (Tq, D) and (Td, D)")
    if queries.dtype != documents.dtype:
        raise BackendError(f"maxsim: queries are {queries.dtype}, documents {documents.dtype}; give one dtype")
    for name, cu, values in (("query", query_cu, queries), ("document", document_cu, documents)):
        if cu.dim() != 1 or cu.numel() < 2 or cu.dtype not in (torch.int32, torch.int64):
            given = f"{name}_cu_seqlens are {tuple(cu.shape)} {cu.dtype}"
            raise BackendError(f"maxsim: {given}; give (B + 1,) int32 with at least one sequence")
        if cu.device != values.device:
            raise BackendError(f"maxsim: {name}_cu_seqlens are on {cu.device}, the vectors on {values.device}")
        if cu.is_cuda:
            continue  # reading the values would wait for the device
        if int(cu[0]) != 0 or int(cu[-1]) != values.shape[0] or bool((cu.diff() <= 0).any()):
            allowed = f"give 0, then rising ends up to {values.shape[0]}, no sequence empty"
            raise BackendError(f"maxsim: {name}_cu_seqlens are {cu.tolist()[:8]} …; {allowed}")
