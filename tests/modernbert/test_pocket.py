"""The encoder in the package: it loads here and in transformers, and both compute the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modernbert import sources
from modernbert.errors import EncoderError
from modernbert.packing import pack
from modernbert.weights import load_encoder, read_tensors
from tasks.data.tokenise import load_tokenizer

TEXTS = ["The parcel has not come yet.", "Zürich: two spaces, 1,024 of them?", "a word " * 400]


@pytest.fixture(scope="module")
def pocket() -> Path:
    if not (sources.POCKET_FOLDER / "model.safetensors").is_file():
        pytest.skip(f"{sources.POCKET_FOLDER} holds no weights: they are put there when pocket has been trained")
    return sources.resolve("pocket")


def test_without_its_weights_the_preset_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "POCKET_FOLDER", tmp_path)
    with pytest.raises(EncoderError, match=r"not part of this installation.*encoder=minilm"):
        sources.resolve("pocket")
    (tmp_path / "model.safetensors").touch()
    assert sources.resolve("pocket") == tmp_path


def test_equals_transformers(pocket: Path) -> None:
    from transformers import AutoModel

    encoder, theirs = load_encoder(pocket), AutoModel.from_pretrained(pocket).float().eval()
    rows = [load_tokenizer(pocket)(text)["input_ids"] for text in TEXTS]
    with torch.no_grad():
        ours = encoder(pack(rows)).split([len(ids) for ids in rows])  # longer than the window, and not
        for ids, mine in zip(rows, ours, strict=True):
            torch.testing.assert_close(mine, theirs(torch.tensor([ids])).last_hidden_state[0], atol=1e-4, rtol=1e-4)


def test_is_what_its_card_says(pocket: Path) -> None:
    config = load_encoder(pocket).config
    assert (config.family, config.max_positions, config.num_layers, config.hidden_size) == ("modernbert", 8192, 6, 384)
    assert config.vocab_size == load_tokenizer(pocket).backend_tokenizer.get_vocab_size() == 20_480
    assert {value.dtype for value in read_tensors(pocket).values()} == {torch.float16}
    assert sum(path.stat().st_size for path in pocket.rglob("*") if path.is_file()) < 40e6
    assert (pocket / "1_Pooling" / "config.json").is_file()  # the mean of its tokens, for sentence-transformers and us
