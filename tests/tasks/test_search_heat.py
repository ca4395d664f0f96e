"""Heat maps of late interaction: they sum to the model's own score, and point at the right characters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from retrieval_parts import ROWS, new_task, read

from modernbert.errors import ConfigError
from tasks.embedding import Embedder
from tasks.search.heat import heat_map
from tasks.vectors import similarity

QUERY, TEXT = "where is my parcel", "the parcel, again! has not come:  where is it"


@pytest.fixture
def embedder(tiny_encoder: Callable[..., Path], tmp_path: Path) -> Callable[..., Embedder]:
    def make(family: str = "bert", **settings: object) -> Embedder:
        table = read(tmp_path, ROWS)
        return Embedder(*new_task(tiny_encoder(family), table, **({"kind": "multi_vector"} | settings)))

    return make


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("prefixes", [{}, {"query_prefix": "where ", "document_prefix": "my good "}])
def test_what_query_tokens_met_sums_to_the_score(
    family: str, prefixes: dict[str, str], embedder: Callable[..., Embedder]
) -> None:
    model = embedder(family, **prefixes)
    # The tiny vocabulary has no punctuation mark: let a word be one.
    model.task.punctuation = torch.tensor([model.tokenizer.convert_tokens_to_ids("again")])
    heat = heat_map(model, QUERY, TEXT)
    score = similarity(model.encode([QUERY], "query"), model.encode([TEXT], "document"))
    assert heat.score == pytest.approx(float(score), abs=1e-4)
    for token, _, _ in heat.warm:
        assert token.special or TEXT[token.start : token.end] == token.text
    read_ones = [token.text for token, _, _ in heat.warm if not token.special]
    assert read_ones == ["the", "parcel", ",", "!", "has", "not", "come", ":", "where", "is", "it"]
    assert [token.text for token, _, _ in heat.met if not token.special] == QUERY.split()
    assert all(-1.001 <= score <= 1.001 for _, _, score in heat.warm)


def test_one_vector_a_text_has_no_heat(embedder: Callable[..., Embedder]) -> None:
    with pytest.raises(ConfigError, match="dense vectors compares whole texts"):
        heat_map(embedder(kind="dense"), QUERY, TEXT)
