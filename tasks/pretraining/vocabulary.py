"""Word vectors for a new vocabulary, made from those of another: each piece starts where its text was.

A piece takes the mean of the vectors of the tokens that the old tokenizer makes of its text (Gee et al., "Fast
Vocabulary Transfer", arXiv:2402.09977).

Dimensions: V new entries, U old ones, D hidden.
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders
from torch import Tensor

from tasks.pretraining.tokenizer import SPECIALS

SPACE = "Ġ"  # how byte-level BPE writes a space


def transfer_vocabulary(old: Tokenizer, new: Tokenizer, table: Tensor) -> Tensor:
    """(U, D) vectors of the old vocabulary -> (V, D) of the new one; bytes that are no text get the mean vector."""
    known, is_bytes = old.get_vocab(), isinstance(new.decoder, decoders.ByteLevel)
    size = new.get_vocab_size()
    vectors = table.mean(0).repeat(size, 1)
    for piece, index in new.get_vocab().items():
        ids = _old_ids(old, known, is_bytes and piece not in SPECIALS, piece, new.decode([index]))
        if ids:
            vectors[index] = table[ids].mean(0)
    return vectors


def _old_ids(old: Tokenizer, known: dict[str, int], is_bytes: bool, piece: str, text: str) -> list[int]:
    if piece in known and not is_bytes:
        return [known[piece]]
    inside = "##" + text.lower()
    if not piece.startswith(SPACE) and inside in known:
        return [known[inside]]
    if "\ufffd" in text or not text.strip():
        return []
    return list(old.encode(text.strip(), add_special_tokens=False).ids)
