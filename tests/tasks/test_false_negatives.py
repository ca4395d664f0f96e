"""What is no negative of a query, worked out by hand, and against a plain double loop."""

from __future__ import annotations

import torch

from tasks.false_negatives import Counts, known_positives, masked, same_document, too_close
from tasks.step_rows import StepRows


def rows() -> StepRows:
    """Three rows; documents: positives 0, 1, 2, then negatives of the first two."""
    own = torch.tensor([[0, 3], [1, 4], [2, -1]])
    #                       p0 p1 p2 n0 n1
    text = torch.tensor([7, 5, 7, 8, 9])
    number = torch.tensor([70, 50, 71, 50, 90])
    return StepRows(own, torch.tensor([2, 4, 2]), text, number)


def test_same_text_and_same_document() -> None:
    found = same_document(rows())
    assert found.tolist() == [
        [True, False, True, False, False],  # the third document has the same text under another id
        [False, True, False, True, False],  # the first row's negative is another text of the document
        [True, False, True, False, False],
    ]


def test_documents_of_the_row_are_found_wherever_they_stand() -> None:
    assert rows().listed().tolist() == [
        [True, False, True, True, False],  # the third document has the text of the first
        [False, True, False, False, True],
        [True, False, True, False, False],  # what fills up a short row is no document
    ]


def test_known_positives_are_found_by_text() -> None:
    documents = 10
    known = torch.tensor([2 * documents + 7, 2 * documents + 9, 3 * documents + 5, 4 * documents + 5])
    assert known_positives(rows(), known, documents).tolist() == [
        [True, False, True, False, True],
        [False, True, False, False, False],
        [True, False, True, False, True],
    ]


def test_against_a_double_loop() -> None:
    torch.manual_seed(0)
    queries, texts = 30, 12
    pairs = {(int(q), int(d)) for q, d in torch.randint(0, 12, (40, 2))}
    known = torch.tensor(sorted(q * texts + d for q, d in pairs))
    own = torch.arange(queries)[:, None]
    some = StepRows(own, torch.randint(0, 12, (queries,)), torch.randint(0, texts, (queries,)), torch.arange(queries))
    found = known_positives(some, known, texts)
    for q in range(queries):
        for d in range(queries):
            assert bool(found[q, d]) == ((int(some.query_text[q]), int(some.document_text[d])) in pairs)


def test_a_pair_counts_once_and_the_positive_never() -> None:
    known = torch.zeros(3, 5, dtype=torch.bool)
    known[0, 2] = known[0, 4] = known[0, 0] = True
    scores = torch.tensor([[0.5, 0.45, 0.9, 0.3, 0.2], [0.1, 0.9, 0.1, 0.1, 0.1], [0.0, 0.0, 0.5, 0.41, 0.0]])
    close = too_close(scores, rows().positive, margin=0.1)
    assert close.nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 1], [2, 2], [2, 3]]
    ignored, counts = masked(rows(), same_document(rows()), known, close)
    assert ignored.nonzero().tolist() == [[0, 1], [0, 2], [0, 4], [1, 3], [2, 0], [2, 3]]
    assert (counts.pairs, counts.same, counts.known, counts.close) == (15, 3, 1, 2)
    total = Counts()
    total.add(counts)
    total.add(counts)
    assert dict(total.items()) == {"same": 6, "known": 2, "close": 4}
