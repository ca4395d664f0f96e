"""Whether the tokenizer of an export folder reads texts as the run does, token by token and offset by offset."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from tasks.data.ranking import Collection
from tasks.export.gate import Check
from tasks.export.rows import Rows
from tasks.tagged import TaggedBatch

#: Ways to read a long text in which a tokenizer, told to truncate, does the same.
LIKE_OURS = ("head", "tail")


def check_tokens(rows: Rows, folder: Path) -> Check:
    """The tokenizer, used as a person would use it, gives the token ids that the run read, and the places of words.

    Long texts are left out where the caller must do more than truncate (windows, head+tail).
    """
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    good = read = 0
    for batch, (texts, limit) in zip(rows.single, single_texts(rows), strict=True):
        as_ours = getattr(rows.run.schema, "long", "head") in LIKE_OURS and not isinstance(batch, TaggedBatch)
        if not as_ours and len(tokenizer(*texts)["input_ids"]) > limit:
            continue
        found = tokenizer(*texts, truncation=True, max_length=limit, return_offsets_mapping=True)
        same = found["input_ids"] == batch.packed.input_ids.tolist()
        if isinstance(batch, TaggedBatch):
            same = same and same_places(batch, found["offset_mapping"], texts[0])
        good, read = good + same, read + 1
    what = "token ids and offsets" if isinstance(rows.single[0], TaggedBatch) else "token ids"
    return Check(f"{what} of the tokenizer, rows", f"{good} of {read}", "all", good == read)


def single_texts(rows: Rows) -> Iterator[tuple[list[str], int]]:
    """The text, or pair of texts, of each row that is run alone, prefix included; and the most tokens it has."""
    schema, examples = rows.run.schema, rows.judge.examples
    if isinstance(examples, Collection):
        roles = [("query", text) for text in examples.queries] + [("document", text) for text in examples.documents]
        for role, text in roles[: len(rows.single)]:
            yield list(schema.with_prefix([text], role)), schema.limit(role)
        return
    columns = [rows.table.columns[name] for name in schema.text_columns()]
    for batch in rows.single:
        yield [column[int(batch.index[0])] for column in columns], schema.max_length


def same_places(batch: TaggedBatch, offsets: list[tuple[int, int]], text: str) -> bool:
    """Whether the first sub-word of each word begins where the word does, but for white space before it."""
    tokens = batch.unit_tokens[batch.heads[batch.unit_of]]
    starts = torch.tensor(offsets)[tokens, 0].tolist()
    at = [start + len(text[start:]) - len(text[start:].lstrip()) for start in starts]
    return at == batch.bounds[batch.heads, 0].tolist()
