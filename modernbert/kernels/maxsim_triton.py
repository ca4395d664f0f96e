"""Packed MaxSim in Triton, forward and backward. Contract: `maxsim.py`.

Forward: a program scores one (query, document) pair tile by tile; neighbouring programs share the document.
Backward: queries gather the document tokens that won; documents sum, for each token, the query tokens it won
(one-hot times queries on the tensor cores). No atomics: the same bits every run.
So far tested through Triton's interpreter and compiled for Hopper; not yet run on a GPU.
"""
# ruff: noqa: N803 (compile-time arguments in capitals, as Triton writes them)

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from modernbert.kernels import dispatch
from modernbert.kernels.maxsim import sequence_of_token

BLOCK_Q = 32  # ColBERT's queries are 32 tokens
BLOCK_D = 64
BLOCK_B = 32  # documents a query token gathers from at once


def maxsim(queries: Tensor, query_cu: Tensor, documents: Tensor, document_cu: Tensor) -> Tensor:
    """Triton form of `modernbert.kernels.maxsim`."""
    return _MaxSim.apply(queries, query_cu, documents, document_cu)


class _MaxSim(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, query_cu: Tensor, documents: Tensor, document_cu: Tensor) -> Tensor:
        queries, documents = queries.contiguous(), documents.contiguous()
        query_cu, document_cu = query_cu.int().contiguous(), document_cu.int().contiguous()
        num_queries, num_documents = query_cu.numel() - 1, document_cu.numel() - 1
        tokens, d = queries.shape
        keep = ctx.needs_input_grad[0] or ctx.needs_input_grad[2]
        scores = queries.new_empty(num_queries, num_documents, dtype=torch.float32)
        winner = query_cu.new_empty((num_documents, tokens) if keep else (0,))
        with dispatch.on_device_of(queries):
            _forward[(num_queries * num_documents,)](
                queries, documents, query_cu, document_cu, scores, winner,
                num_queries, num_documents, tokens,
                D=d, KEEP=keep, BLOCK_Q=BLOCK_Q, BLOCK_D=BLOCK_D,
                BLOCK_K=_block_k(d, most=128 if d <= 128 else 64), num_warps=4,
            )  # fmt: skip
        ctx.save_for_backward(queries, query_cu, documents, document_cu, winner)
        return scores

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor, None]:
        queries, query_cu, documents, document_cu, winner = ctx.saved_tensors
        grad = grad.contiguous()
        tokens, d = queries.shape
        num_documents = document_cu.numel() - 1
        owner = sequence_of_token(query_cu, tokens)
        grad_queries, grad_documents = torch.empty_like(queries), torch.empty_like(documents)
        block = _block_k(d)
        with dispatch.on_device_of(queries):
            _backward_queries[(tokens, triton.cdiv(d, block))](
                documents, owner, winner, grad, grad_queries, num_documents, tokens, d,
                BLOCK_B=BLOCK_B, BLOCK_K=block, num_warps=4,
            )  # fmt: skip
            _backward_documents[(num_documents, triton.cdiv(d, block))](
                queries, owner, document_cu, winner, grad, grad_documents, num_documents, tokens, d,
                BLOCK_Q=BLOCK_Q, BLOCK_D=BLOCK_D, BLOCK_K=block, num_warps=4,
            )  # fmt: skip
        return grad_queries, None, grad_documents, None


@triton.jit
def _forward(
    queries_ptr, documents_ptr, query_cu_ptr, document_cu_ptr, scores_ptr, winner_ptr,
    num_queries, num_documents, tokens,
    D: tl.constexpr, KEEP: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    query = tl.program_id(0) % num_queries
    document = tl.program_id(0) // num_queries
    query_start = tl.load(query_cu_ptr + query)
    query_end = tl.load(query_cu_ptr + query + 1)
    document_start = tl.load(document_cu_ptr + document)
    document_end = tl.load(document_cu_ptr + document + 1)
    score = tl.zeros((BLOCK_Q,), tl.float32)
    for q in range(query_start, query_end, BLOCK_Q):
        q_row = tl.cast(q, tl.int64) + tl.arange(0, BLOCK_Q)
        best = tl.full((BLOCK_Q,), float("-inf"), tl.float32)
        winner = tl.zeros((BLOCK_Q,), tl.int32)
        for t in range(document_start, document_end, BLOCK_D):
            d_row = tl.cast(t, tl.int64) + tl.arange(0, BLOCK_D)
            # Documents are the rows of the product: 64 of them fill a Hopper tensor core's tile, 32 queries do not.
            similarity = tl.zeros((BLOCK_D, BLOCK_Q), tl.float32)
            for k in range(0, D, BLOCK_K):  # one turn up to 128 features, which the compiler unfolds
                col = k + tl.arange(0, BLOCK_K)
                d_mask = (d_row < document_end)[:, None] & (col < D)[None, :]
                q_mask = (q_row < query_end)[:, None] & (col < D)[None, :]
                left = tl.load(documents_ptr + d_row[:, None] * D + col[None, :], mask=d_mask, other=0.0)
                right = tl.load(queries_ptr + q_row[:, None] * D + col[None, :], mask=q_mask, other=0.0)
                similarity = tl.dot(left, tl.trans(right), similarity, input_precision="ieee")
            similarity = tl.where((d_row < document_end)[:, None], similarity, float("-inf"))
            top, index = tl.max(similarity, axis=0, return_indices=True)
            winner = tl.where(top > best, index + t, winner)
            best = tl.maximum(best, top)
        score += tl.where(q_row < query_end, best, 0.0)
        if KEEP:
            at = winner_ptr + document.to(tl.int64) * tokens + q_row
            tl.store(at, winner, mask=q_row < query_end)
    tl.store(scores_ptr + query.to(tl.int64) * num_documents + document, tl.sum(score, axis=0))


@triton.jit
def _backward_queries(
    documents_ptr, owner_ptr, winner_ptr, grad_ptr, grad_queries_ptr, num_documents, tokens, d,
    BLOCK_B: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    query = tl.load(owner_ptr + token)
    total = tl.zeros((BLOCK_K,), tl.float32)
    for b in range(0, num_documents, BLOCK_B):
        document = tl.cast(b, tl.int64) + tl.arange(0, BLOCK_B)
        known = document < num_documents
        pull = tl.load(grad_ptr + query * num_documents + document, mask=known, other=0.0)
        row = tl.load(winner_ptr + document * tokens + token, mask=known, other=0).to(tl.int64)
        mask = known[:, None] & (col < d)[None, :]
        won = tl.load(documents_ptr + row[:, None] * d + col[None, :], mask=mask, other=0.0).to(tl.float32)
        total += tl.sum(pull[:, None] * won, axis=0)
    tl.store(grad_queries_ptr + token * d + col, total.to(grad_queries_ptr.dtype.element_ty), mask=col < d)


@triton.jit
def _backward_documents(
    queries_ptr, owner_ptr, document_cu_ptr, winner_ptr, grad_ptr, grad_documents_ptr,
    num_documents, tokens, d,
    BLOCK_Q: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    document = tl.program_id(0).to(tl.int64)
    col = tl.program_id(1) * BLOCK_K + tl.arange(0, BLOCK_K)
    document_start = tl.load(document_cu_ptr + document)
    document_end = tl.load(document_cu_ptr + document + 1)
    for t in range(document_start, document_end, BLOCK_D):
        d_row = tl.cast(t, tl.int64) + tl.arange(0, BLOCK_D)
        total = tl.zeros((BLOCK_D, BLOCK_K), tl.float32)
        for q in range(0, tokens, BLOCK_Q):
            q_row = tl.cast(q, tl.int64) + tl.arange(0, BLOCK_Q)
            known = q_row < tokens
            query = tl.load(owner_ptr + q_row, mask=known, other=0)
            pull = tl.load(grad_ptr + query * num_documents + document, mask=known, other=0.0)
            winner = tl.load(winner_ptr + document * tokens + q_row, mask=known, other=-1)
            q_mask = known[:, None] & (col < d)[None, :]
            left = tl.load(queries_ptr + q_row[:, None] * d + col[None, :], mask=q_mask, other=0.0)
            won = tl.where(winner[None, :] == d_row[:, None], pull[None, :], 0.0)
            total = tl.dot(won.to(left.dtype), left, total, input_precision="ieee")
        mask = (d_row < document_end)[:, None] & (col < d)[None, :]
        at = grad_documents_ptr + d_row[:, None] * d + col[None, :]
        tl.store(at, total.to(grad_documents_ptr.dtype.element_ty), mask=mask)


def _block_k(d: int, most: int = 64) -> int:
    """Features a matrix product takes at once: 16 at least, the tensor cores' tile."""
    return min(most, max(16, triton.next_power_of_2(d)))
