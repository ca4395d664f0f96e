"""Distillation: a student learns its teacher's vectors, of words and of whole texts, from raw text.

Words: TinyBERT's hidden-state loss (Jiao et al., arXiv:1909.10351) over words instead of tokens, as the two
tokenizers may differ. Texts: cosine distance of the pooled vectors (Reimers and Gurevych, arXiv:2004.09813).

Dimensions: T tokens, B texts, N units (words and special tokens), D hidden.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from modernbert.packing import Packed, pack
from modernbert.pooling import mean
from modernbert.weights import Encoder
from tasks.pretraining.align import Units, encode_units, unit_index, unit_means
from tasks.pretraining.text import Document, sentences

#: Of the paragraphs so many are cut into sentences: queries are short, documents are long.
SENTENCES = 0.5
#: Shorter texts are headings and numbers.
FEWEST_CHARACTERS = 12
#: Of the loss: the pooled vector is what a saved encoder is used for first.
TEXT_WEIGHT = 2.0


@dataclass(frozen=True)
class Twice:
    """A text in the student's and in the teacher's tokens."""

    student: Units
    teacher: Units

    def __len__(self) -> int:
        return len(self.student.ids)


def pieces(documents: list[Document], random: np.random.Generator) -> list[str]:
    """Texts of all lengths from documents: titles, sentences, paragraphs, a title with its first paragraphs."""
    found: list[str] = []
    for document in documents:
        if document.title:
            found.append(document.title)
            found.append(document.text)
        for paragraph in document.paragraphs:
            if len(paragraph) >= FEWEST_CHARACTERS:
                found += sentences(paragraph) if random.random() < SENTENCES else [paragraph]
    return found


def twice_tokenised(
    student: Tokenizer, teacher: Tokenizer, max_length: int
) -> Callable[[list[Document], np.random.Generator], list[Twice]]:
    """What makes a stream's examples: pieces of text, each cut to `max_length` tokens of either tokenizer."""
    for tokenizer in (student, teacher):
        tokenizer.enable_truncation(max_length)

    def make(documents: list[Document], random: np.random.Generator) -> list[Twice]:
        texts = [text for text in pieces(documents, random) if not text.isspace()]
        both = zip(encode_units(student, texts), encode_units(teacher, texts), strict=True)
        # A text of another script may be one unknown token to the teacher, which teaches nothing.
        return [Twice(ours, theirs) for ours, theirs in both if min(len(ours.ids), len(theirs.ids)) > 2]

    return make


class Distillation:
    """The student's loss against a frozen teacher.

    Args:
        student: is trained.
        teacher: is not; in evaluation mode.
        projection: (student's D -> teacher's D) or an identity where they are equal; is trained too.
        spread: mean square of a feature of the teacher's words, that losses of teachers can be compared.
    """

    def __init__(self, student: Encoder, teacher: Encoder, projection: nn.Module, spread: float) -> None:
        self.student, self.teacher, self.projection, self.spread = student, teacher, projection, spread

    def loss_sum(self, batch: list[Twice]) -> tuple[Tensor, float]:
        """Relative squared error of words, plus the cosine distance of texts, times the words of the batch."""
        device = next(self.student.parameters()).device
        ours, theirs = [text.student for text in batch], [text.teacher for text in batch]
        # A text cut by one tokenizer before the other has units that only one of them knows.
        counts = [1 + int(max(a.units[-1], b.units[-1])) for a, b in zip(ours, theirs, strict=True)]
        packs = [pack([text.ids for text in texts]).to(device) for texts in (ours, theirs)]
        index = [unit_index(texts, counts).to(device) for texts in (ours, theirs)]
        with torch.inference_mode():
            goal = self.teacher(packs[1])
            goal_text, goal_words = mean(goal.float(), packs[1]), unit_means(goal, index[1], sum(counts))
        made = self.projection(self.student(packs[0]))
        made_text, made_words = mean(made.float(), packs[0]), unit_means(made, index[0], sum(counts))
        both = made_words[1] & goal_words[1]
        words = F.mse_loss(made_words[0][both], goal_words[0][both].clone()) / self.spread
        texts = 1 - F.cosine_similarity(made_text, goal_text.clone()).mean()
        units = float(both.sum())
        return (words + TEXT_WEIGHT * texts) * units, units


@torch.no_grad()
def spread(teacher: Encoder, batch: list[Twice]) -> float:
    """Variance of the teacher's token vectors, the mean over features: what a guess of their mean would cost."""
    vectors = torch.cat([teacher(pack([text.teacher.ids]).to(next(teacher.parameters()).device)) for text in batch])
    return float(vectors.float().var(0, correction=0).mean())


@torch.no_grad()
def agreement(student: Encoder, teacher: Encoder, projection: nn.Module, batch: list[Twice]) -> dict[str, float]:
    """How near a student is: the mean cosine of text vectors, and the correlation of all pairs' similarities."""
    vectors = []
    for encoder, head, texts in (
        (student, projection, [text.student for text in batch]),
        (teacher, nn.Identity(), [text.teacher for text in batch]),
    ):
        packed: Packed = pack([text.ids for text in texts]).to(next(encoder.parameters()).device)
        vectors.append(F.normalize(mean(head(encoder(packed)).float(), packed)))
    pairs = torch.triu_indices(len(batch), len(batch), 1)
    similarities = torch.stack([(v @ v.t())[pairs[0], pairs[1]] for v in vectors])
    return {
        "cosine": float((vectors[0] * vectors[1]).sum(1).mean()),
        "similarities": float(torch.corrcoef(similarities)[0, 1]),
    }
