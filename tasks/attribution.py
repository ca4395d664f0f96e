"""What in a text spoke for an output: integrated gradients over the packed word vectors.

Sundararajan, Taly and Yan, "Axiomatic Attribution for Deep Networks" (arXiv:1703.01365). The path leads from a
baseline, the same text with every token replaced by [MASK], to the text itself. Zero vectors would be no baseline for
ModernBERT: it normalises them, so that all of the path but its first point looks alike.

S tokens of a text (in windows: of all of them), M points of the path, D hidden size.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modernbert.errors import ConfigError, DataError
from tasks.classification import Classification, output_names
from tasks.data.encode import plain_backend
from tasks.data.layout import read_template
from tasks.data.module import AUTO_TOKENS
from tasks.data.readers import Table
from tasks.run import Run

#: Points of the path: doubled until what they miss is below TOLERANCE of the difference, or FLOOR.
POINTS = (16, 32, 64, 128, 256)
TOLERANCE, FLOOR = 0.01, 1e-3


@dataclass(frozen=True)
class Word:
    """Characters [start, end) of text number `text` (0 or 1), and what they add to the output."""

    text: int
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Attribution:
    """An output (a logit) of a text, that of the baseline, and the words between the two.

    The scores of the words sum to `value - baseline` but for `gap`.
    """

    name: str
    value: float
    baseline: float
    words: tuple[Word, ...]

    @property
    def gap(self) -> float:
        return self.value - self.baseline - sum(word.score for word in self.words)


def attributed_outputs(run: Run) -> list[str]:
    """What can be asked about: each label, or the one direction of a scale or a value.

    Raises:
        ConfigError: the run is no classification.
    """
    if not isinstance(run.task, Classification):
        raise ConfigError(f"run={run.folder} is of task {run.name}: words are weighed for classification alone.")
    labels = run.task.labels
    # The steps of a scale share one direction (CORAL), so that all of them say the same of a word.
    return [f"above {labels.names[0]}"] if labels.kind == "ordinal" else output_names(labels)


def attribute(run: Run, texts: Sequence[str], name: str) -> Attribution:
    """Integrated gradients of one output.

    Args:
        texts: the text, or the two texts of a pair.
        name: one of `attributed_outputs`.

    Raises:
        ConfigError: no such output.
        DataError: a text that the run refuses.
    """
    names = attributed_outputs(run)
    if name not in names:
        raise ConfigError(f"{name!r} is no output of run={run.folder}: there are {', '.join(names)}.")
    columns: dict[str, list[Any]] = {c: [text] for c, text in zip(run.schema.text_columns(), texts, strict=True)}
    examples = run.schema.examples(Table("input", columns, [1]), run.tokenizer, "predict")
    words = _Words(run, texts, examples.collate([0]).packed)
    if not words.places:
        raise DataError("the text has no word: there is nothing to weigh.")
    path = _Path(run, examples, words.is_text, names.index(name))
    value, baseline = path.ends()
    for points in POINTS:
        scores = words.sums(path.integral(points))
        missed = abs(value - baseline - float(scores.sum()))
        if missed <= max(FLOOR, TOLERANCE * abs(value - baseline)):
            break
    found = tuple(Word(*place, float(score)) for place, score in zip(words.places, scores, strict=True))
    return Attribution(name, value, baseline, found)


class _Path:
    """The way from the baseline to a text, in word vectors."""

    def __init__(self, run: Run, examples: Any, is_text: Tensor, output: int) -> None:
        self.task, self.examples, self.output = run.task, examples, output
        self.device = run.task.device
        batch = examples.collate([0]).to(self.device)
        ids, masked = batch.packed.input_ids, is_text.to(self.device)
        neutral = torch.where(masked, neutral_token(run.tokenizer), ids)
        with torch.no_grad():
            table = _word_vectors(self.task)[1]
            self.start, stop = table(neutral).float(), table(ids).float()
        self.change = stop - self.start

    def ends(self) -> tuple[float, float]:
        """The output of the text, and of the baseline."""
        with torch.no_grad():
            found = self.outputs(torch.tensor([1.0, 0.0], device=self.device))[0].tolist()
        return found[0], found[1]

    def integral(self, points: int) -> Tensor:
        """(S,) the change of the output by each token, from Gauss and Legendre's points: of smooth paths they need
        fewer than equal steps."""
        at, weights = (torch.from_numpy(a).float().to(self.device) for a in np.polynomial.legendre.leggauss(points))
        at, weights = (at + 1) / 2, weights / 2
        size = max(1, AUTO_TOKENS[self.device.type] // len(self.change))
        gradient = torch.zeros_like(self.change)
        for some, share in zip(at.split(size), weights.split(size), strict=True):
            with torch.enable_grad():
                outputs, vectors = self.outputs(some)
                (found,) = torch.autograd.grad(outputs.sum(), vectors)
            gradient += torch.einsum("m,msd->sd", share, found.view(len(some), *self.change.shape))
        return (gradient * self.change).sum(1).cpu()

    def outputs(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """(M,) outputs at these parts of the path, and the vectors (M * S, D) that they were computed from."""
        vectors = (self.start + at[:, None, None] * self.change).flatten(0, 1).requires_grad_(torch.is_grad_enabled())
        batch = self.examples.collate([0] * len(at)).to(self.device)
        return _with_vectors(self.task, vectors).outputs(batch)[:, self.output].float(), vectors


class _Words:
    """Which tokens of a pack are of which word.

    Args:
        packed: of the one example.

    Attributes:
        is_text: (S,) bool, False for special tokens.
        places: (text, start, end) of each word that was read.
    """

    def __init__(self, run: Run, texts: Sequence[str], packed: Any) -> None:
        backend = plain_backend(run.tokenizer)
        template = read_template(backend, len(texts), "token_type_ids" in run.tokenizer.model_input_names)
        encodings = [backend.encode(text, add_special_tokens=False) for text in texts]
        number: dict[tuple[int, int], int] = {}
        self.places: list[tuple[int, int, int]] = []
        owner: list[int] = []
        sequences = packed.input_ids.split(packed.lengths.tolist())
        for window, sequence in enumerate(sequences):
            for text, place in _places(sequence.tolist(), template, encodings, run, window, len(sequences)):
                owner.append(-1)
                if text is None:
                    continue
                encoding = encodings[text]
                word = encoding.word_ids[place]
                start, end = _stripped(texts[text], *encoding.offsets[place])
                key = (text, place if word is None else -1 - word)
                if key not in number:
                    number[key] = len(self.places)
                    self.places.append((text, start, end))
                owner[-1] = number[key]
                _, low, high = self.places[owner[-1]]
                self.places[owner[-1]] = text, min(low, start), max(high, end)
        self.owner = torch.tensor(owner)
        self.is_text = self.owner >= 0

    def sums(self, scores: Tensor) -> Tensor:
        """(S,) of tokens -> of words."""
        found = torch.zeros(len(self.places))
        return found.index_add(0, self.owner[self.is_text], scores[self.is_text])


def _places(
    ids: list[int], template: Any, encodings: Sequence[Any], run: Run, window: int, windows: int
) -> list[tuple[int | None, int]]:
    """Of each token of a sequence, which text it is of (None for special ones) and its place in that text's tokens."""
    found: list[tuple[int | None, int]] = []
    for number, special in enumerate(template.specials):
        found += [(None, 0)] * len(special)
        if number == len(encodings):
            break
        rest, after = ids[len(found) :], template.specials[number + 1]
        # No token of a text is a special one, so the first of these ends the text.
        kept = next(i for i in range(len(rest) + 1) if rest[i : i + len(after)] == after)
        if number == len(encodings) - 1:
            kept = len(rest) - len(after)
        full = encodings[number].ids
        at = _kept(kept, len(full), _side(run), window, windows)
        assert [full[i] for i in at] == rest[:kept], "the tokens of an example are not those of its text"
        found += [(number, i) for i in at]
    return found


def _side(run: Run) -> str:
    """Which part of a long text stays; of pairs and by default the tokenizer's own side (`tasks.data.tokenise`)."""
    long = getattr(run.schema, "long", "head")
    return "head" if long == "error" else long


def _kept(kept: int, full: int, long: str, window: int, windows: int) -> list[int]:
    """Which of a text's `full` tokens the `kept` ones of a sequence are (`tasks.data.tokenise`)."""
    if long == "head+tail":
        return [*range(kept - kept // 2), *range(full - kept // 2, full)]
    start = {"tail": full - kept, "window": window * (full - kept) // max(1, windows - 1)}.get(long, 0)
    return list(range(start, start + kept))


def _stripped(text: str, start: int, end: int) -> tuple[int, int]:
    """A token without the white space that some tokenizers count to it."""
    inside = text[start:end]
    lead = len(inside) - len(inside.lstrip())
    return (start + lead, end - (len(inside) - len(inside.rstrip()))) if inside.strip() else (start, end)


def neutral_token(tokenizer: Any) -> int:
    """The token that says nothing: [MASK], or where a tokenizer has none its unknown one.

    Raises:
        ConfigError: it has neither.
    """
    for token in (tokenizer.mask_token_id, tokenizer.unk_token_id):
        if token is not None:
            return int(token)
    raise ConfigError("the tokenizer of this run has neither a mask nor an unknown token: no text says nothing in it.")


class _Given(nn.Module):
    """A word table that gives these vectors, whatever the ids. RoBERTa asks it which id is padding."""

    def __init__(self, vectors: Tensor, padding_idx: int | None) -> None:
        super().__init__()
        self.vectors, self.padding_idx = vectors, padding_idx

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.vectors


def _word_vectors(task: Any) -> tuple[str, nn.Embedding]:
    """The word table of a task's encoder, and its name."""
    embeddings = task.encoder.embeddings
    name = "tok_embeddings" if hasattr(embeddings, "tok_embeddings") else "word_embeddings"
    return name, getattr(embeddings, name)


def _with_vectors(task: Any, vectors: Tensor) -> Any:
    """The task as it would answer these word vectors. It shares its weights with the task, which stays as it is: others
    may be asking it at this moment."""
    name, table = _word_vectors(task)
    embeddings = _with(task.encoder.embeddings, name, _Given(vectors, table.padding_idx))
    return _with(task, "encoder", _with(task.encoder, "embeddings", embeddings))


def _with(module: nn.Module, name: str, child: nn.Module) -> Any:
    twin = copy.copy(module)
    twin._modules = {**module._modules, name: child}
    return twin
