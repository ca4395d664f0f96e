"""How the texts of an optimiser step belong together: micro-batches behind one another, and ranks behind one another.

Q queries (one a row), N documents of a step, n most documents of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from tasks.data.ranking import TupleBatch
from tasks.vectors import Vectors


@dataclass
class StepRows:
    """The rows of a step, in numbers.

    Attributes:
        own: (Q, n) columns of each row's documents, the positive first; -1 where a row has fewer.
        query_text: (Q,) number of the query's text in the training data.
        document_text, document_id: (N,) numbers of each document's text and of the document.
        targets: what `TupleBatch.targets` says, of all rows.
    """

    own: Tensor
    query_text: Tensor
    document_text: Tensor
    document_id: Tensor
    targets: Tensor | None = None

    @property
    def positive(self) -> Tensor:
        """(Q,) the column of each row's positive."""
        return self.own[:, 0]

    def listed(self) -> Tensor:
        """(Q, N) bool: documents whose text is among those of the row, wherever in the step they stand."""
        own = torch.where(self.own < 0, -1, self.document_text[self.own.clamp(min=0)])
        found = torch.zeros(len(own), len(self.document_text), dtype=torch.bool, device=own.device)
        for column in own.T:  # a row has few documents, and (Q, N, n) at once may be large
            found |= column[:, None] == self.document_text
        return found


def join(step: Sequence[TupleBatch], vectors: Sequence[Vectors]) -> tuple[Vectors, Vectors, StepRows]:
    """The queries, the documents and the rows of the micro-batches of a step.

    Args:
        step: Q queries first, then all documents, in each.
        vectors: of all texts of each micro-batch, in its order.
    """
    queries = Vectors.cat([part.select(slice(batch.queries)) for batch, part in zip(step, vectors, strict=True)])
    documents = [part.select(slice(batch.queries, len(part))) for batch, part in zip(step, vectors, strict=True)]
    before, row = 0, []
    for batch in step:
        row.append(batch.row[batch.queries :] + before)
        before += batch.queries
    rank = torch.cat([batch.rank_in_row[batch.queries :] - 1 for batch in step])
    own = torch.full((before, int(rank.max()) + 1), -1, dtype=torch.int64, device=rank.device)
    own[torch.cat(row), rank] = torch.arange(len(rank), device=rank.device)
    rows = StepRows(
        own,
        torch.cat([batch.text_id[: batch.queries] for batch in step]),
        torch.cat([batch.text_id[batch.queries :] for batch in step]),
        torch.cat([batch.document_id[batch.queries :] for batch in step]),
        torch.cat([batch.goal for batch in step]) if step[0].targets is not None else None,
    )
    return queries, Vectors.cat(documents), rows


def join_ranks(queries: Vectors, documents: Vectors, rows: StepRows) -> tuple[Vectors, Vectors, StepRows]:
    """A step over all ranks from each rank's part of it; the gradient goes to this rank's own vectors."""
    if world_size() == 1:
        return queries, documents, rows
    device = rows.own.device
    shapes = gather_rows(torch.tensor([[len(documents), rows.own.shape[1]]], device=device))
    before = int(shapes[: dist.get_rank(), 0].sum())
    own = torch.where(rows.own < 0, -1, rows.own + before)
    own = F.pad(own, (0, int(shapes[:, 1].max()) - own.shape[1]), value=-1)
    columns = own, rows.query_text, rows.document_text, rows.document_id
    whole = StepRows(*(gather_rows(column) for column in columns))
    whole.targets = None if rows.targets is None else gather_rows(rows.targets)
    return gather_vectors(queries), gather_vectors(documents), whole


def gather_vectors(vectors: Vectors) -> Vectors:
    """The vectors of all ranks, one rank behind the other; see `gather_rows`."""
    if world_size() == 1:
        return vectors
    if vectors.cu_seqlens is not None:
        lengths = gather_rows(vectors.cu_seqlens.diff())
        return Vectors(vectors.kind, gather_rows(vectors.values), F.pad(lengths.cumsum(0), (1, 0)))
    if not vectors.is_csr:
        return Vectors(vectors.kind, gather_rows(vectors.values))
    values = vectors.values
    lengths = gather_rows(values.crow_indices().diff())
    parts = F.pad(lengths.cumsum(0), (1, 0)), gather_rows(values.col_indices()), gather_rows(values.values())
    return Vectors(vectors.kind, torch.sparse_csr_tensor(*parts, (len(lengths), vectors.dimension)))


def gather_rows(values: Tensor) -> Tensor:
    """The rows (T, …) of every rank, one rank behind the other; a rank may have fewer than another, or none.

    The gradient reaches this rank's own rows alone: each rank computes the loss of the whole step and takes its part.
    """
    if world_size() == 1:
        return values
    world, rank = dist.get_world_size(), dist.get_rank()
    sizes = [torch.zeros(1, dtype=torch.int64, device=values.device) for _ in range(world)]
    dist.all_gather(sizes, torch.tensor([len(values)], dtype=torch.int64, device=values.device))
    most = max(int(size) for size in sizes)
    padded = values.new_zeros(most, *values.shape[1:])
    padded[: len(values)] = values.detach()
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    found = [part[: int(size)] for part, size in zip(parts, sizes, strict=True)]
    found[rank] = values
    return torch.cat(found)


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
