"""Packs and pooling, by hand-computed values."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modernbert import DataError, Packed, from_padded, pack, split, to_padded, unpack
from modernbert.pooling import cls, first_subword, mean


def bounds(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_pack_lays_end_to_end() -> None:
    packed = pack([[1, 2, 3], np.array([4], dtype=np.int32), torch.tensor([5, 6])])
    assert packed.input_ids.tolist() == [1, 2, 3, 4, 5, 6]
    assert packed.input_ids.dtype == torch.int64
    assert packed.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert packed.cu_seqlens.dtype == torch.int32
    assert (packed.max_seqlen, packed.num_tokens, packed.batch_size) == (3, 6, 3)
    assert packed.lengths.tolist() == [3, 1, 2]
    assert [part.tolist() for part in unpack(packed.input_ids, packed)] == [[1, 2, 3], [4], [5, 6]]


def test_segments_travel_with_the_pack() -> None:
    packed = pack([[1, 2], [3]], token_type_ids=[[0, 1], [1]])
    assert packed.token_type_ids.tolist() == [0, 1, 1]
    assert split(packed, 2)[1].token_type_ids.tolist() == [1]
    with pytest.raises(DataError, match="lengths"):
        pack([[1, 2], [3]], token_type_ids=[[0], [1]])


@pytest.mark.parametrize("rows", [[], [[1], []], [[[1, 2]]], [[0.5]], [[True]]])
def test_pack_refuses(rows: list) -> None:
    with pytest.raises(DataError):
        pack(rows)


def test_split_keeps_order_and_whole_sequences() -> None:
    packed = pack([[1] * 3, [2] * 4, [3] * 9, [4], [5]])
    parts = split(packed, 7)
    assert [part.lengths.tolist() for part in parts] == [[3, 4], [9], [1, 1]]
    assert [part.max_seqlen for part in parts] == [4, 9, 1]
    assert torch.cat([part.input_ids for part in parts]).equal(packed.input_ids)
    assert [part.lengths.tolist() for part in split(packed, 1)] == [[3], [4], [9], [1], [1]]
    with pytest.raises(DataError, match="at least 1"):
        split(packed, 0)


def test_padded_on_either_side_and_back() -> None:
    ids = torch.tensor([[1, 2, 0], [0, 3, 4]])
    packed = from_padded(ids, torch.tensor([[1, 1, 0], [0, 1, 1]]))
    assert packed.input_ids.tolist() == [1, 2, 3, 4]
    assert packed.cu_seqlens.tolist() == [0, 2, 4]
    hidden = torch.arange(8.0).view(4, 2)
    padded = to_padded(hidden, pack([[1, 2, 3], [4]]), fill=-1)
    assert padded.tolist() == [[[0, 1], [2, 3], [4, 5]], [[6, 7], [-1, -1], [-1, -1]]]
    with pytest.raises(DataError, match="no real token"):
        from_padded(ids, torch.tensor([[1, 1, 0], [0, 0, 0]]))


@pytest.mark.parametrize(
    ("ids", "cu_seqlens", "longest", "message"),
    [
        (4, bounds(1, 4), 3, "from 0 to T=4"),
        (4, bounds(0, 3), 3, "from 0 to T=4"),
        (4, bounds(0, 3, 2, 4), 3, "length -1"),
        (4, bounds(0, 2, 2, 4), 2, "length 0"),
        (4, bounds(0, 1, 4), 4, "longest sequence has 3"),
        (4, bounds(0), 4, "no sequence"),
        (4, bounds(0, 4).long(), 4, "int32"),
    ],
)
def test_wrong_boundaries_are_refused(ids: int, cu_seqlens: torch.Tensor, longest: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Packed(torch.zeros(ids, dtype=torch.int64), cu_seqlens, longest)


def test_pooling() -> None:
    packed = pack([[1, 2, 3], [4]])
    hidden = torch.tensor([[1.0, 0], [2, 0], [6, 3], [7, 8]], requires_grad=True)
    assert cls(hidden, packed).tolist() == [[1, 0], [7, 8]]
    assert mean(hidden, packed).tolist() == [[3, 1], [7, 8]]
    assert first_subword(hidden, torch.tensor([0, 2])).tolist() == [[1, 0], [6, 3]]
    mean(hidden, packed).sum().backward()
    assert torch.allclose(hidden.grad[:, 0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 1]))


def test_mean_in_half_precision_sums_in_float32() -> None:
    packed = pack([[1] * 5000])
    hidden = torch.full((5000, 1), 1.0, dtype=torch.bfloat16)
    assert mean(hidden, packed).item() == 1.0
