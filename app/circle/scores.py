"""What a cross-encoder says of pairs, before it is made a probability."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from app.progress import tracking
from tasks.data.readers import Table
from tasks.run import Run, forward, has_text


def logits(run: Run, queries: Sequence[str], documents: Sequence[str]) -> list[float]:
    """The reranker's bare outputs, of which margins mean something (a probability has none near 0 and 1).

    -inf for an empty document.
    """
    table = Table("pairs", {"query": list(queries), "document": list(documents)}, list(range(1, len(queries) + 1)), [])
    good = np.flatnonzero([has_text(document) for document in documents])
    found = np.full(len(queries), -np.inf)
    examples = run.schema.examples(table.select(good.tolist()), run.tokenizer, "predict")
    with tracking("scoring pairs", len(good)) as advance:
        for batch, outputs in forward(run.task, examples):
            found[good[batch.index.cpu().numpy()]] = outputs[:, 0].cpu().numpy()
            advance(len(batch))
    return [float(value) for value in found]
