"""Texts to vectors, with a saved run or with an encoder as it was published (zero shot)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from modernbert import weights
from modernbert.config import read_config
from modernbert.errors import ConfigError
from tasks.data.borders import SPLITS, Split
from tasks.data.passages import Passages
from tasks.data.ranking import Chunk, TextRole
from tasks.data.ranking.collection import Texts
from tasks.data.tokenise import load_tokenizer
from tasks.optim import require
from tasks.retrieval import Retrieval
from tasks.retrieval_measure import CHUNK, encode_chunk
from tasks.retrieval_schema import RetrievalSchema
from tasks.run import Run, place
from tasks.st_layout import Layout, read_layout
from tasks.vectors import Kind, Vectors


class Embedder:
    """Texts to vectors, prefixes included; made by `from_run` or `from_encoder`.

    Args:
        task: in evaluation mode, on its device.
        tokenizer: of its encoder.
    """

    def __init__(self, task: Retrieval, tokenizer: Any) -> None:
        self.task, self.tokenizer = task.eval(), tokenizer

    @classmethod
    def from_run(cls, run: Run | str | Path, device: str = "auto", precision: str = "auto") -> Embedder:
        """The model of a saved retrieval run.

        Args:
            run: as loaded, or its folder.
            device, precision: how a folder is loaded, see `Run.load`.

        Raises:
            ConfigError: the run is of another task.
        """
        loaded = run if isinstance(run, Run) else Run.load(run, device, precision)
        if not isinstance(loaded.task, Retrieval):
            raise ConfigError(f"run={loaded.folder} is of task {loaded.name}: give a run of task=retrieval.")
        return cls(loaded.task, loaded.tokenizer)

    @classmethod
    def from_encoder(
        cls,
        source: str,
        revision: str | None = None,
        pooling: Literal["cls", "mean"] | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        max_length: int | None = None,
        split: Split = "none",
        device: str = "auto",
        precision: str = "auto",
    ) -> Embedder:
        """A plain encoder (dense, mean pooling) or what the sentence-transformers modules of a checkpoint say.

        Args:
            source, revision: preset `minilm`, a folder, or a hub name.
            pooling, query_prefix, document_prefix: None takes the modules' own, else mean pooling and no prefix.
            max_length: tokens of a text; None takes the modules' own, else all that the encoder was trained for.
            split: where documents are split into passages, of which the best counts.
            device, precision: as of `Run.load`.

        Raises:
            ConfigError: a split that there is not.
            EncoderError: the source cannot be reached, or has modules that are not implemented.
        """
        require("encoder.split", split, split in SPLITS, ", ".join(SPLITS))
        folder = weights.resolve(source, revision)
        found = read_layout(folder) or Layout("dense")
        most = read_config(folder).max_positions
        length = min(max_length or found.max_length or most, most)
        schema = RetrievalSchema(
            columns={"query": "query"},
            kind="tuples",
            max_length=length,
            query_prefix=found.query_prefix if query_prefix is None else query_prefix,
            document_prefix=found.document_prefix if document_prefix is None else document_prefix,
            query_max_length=min(found.query_max_length or length, length),
            split=split,
            query_expansion=min(found.query_expansion, length),
        )
        task = Retrieval(
            weights.load_encoder(folder),
            schema,
            kind=found.kind,
            pooling=pooling,
            skip_punctuation=found.skips_punctuation,
        )
        task.load_head(weights.read_tensors(folder))
        task.read_modules(folder)
        place(task, device, precision)
        return cls(task, load_tokenizer(folder))

    @property
    def kind(self) -> Kind:
        """dense, multi_vector or sparse."""
        return self.task.kind

    @property
    def vector_kind(self) -> Kind:
        """The kind of vectors it gives: a dense model has several for a document whose passages stay apart."""
        return self.task.vector_kind

    @property
    def split(self) -> Split:
        """Where it splits documents."""
        return self.task.schema.split

    @property
    def dimension(self) -> int:
        """Features of one vector."""
        return self.task.head.size  # type: ignore[return-value]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides a vector: weights, head, prefixes, lengths. An index keeps it."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.task.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().data)
        schema, head = self.task.schema, self.task.head
        settings = {
            "kind": self.kind,
            "pooling": getattr(head, "pool", None),
            "activation": getattr(head, "activation", None),
            "prefixes": [schema.query_prefix, schema.document_prefix],
            "lengths": [schema.limit("query"), schema.limit("document")],
            "skip_punctuation": self.task.skip_punctuation,
        }
        # Indexes of models without these keep their name.
        if self.split != "none":
            settings |= {"split": self.split, "merging": self.task.merging}
        if schema.query_expansion:
            settings["query_expansion"] = schema.query_expansion
        digest.update(json.dumps(settings, sort_keys=True).encode())
        return digest.hexdigest()

    def encode(
        self,
        texts: Sequence[str],
        role: TextRole,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] | None = None,
        whole: bool = False,
    ) -> Vectors:
        """The vectors of at least one text, in their order, on the model's device; sparse ones in CSR form.

        Args:
            texts: without prefix.
            role: query or document.
            tokens_per_batch: of one forward pass; None chooses by device.
            advance: told of texts done.
            whole: the texts are passages, or queries to compare with these: nothing is split.

        Raises:
            DataError: no text, or one that is no text.
        """
        schema = self.task.schema
        tokens = (schema.tokens if whole else schema.texts)(self.tokenizer, texts, role)
        return self.encode_tokens(tokens, role, tokens_per_batch, advance)

    def encode_tokens(
        self,
        tokens: Texts,
        role: TextRole,
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> Vectors:
        """The vectors of texts that are tokens already, whole or in passages."""
        return encode_chunk(self.task, Chunk(tokens, role, 0), tokens_per_batch, advance)

    def encode_passages(
        self,
        texts: Sequence[str],
        tokens_per_batch: int | None = None,
        advance: Callable[[int], None] | None = None,
    ) -> tuple[Vectors, list[list[int]] | None]:
        """The vectors of documents, as `encode`, and of each the start and end of its passages, one after another;
        None where documents are not split."""
        tokens = self.task.schema.texts(self.tokenizer, texts, "document")
        borders = tokens.borders() if isinstance(tokens, Passages) else None
        return self.encode_tokens(tokens, "document", tokens_per_batch, advance), borders

    def stream(
        self, texts: Iterable[str], role: TextRole, chunk: int | None = None, tokens_per_batch: int | None = None
    ) -> Iterator[Vectors]:
        """The vectors of `chunk` texts at a time (None: 4,096, or 1,024 of the larger kinds), as the texts come."""
        size = chunk or CHUNK[self.kind]
        waiting = iter(texts)
        while part := list(islice(waiting, size)):
            yield self.encode(part, role, tokens_per_batch)
