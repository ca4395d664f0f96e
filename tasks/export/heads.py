"""Many exported heads over one encoder: every distinct sequence of tokens passes the encoder once.

Heads may be of any mixture of classification and named entities, with their own columns, length limits and ways to
read long texts: what is shared is found sequence by sequence, so nothing has to agree but encoder and tokenizer. Where
every head reads the same texts and they fit, that is one pass for all; where one cuts a long text and another reads it
in windows, both readings of this text pass.

T tokens, B sequences, D hidden size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from modernbert.errors import ConfigError
from modernbert.packing import Packed, pack
from modernbert.sources import resolve
from modernbert.weights import Encoder, load_encoder
from tasks.base import Task
from tasks.data.examples import Examples
from tasks.data.module import AUTO_TOKENS
from tasks.data.readers import Table
from tasks.data.sampler import inference_batches
from tasks.data.tokenise import load_tokenizer
from tasks.export.head import load_head, read_facts
from tasks.run import Run, choose_device, choose_precision, has_text
from tasks.vectors import expand


class SharedEncoder(nn.Module):
    """Stands where each head has its encoder, and answers with rows of hidden states that were computed once.

    Args:
        encoder: computes them.
        first_only: every head reads the first token of a sequence alone, so the last layer is computed for no other.
    """

    def __init__(self, encoder: Encoder, first_only: bool) -> None:
        super().__init__()
        self.encoder, self.first_only = encoder, first_only
        self.hidden: Tensor | None = None
        self.places: dict[int, Tensor] = {}

    def compute(self, packs: Sequence[Packed], device: torch.device) -> tuple[int, int]:
        """Run the encoder over the distinct sequences of these packs; returns how many of how many these are."""
        union, places = merged(packs)
        moved = union.to(device)
        if self.first_only:
            first = moved.cu_seqlens[:-1].long()
            found = self.encoder(moved, rows=first)
            self.hidden = found.new_zeros(moved.num_tokens, found.shape[1]).index_copy(0, first, found)
        else:
            self.hidden = self.encoder(moved)
        self.places = {id(packed): place.to(device) for packed, place in zip(packs, places, strict=True)}
        return union.batch_size, sum(packed.batch_size for packed in packs)

    def forward(self, packed: Packed, rows: Tensor | None = None) -> Tensor:
        """(T, D) of a pack that `compute` was given, or its `rows`."""
        assert self.hidden is not None
        place = self.places[id(packed)]
        return self.hidden[place if rows is None else place[rows]]


def merged(packs: Sequence[Packed]) -> tuple[Packed, list[Tensor]]:
    """One pack of the distinct sequences of several, and for each of these its tokens' places (T,) in it."""
    number: dict[tuple[bytes, bytes], int] = {}
    sequences: list[np.ndarray] = []
    segments: list[np.ndarray] = []
    members: list[list[int]] = []
    for packed in packs:
        ids, bounds, types = packed.input_ids.numpy(), packed.cu_seqlens.tolist(), packed.token_type_ids
        kinds = np.zeros_like(ids) if types is None else types.numpy()
        members.append([])
        for start, stop in pairwise(bounds):
            key = ids[start:stop].tobytes(), kinds[start:stop].tobytes()
            if key not in number:
                number[key] = len(sequences)
                sequences.append(ids[start:stop])
                segments.append(kinds[start:stop])
            members[-1].append(number[key])
    union = pack(sequences, segments if any(part.any() for part in segments) else None)
    starts, lengths = union.cu_seqlens[:-1].long(), union.lengths.long()
    return union, [expand(starts[chosen], lengths[chosen])[0] for chosen in map(torch.tensor, members)]


@dataclass
class Part:
    """The rows of one head, tokenised; `place` is where each row of the table is among its examples."""

    task: Task
    examples: Examples
    place: Mapping[int, int]


class Heads:
    """Several heads in one pass; stands where a `Run` does in `tasks.scoring.Scoring`, and is its own `task` there.

    Args:
        tasks: by name; their encoders are replaced by a shared one.

    Attributes:
        asked, passed: sequences that the heads read so far, and how many of them went through the encoder.
    """

    def __init__(
        self, tasks: Mapping[str, Task], tokenizer: Any, device: str = "auto", precision: str = "auto"
    ) -> None:
        self.tasks, self.tokenizer = dict(tasks), tokenizer
        first = next(iter(self.tasks.values()))
        alone = all(getattr(task.head, "pool", None) == "cls" for task in self.tasks.values())
        self.device = choose_device(device)
        if precision == "int8":
            raise ConfigError("precision=int8 is for a single run: heads=[…] are answered in 32 or bf16.")
        self.autocast = choose_precision(precision, self.device.type)
        self.shared = SharedEncoder(first.encoder, alone).to(self.device)
        for task in self.tasks.values():
            task.encoder = self.shared  # type: ignore[assignment]
            task.to(self.device).eval()
        self.runs = {name: Run(Path(name), task, tokenizer, {"task": task.name}) for name, task in self.tasks.items()}
        self.schema, self.task = first.schema, self
        self.asked = self.passed = 0

    @classmethod
    def load(
        cls, folders: Sequence[str], encoder: str | None = None, device: str = "auto", precision: str = "auto"
    ) -> Heads:
        """
        Args:
            folders: that `modernbert export format=head` wrote; the outputs of each are named after its folder.
            encoder: folder or hub name of the weights that all were trained on; None looks for `model/` of the run
                that the first one was exported from, then takes what its head.json names.

        Raises:
            ConfigError: a head for another encoder or tokenizer, of a task that ranks, or two of one name.
        """
        if not folders:
            raise ConfigError("heads=[]: give at least one folder that `modernbert export format=head` wrote.")
        facts = [read_facts(Path(folder)) for folder in folders]
        names = [head_name(Path(folder)) for folder in folders]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"heads: two are named {', '.join(twice)} after their folders: rename one of them.")
        for folder, fact in zip(folders, facts, strict=True):
            if fact["preprocessing"]["tokenizer_sha256"] != facts[0]["preprocessing"]["tokenizer_sha256"]:
                raise ConfigError(f"heads: {folder} was trained with another tokenizer than {folders[0]}.")
        loaded = load_encoder(find_encoder(Path(folders[0]), facts[0], encoder))
        tasks = {name: load_head(folder, loaded) for name, folder in zip(names, folders, strict=True)}
        if ranking := [name for name, task in tasks.items() if task.ranks]:
            raise ConfigError(f"heads: {', '.join(ranking)} ranks; heads of classification and named entities share.")
        return cls(tasks, load_tokenizer(Path(folders[0])), device, precision)

    def column_map(self, table: Table, given: Mapping[str, Any] | None) -> Table:
        """The table with the columns of every head under their names of training."""
        for run in self.runs.values():
            table = run.column_map(table, given)
        return table

    def outputs(self, table: Table, tokens_per_batch: int | None = None) -> list[tuple[Any, ...] | None]:
        """For each row what every head says of it (None where its text is missing); None where all are."""
        parts = [self.part(run, table) for run in self.runs.values()]
        rows = np.array(sorted(set().union(*(part.place for part in parts))), dtype=np.int64)
        found: list[list[Any]] = [[None] * len(parts) for _ in range(len(table))]
        lengths = np.zeros(len(rows), dtype=np.int64)
        for part in parts:
            own = [part.place.get(row, -1) for row in rows.tolist()]
            lengths = np.maximum(lengths, np.append(part.examples.lengths, 0)[own])
        budget = tokens_per_batch or AUTO_TOKENS[self.device.type]
        half = torch.autocast(self.device.type, self.autocast, enabled=self.autocast is not None)
        with torch.inference_mode(), half:
            for indices in inference_batches(lengths, budget):
                self.answer(parts, rows[indices].tolist(), found)
        return [tuple(answers) if any(a is not None for a in answers) else None for answers in found]

    def part(self, run: Run, table: Table) -> Part:
        """The rows with text for a head, tokenised as it was trained."""
        texts = zip(*(table.columns[name] for name in run.schema.text_columns()), strict=True)
        good = [i for i, row in enumerate(texts) if all(has_text(cell) for cell in row)]
        examples = run.schema.examples(table.select(good), self.tokenizer, "predict")
        return Part(run.task, examples, {row: place for place, row in enumerate(good)})

    def answer(self, parts: Sequence[Part], rows: Sequence[int], found: list[list[Any]]) -> None:
        """What every head says of these rows, into `found`; the encoder runs once."""
        batches = [
            (number, part, part.examples.collate([part.place[row] for row in rows if row in part.place]))
            for number, part in enumerate(parts)
            if any(row in part.place for row in rows)
        ]
        moved = [(number, part, batch, batch.to(self.device)) for number, part, batch in batches]
        passed, asked = self.shared.compute([batch.packed for _, _, batch in batches], self.device)
        self.passed, self.asked = self.passed + passed, self.asked + asked
        for number, part, batch, there in moved:
            self.shared.places[id(there.packed)] = self.shared.places[id(batch.packed)]
            cut = part.examples.cut[batch.index.numpy()].tolist()
            decoded = part.task.decode(part.task.outputs(there).float(), there, cut)
            own = [row for row in rows if row in part.place]
            for row, output in zip(own, decoded, strict=True):
                found[row][number] = output

    def to_columns(self, outputs: Sequence[tuple[Any, ...] | None]) -> dict[str, list[Any]]:
        """The columns of every head with its name before them; `cut` where any of them read a text in part."""
        columns: dict[str, list[Any]] = {}
        cut: list[bool | None] = [None if output is None else False for output in outputs]
        for number, (name, task) in enumerate(self.tasks.items()):
            own = task.to_columns([None if output is None else output[number] for output in outputs])
            for i, value in enumerate(own.pop("cut", [])):
                cut[i] = cut[i] or bool(value) if cut[i] is not None else None
            columns |= {f"{name}_{column}": values for column, values in own.items()}
        return columns | {"cut": cut}


def head_name(folder: Path) -> str:
    """What the outputs of a head are called: its folder, or the run's where that is <run>/export/head."""
    folder = folder.absolute()
    return folder.parents[1].name if (folder.name, folder.parent.name) == ("head", "export") else folder.name


def find_encoder(folder: Path, facts: Mapping[str, Any], given: str | None) -> Path:
    """The folder of the encoder that a head sits on."""
    if given is not None:
        return resolve(given)
    beside = folder.absolute().parents[1] / "model"
    if beside.is_dir():
        return beside
    base = facts["encoder"]["base"] or {}
    if not base.get("source"):
        raise ConfigError(f"{folder} does not name its encoder: give encoder.source=<the run>/model.")
    return resolve(base["source"], base.get("revision"))
