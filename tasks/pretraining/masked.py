"""Masked language modelling on packed text: MosaicBERT's and ModernBERT's recipe (arXiv:2312.17482, arXiv:2412.13663).

30% of the tokens are to be guessed; the last layer, the head and the vocabulary are computed for those alone, and the
logits are never held whole (`modernbert.kernels.linear_cross_entropy`).

Dimensions: T tokens, M masked tokens, D hidden, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from modernbert.errors import ConfigError, EncoderError
from modernbert.kernels import linear_cross_entropy
from modernbert.packing import Packed, pack
from modernbert.weights import Encoder
from tasks.heads import PredictionHead, initialise
from tasks.pretraining.text import Document

Ids = npt.NDArray[np.int64]
#: Of the tokens to be guessed 80% are replaced by the mask, 10% by any token, 10% stay (Devlin et al. 2019).
MASKED, ANY = 0.8, 0.1
#: A sequence of fewer tokens (special ones included) has nothing to guess from.
FEWEST = 5
#: Rows whose logits are held at once while measuring.
CHUNK = 512

# Our name -> Hugging Face's, by family; the decoder itself is the word table.
NAMES = {
    "modernbert": {"transform.dense": "head.dense", "transform.norm": "head.norm", "bias": "decoder.bias"},
    "bert": {
        "transform.dense": "cls.predictions.transform.dense",
        "transform.norm": "cls.predictions.transform.LayerNorm",
        "bias": "cls.predictions.bias",
    },
    "roberta": {"transform.dense": "lm_head.dense", "transform.norm": "lm_head.layer_norm", "bias": "lm_head.bias"},
}
DECODERS = {
    "modernbert": "decoder.weight",
    "bert": "cls.predictions.decoder.weight",
    "roberta": "lm_head.decoder.weight",
}


class MaskedHead(nn.Module):
    """Dense, activation, norm, and the word table once more as decoder: (M, D) -> what is multiplied with it.

    The head of ModernBertForMaskedLM, BertForMaskedLM and RobertaForMaskedLM.

    Raises:
        EncoderError: a checkpoint whose decoder is not tied to its word vectors.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        config = encoder.config
        if not config.raw.get("tie_word_embeddings", True):
            raise EncoderError("tie_word_embeddings=false: a masked-language decoder of its own is not implemented")
        self.family = config.family
        self.transform: nn.Module = PredictionHead(config) if config.family == "modernbert" else _BertTransform(encoder)
        biased = config.family != "modernbert" or bool(config.raw.get("decoder_bias", True))
        self.bias = nn.Parameter(torch.zeros(config.vocab_size)) if biased else None
        initialise(self.transform, config.initializer_range)

    def forward(self, hidden: Tensor) -> Tensor:
        """(M, D) -> (M, D)."""
        out: Tensor = self.transform(hidden)
        return out

    def to_hf(self) -> dict[str, Tensor]:
        """Tensors under their Hugging Face names; the decoder is tied, so it is not among them."""
        return {self._hf_name(name): value.detach().cpu() for name, value in self.state_dict().items()}

    def load(self, tensors: Mapping[str, Tensor], table: Tensor) -> bool:
        """Fill the head from a checkpoint; False, and nothing is changed, where it has none.

        Raises:
            EncoderError: its decoder differs from the word `table` (V, D).
        """
        decoder = tensors.get(DECODERS[self.family])
        if decoder is not None and not torch.equal(decoder.float(), table.float()):
            raise EncoderError(f"{DECODERS[self.family]} differs from the word vectors: only a tied decoder is trained")
        state = {name: tensors.get(self._hf_name(name)) for name in self.state_dict()}
        if any(value is None for value in state.values()):
            return False
        self.load_state_dict({name: value for name, value in state.items() if value is not None})
        return True

    def _hf_name(self, name: str) -> str:
        part = name if name == "bias" else name.rpartition(".")[0]
        return NAMES[self.family][part] + name.removeprefix(part)


class _BertTransform(nn.Module):
    """(…, D) -> (…, D)."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        size = encoder.config.hidden_size
        self.dense = nn.Linear(size, size)
        self.norm = nn.LayerNorm(size, eps=encoder.config.norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        normed: Tensor = self.norm(F.gelu(self.dense(hidden)))
        return normed


def word_vectors(encoder: Encoder) -> Tensor:
    """The (V, D) table that the decoder shares."""
    name = "tok_embeddings" if encoder.config.family == "modernbert" else "word_embeddings"
    table = encoder.embeddings.get_submodule(name)
    assert isinstance(table, nn.Embedding)
    return table.weight


class MaskedLanguage:
    """The loss of guessing masked tokens.

    Args:
        encoder, head: are trained together.
        tokenizer: names the mask and the special tokens, which are never masked.
        rate: share of the tokens to be guessed, in (0, 1).

    Raises:
        ConfigError: a rate outside (0, 1), or a tokenizer without a mask.
    """

    def __init__(self, encoder: Encoder, head: MaskedHead, tokenizer: PreTrainedTokenizerFast, rate: float) -> None:
        if not 0 < rate < 1:
            raise ConfigError(f"mask={rate}: allowed is a share of the tokens between 0 and 1 (0.3)")
        if tokenizer.mask_token_id is None:
            raise ConfigError("the tokenizer of this encoder has no mask token, so nothing can be masked")
        self.encoder, self.head, self.rate = encoder, head, rate
        self.mask_id, self.vocab_size = int(tokenizer.mask_token_id), encoder.config.vocab_size
        special = torch.zeros(self.vocab_size, dtype=torch.bool)
        special[[i for i in tokenizer.all_special_ids if i < self.vocab_size]] = True
        self.special = special

    def loss_sum(self, batch: list[Ids]) -> tuple[Tensor, float]:
        """Cross-entropy summed over the masked tokens of a micro-batch, and their number."""
        packed, places, targets = self.mask(batch)
        if not len(places):
            return torch.zeros(()), 0.0
        hidden = self.head(self.encoder(packed, rows=places))
        loss = linear_cross_entropy(hidden, word_vectors(self.encoder), self.head.bias, targets)
        return loss * len(places), float(len(places))

    def mask(
        self, batch: list[Ids], random: torch.Generator | None = None, rate: float | None = None
    ) -> tuple[Packed, Tensor, Tensor]:
        """A batch with tokens hidden, on the encoder's device: the pack, the (M,) places and the (M,) right tokens.

        Args:
            rate: share of the tokens to be guessed; None for that of the objective.
        """
        packed = pack(batch)
        ids = packed.input_ids
        draw = torch.rand(len(ids), generator=random)
        draw[self.special[ids]] = 2.0
        places = (draw < (self.rate if rate is None else rate)).nonzero()[:, 0]
        targets, kind = ids[places], torch.rand(len(places), generator=random)
        anything = torch.randint(self.vocab_size, (len(places),), generator=random)
        shown = torch.where(kind < MASKED, self.mask_id, torch.where(kind < MASKED + ANY, anything, targets))
        masked = Packed(ids.index_put((places,), shown), packed.cu_seqlens, packed.max_seqlen)
        device = word_vectors(self.encoder).device
        return masked.to(device), places.to(device), targets.to(device)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The encoder without dropout, and as it was afterwards."""
        was_training = self.encoder.training
        self.encoder.eval()
        try:
            yield
        finally:
            self.encoder.train(was_training)

    @torch.no_grad()
    def measure(self, batches: Sequence[list[Ids]]) -> dict[str, float]:
        """Loss, share of masked tokens guessed right and their number, with the same masks at each call."""
        random, guesses = torch.Generator().manual_seed(0), Guesses()
        with self.evaluating():
            for batch in batches:
                packed, places, targets = self.mask(batch, random)
                if len(places):
                    hidden = self.head(self.encoder(packed, rows=places))
                    guesses.add(hidden, word_vectors(self.encoder), self.head.bias, targets)
        return {f"masked_{name}": value for name, value in guesses.compute().items()}


class Guesses:
    """Sums over masked tokens: their loss and those guessed right."""

    def __init__(self) -> None:
        self.loss, self.right, self.count = 0.0, 0, 0

    def add(self, hidden: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor) -> None:
        """What is multiplied with the word table (M, D), the table (V, D), and the right tokens (M,)."""
        for rows, answers in zip(hidden.split(CHUNK), targets.split(CHUNK), strict=True):
            logits = F.linear(rows, table, bias).float()
            self.loss += float(F.cross_entropy(logits, answers, reduction="sum"))
            self.right += int((logits.argmax(1) == answers).sum())
        self.count += len(targets)

    def compute(self) -> dict[str, float]:
        """`loss`, `accuracy` and `tokens`; nothing where there were none."""
        if not self.count:
            return {}
        found = {"loss": self.loss / self.count, "accuracy": self.right / self.count}
        return found | {"tokens": float(self.count)}


def sequences(
    tokenizer: PreTrainedTokenizerFast, max_length: int
) -> Callable[[list[Document], np.random.Generator], list[Ids]]:
    """What makes a stream's examples: each document between its special tokens, a long one in pieces of equal size.

    Documents are never joined: attention of a pack stays inside a sequence, so short ones cost nothing.

    Args:
        max_length: most tokens of a sequence, special ones included.
    """
    cut = document_pieces(tokenizer, max_length)

    def make(documents: list[Document], random: np.random.Generator) -> list[Ids]:
        return [piece for pieces in cut(documents) for piece in pieces if len(piece) >= FEWEST]

    return make


def document_pieces(
    tokenizer: PreTrainedTokenizerFast, max_length: int, least: int = 1
) -> Callable[[list[Document]], Iterator[list[Ids]]]:
    """What cuts each document into pieces of equal size, each between its special tokens.

    Args:
        max_length: most tokens of a piece, special ones included.
        least: fewest pieces of a document.

    Raises:
        ConfigError: the tokenizer has no special tokens for the ends.
    """
    backend = tokenizer.backend_tokenizer
    ends = tokenizer.cls_token_id, tokenizer.sep_token_id
    if None in ends:
        raise ConfigError("the tokenizer of this encoder has no tokens for the beginning and end of a sequence")
    first, last = (np.array([end], dtype=np.int64) for end in ends)

    def cut(documents: list[Document]) -> Iterator[list[Ids]]:
        for encoding in backend.encode_batch_fast([d.text for d in documents], add_special_tokens=False):
            ids = np.array(encoding.ids, dtype=np.int64)
            pieces = np.array_split(ids, max(least, -(-len(ids) // (max_length - 2))))
            yield [np.concatenate([first, piece, last]) for piece in pieces]

    return cut
