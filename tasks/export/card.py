"""The model card of an export: how to load it in three lines, its tensors, what the gate found; then the run's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tasks.export.gate import Parity, is_vectors, names_of, shown
from tasks.export.loading import is_windowed, load_lines, merging
from tasks.export.padded import ARCHITECTURES, input_names, pad_token
from tasks.export.program import PACKAGE
from tasks.run import Run

LIBRARY = {
    "transformers": "transformers",
    "sentence-transformers": "sentence-transformers",
    "head": "modernbert",
    "torch": "pytorch",
    "openvino": "openvino",
}

CARD = """---
library_name: {library}
pipeline_tag: {pipeline}
tags: [modernbert, {pipeline}, {format}]
---

# {title}

{what}, exported as `{format}`.

```python
{load}
```

{more}## Tensors

{tensors}

{names}

{long}

## Parity

{rows} labelled rows were answered by the run and by this export before it was written.

| check | found | allowed |
|---|---|---|
{checks}
{notes}"""

#: Words with which the model runs in a browser or in C++, from the makers of the runtimes.
WITHOUT_PYTHON = """
Without Python: the same file runs in [JavaScript](https://onnxruntime.ai/docs/get-started/with-javascript/) and in
[C++](https://onnxruntime.ai/docs/get-started/with-cpp.html); `tokenizer.json` is read by the
[tokenizers](https://github.com/huggingface/tokenizers) library and by transformers.js."""


def write_export_card(run: Run, folder: Path, title: str, parity: Parity) -> None:
    """README.md of an export, from the run and the gate's findings."""
    name, pipeline = parity.format, run.task.pipeline
    compiled = f'`torch._inductor.aoti_load_package("./{PACKAGE}")` gives the compiled model, called alike.\n\n'
    text = CARD.format(
        library=LIBRARY.get(name, "onnx"),
        pipeline="sentence-similarity" if is_vectors(run) else pipeline,
        format=name,
        title=title,
        what=run.schema.describe(),
        load=load_lines(run, name, "."),
        more=compiled if (folder / PACKAGE).is_file() else "",
        tensors=tensors(run, name),
        names=names(run),
        long=long_texts(run),
        rows=parity.rows,
        checks="\n".join(f"| {c.name} | {shown(c.value)} | {c.limit or ''} |" for c in parity.checks),
        notes="".join(f"\n{note}\n" for note in parity.notes),
    )
    (folder / "README.md").write_text(text + of_the_run(run.folder), encoding="utf-8")


def tensors(run: Run, name: str) -> str:
    """Names, types and shapes of what goes in and comes out."""
    if name == "head":
        return "`head.safetensors` holds the tensors that `head.json` lists, under their names in transformers."
    config, found = run.task.encoder.config, ARCHITECTURES[run.task.pipeline]
    lines = ["| tensor | type | shape |", "|---|---|---|"]
    lines += [f"| `{tensor}` | int64 | (batch, sequence) |" for tensor in input_names(config.family)]
    size = run.task.head.size if is_vectors(run) else len(names_of(run)[1])
    shape = f"(batch, sequence, {size})" if found.per_token else f"(batch, {size})"
    if is_vectors(run) and name == "transformers":
        lines.append(f"| `last_hidden_state` (out) | float32 | (batch, sequence, {config.hidden_size}) |")
    else:
        lines.append(f"| `{found.output}` (out) | float32 | {shape} |")
    notes = (
        f"\n\nAny batch, any sequence up to {run.schema.max_length} tokens. `attention_mask` is 1 at real tokens and 0 "
        f"at padding, which comes last and holds token {pad_token(config)}."
    )
    return "\n".join(lines) + notes + (WITHOUT_PYTHON if name.startswith("onnx") else "")


def names(run: Run) -> str:
    """What the last axis means."""
    _, found = names_of(run)
    if not is_vectors(run):
        return f"Labels, in the order of the last axis: {', '.join(f'`{label}`' for label in found)}."
    head: Any = run.task.head
    pool = {"cls": "the first token's", "mean": "the mean of the tokens'"}[head.pool]
    projected = "" if head.projection is None else ", projected,"
    roles = zip(found, ("queries", "documents"), strict=True)
    asked = [f"`{prefix}` before {role}" for prefix, role in roles if prefix]
    prefixes = f" Texts need their prefix: {', '.join(asked)}." if asked else ""
    return f"A text's vector is {pool}{projected} of length 1; the dot product of two is their similarity.{prefixes}"


def long_texts(run: Run) -> str:
    """What whoever calls does with a text of more tokens than the model reads."""
    schema = run.schema
    most, overlap = schema.max_length, getattr(schema, "overlap", 0)
    windows = f"Texts of more than {most} tokens are read in windows that share at least {overlap} tokens"
    if is_windowed(run):
        if run.task.ranks:
            windows = f"Documents that do not fit into {most} tokens are read in windows, each behind the whole query"
        how = {"mean": "the mean of their logits", "max": "the highest of each logit", "attention": "a learned mean"}
        name = f" (task.merging={schema.merging})" if hasattr(schema, "merging") else ""
        return (
            f"{windows}. The caller merges these by {how[merging(run)]}{name}. The run spreads windows evenly, all of "
            "them full; the stride of a tokenizer leaves the last one shorter."
        )
    if run.task.pipeline == "token-classification":
        return f"{windows}. The caller merges the logits of a word that several windows see."
    if getattr(schema, "long", "head") == "head+tail":
        return f"Of texts of more than {most} tokens the caller keeps the first half and the last half of {most}."
    return schema.describe_lengths()


def of_the_run(folder: Path) -> str:
    """Data, scores and limits from the run's own card; "" where there is none."""
    path = folder / "README.md"
    found = re.search(r"^## Data$.*", path.read_text(encoding="utf-8"), re.M | re.S) if path.is_file() else None
    return f"\n{found.group(0)}" if found else ""
