"""Tokenizers of new encoders, in the files that transformers reads: byte-level BPE trained on text, as ModernBERT's,
or the WordPiece of a teacher cut to the entries that a text needs."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from itertools import islice
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from modernbert.errors import ConfigError

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
#: Bytes and special tokens are in every vocabulary; fewer entries than that leave no room for a merge.
LEAST = 256 + len(SPECIALS) + 1


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path, max_length: int) -> Tokenizer:
    """Train and save tokenizer.json and tokenizer_config.json; returns the tokenizer.

    A word has the same token at the start of a text as inside it (a space is put before the text), text is
    normalised to NFC and never lower-cased, and no text is unknown, as every byte is a token.

    Args:
        texts: what is read, once, as a stream.
        vocab_size: entries, special tokens included; less where the text has not so many frequent pairs.
        folder: written to; made where it is missing.
        max_length: tokens a text may have (model_max_length).

    Raises:
        ConfigError: `vocab_size` leaves no room for merges.
    """
    if vocab_size < LEAST:
        raise ConfigError(f"vocab_size={vocab_size}: allowed is {LEAST} or more (256 bytes and the special tokens)")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(name, special=True, lstrip=name == "[MASK]") for name in SPECIALS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = _template({name: i for i, name in enumerate(SPECIALS)})
    _save(tokenizer, folder, max_length)
    return tokenizer


def _template(ids: dict[str, int]) -> processors.TemplateProcessing:
    """[CLS] text [SEP], as every encoder here reads it; a second text is closed by [SEP] too."""
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
    )


def _save(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": ["input_ids", "attention_mask"],
        "clean_up_tokenization_spaces": False,
        **{f"{name.strip('[]').lower()}_token": name for name in SPECIALS},
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def prune_tokenizer(
    tokenizer: Tokenizer, texts: Iterable[str], vocab_size: int, folder: Path, max_length: int
) -> Tokenizer:
    """A WordPiece tokenizer with the entries that the text needs most; saved as `train_tokenizer` does.

    A word that is taken out is written in smaller pieces, so nothing becomes unknown but characters that the text
    does not have. Letters, figures and signs of Western European text always stay.

    Args:
        tokenizer: of the WordPiece kind, as BERT's; it is not changed.
        texts: what is counted, once, as a stream.
        vocab_size: entries afterwards, special tokens included.

    Raises:
        ConfigError: another kind of tokenizer, or one that is small already.
    """
    raw = json.loads(tokenizer.to_str())
    if raw["model"]["type"] != "WordPiece":
        raise ConfigError(
            f"tokenizer=teacher cuts a WordPiece vocabulary, this is {raw['model']['type']}: tokenizer=new"
        )
    old: dict[str, int] = raw["model"]["vocab"]
    if not LEAST <= vocab_size <= len(old):
        raise ConfigError(f"vocab_size={vocab_size}: allowed is {LEAST} to {len(old)}, the entries of the teacher")
    counts: Counter[int] = Counter()
    stream = iter(texts)
    while chunk := list(islice(stream, 500)):
        for encoding in tokenizer.encode_batch_fast(chunk, add_special_tokens=False):
            counts.update(encoding.ids)
    always = {piece for piece in old if len(piece.removeprefix("##")) == 1 and ord(piece[-1]) < 0x180}
    ranked = sorted(
        old, key=lambda piece: (piece not in SPECIALS, piece not in always, -counts[old[piece]], old[piece])
    )
    kept = sorted(ranked[len(SPECIALS) : vocab_size], key=old.__getitem__)
    vocabulary = {piece: i for i, piece in enumerate([*SPECIALS, *kept])}
    raw["model"]["vocab"] = vocabulary
    raw["added_tokens"] = [token | {"id": vocabulary[token["content"]]} for token in raw["added_tokens"]]
    raw["truncation"] = raw["padding"] = None
    raw["post_processor"] = json.loads(_template(vocabulary).__getstate__())
    pruned = Tokenizer.from_str(json.dumps(raw))
    _save(pruned, folder, max_length)
    return pruned
