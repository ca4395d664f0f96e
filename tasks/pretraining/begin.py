"""What a new encoder begins as: a tokenizer of its text, and weights at random, or of a teacher as far as they fit."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from tokenizers import Tokenizer

from modernbert.bert import BertEncoder
from modernbert.config import parse_config
from modernbert.encoder import ModernBertEncoder
from modernbert.errors import ConfigError
from modernbert.packing import pack
from modernbert.weights import Encoder, build_encoder
from tasks.pretraining.inherit import inherit
from tasks.pretraining.text import read_documents, sentences
from tasks.pretraining.tokenizer import prune_tokenizer, train_tokenizer
from tasks.pretraining.vocabulary import transfer_vocabulary

Start = Literal["layers", "words", "nothing"]
#: Text that a tokenizer is trained on: the frequent pairs of 20 million characters are those of all the rest.
TOKENIZER_CHARACTERS = 20_000_000
#: Sentences on which layers are carried over, and most tokens of each: 35 tokens for each of 1,152 features.
CALIBRATION, CALIBRATION_TOKENS = 1_500, 64


def new_tokenizer(
    files: Sequence[Path], config: dict[str, Any], folder: Path, teacher: Tokenizer | None = None
) -> Tokenizer:
    """A tokenizer of the shape's `vocab_size` for the beginning of the text; its files go into `folder`.

    Args:
        teacher: is cut to that size; without one byte-level BPE is trained.
    """
    size, length = config["vocab_size"], config["max_position_embeddings"]
    if teacher is None:
        return train_tokenizer(_beginning(files), size, folder, length)
    return prune_tokenizer(teacher, _beginning(files), size, folder, length)


def new_student(
    config: dict[str, Any],
    tokenizer: Tokenizer,
    teacher: Encoder,
    theirs: Tokenizer,
    files: Sequence[Path],
    start: Start,
) -> Encoder:
    """An encoder of the shape `config`, begun as `start` says.

    Args:
        start: "layers", all of the teacher that can be carried over; "words", only the word vectors, where the hidden
            sizes are equal; "nothing", random weights.

    Raises:
        ConfigError: an unknown `start`, or shapes that do not fit it.
    """
    if start not in get_args(Start):
        raise ConfigError(f"start={start}: allowed is {', '.join(get_args(Start))}")
    # The text may be too short for the vocabulary that was asked for.
    student = build_encoder(parse_config(config | {"vocab_size": tokenizer.get_vocab_size()}))
    if start == "nothing":
        return student
    if not isinstance(teacher, BertEncoder) or not isinstance(student, ModernBertEncoder):
        raise ConfigError(
            f"start={start} needs a teacher of the BERT family and a student of ModernBERT's: start=nothing"
        )
    if student.config.hidden_size != teacher.config.hidden_size:
        given = f"{teacher.config.hidden_size} and {student.config.hidden_size}"
        raise ConfigError(f"start={start} needs equal hidden sizes, teacher and student have {given}: start=nothing")
    table = teacher.embeddings.word_embeddings.weight.detach()
    if start == "layers":
        # Carried over with the teacher's vocabulary, so that both read the same tokens; then the words are exchanged.
        twin = build_encoder(parse_config(config | {"vocab_size": teacher.config.vocab_size, "pad_token_id": None}))
        assert isinstance(twin, ModernBertEncoder)
        inherit(teacher, twin.eval(), pack(_calibration(files, theirs)))
        table = twin.embeddings.tok_embeddings.weight.detach()
        layers = {name: value for name, value in twin.state_dict().items() if "tok_embeddings" not in name}
        student.load_state_dict(layers, strict=False)
    with torch.no_grad():
        student.embeddings.tok_embeddings.weight.copy_(transfer_vocabulary(theirs, tokenizer, table))
    return student


def _calibration(files: Sequence[Path], tokenizer: Tokenizer) -> list[list[int]]:
    texts = (text for document in read_documents(files) for line in document.paragraphs for text in sentences(line))
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.enable_truncation(CALIBRATION_TOKENS)
    return [encoding.ids for encoding in tokenizer.encode_batch(list(islice(texts, CALIBRATION)))]


def _beginning(files: Sequence[Path]) -> Iterator[str]:
    read = 0
    for document in read_documents(files):
        yield document.text
        read += len(document.text)
        if read > TOKENIZER_CHARACTERS:
            return
