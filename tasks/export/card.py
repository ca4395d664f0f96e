"""The model card of an export: how to load it in three lines, its tensors, what the gate found; then the run's own."""

from __future__ import annotations

import re
from pathlib import Path

from tasks.export.gate import Parity, shown
from tasks.export.padded import architecture, input_names, pad_token
from tasks.run import Run

TRANSFORMERS = """import transformers
ask = transformers.pipeline("{pipeline}", model="{folder}"{options})
print(ask({example!r}))"""

ONNX = """tokenizer = AutoTokenizer.from_pretrained("{folder}")  # from transformers
session = InferenceSession("{folder}/model.onnx")  # from onnxruntime
logits = session.run(None, dict(tokenizer({example!r}, truncation=True, return_tensors="np")))[0]"""

HEAD = """encoder = load_encoder("{model}")  # from modernbert
task = load_head("{folder}", encoder)  # from tasks.export
logits = task(pack([tokenizer({example!r})["input_ids"]]))  # from modernbert, AutoTokenizer of transformers"""

LOADING = {"transformers": TRANSFORMERS, "onnx": ONNX, "onnx-int8": ONNX, "onnx-fp16": ONNX, "head": HEAD}
LIBRARY = {"transformers": "transformers", "head": "modernbert"}

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

## Tensors

{tensors}

Labels, in the order of the last axis: {labels}.

## Parity

{rows} labelled rows were answered by the run and by this export before it was written.

| check | found | allowed |
|---|---|---|
{checks}
{kept}"""

#: Words with which the model runs in a browser or in C++, from the makers of the runtimes.
WITHOUT_PYTHON = """
Without Python: the same file runs in [JavaScript](https://onnxruntime.ai/docs/get-started/with-javascript/) and in
[C++](https://onnxruntime.ai/docs/get-started/with-cpp.html); `tokenizer.json` is read by the
[tokenizers](https://github.com/huggingface/tokenizers) library and by transformers.js."""

#: For `load` on the command line and in the card.
EXAMPLE = "Where is my order?"


def load_lines(run: Run, name: str, folder: Path | str, model: Path | str = "<the run>/model") -> str:
    """Three lines of Python that load a format; `model` is where the head finds its encoder."""
    words = {"pipeline": run.task.pipeline, "options": run.task.pipeline_options}
    return LOADING[name].format(**words, folder=folder, model=model, example=EXAMPLE)


def write_export_card(run: Run, folder: Path, title: str, parity: Parity) -> None:
    """README.md of an export, from the run and the gate's findings."""
    name, pipeline = parity.format, run.task.pipeline
    kept = f"\nLeft in float: {', '.join(parity.kept_in_float)}.\n" if parity.kept_in_float else ""
    text = CARD.format(
        library=LIBRARY.get(name, "onnx"),
        pipeline=pipeline,
        format=name,
        title=title,
        what=run.schema.describe(),
        load=load_lines(run, name, "."),
        tensors=tensors(run, name),
        labels=", ".join(f"`{label}`" for label in run.task.hf_config()["id2label"].values()),
        rows=parity.rows,
        checks="\n".join(f"| {c.name} | {shown(c.value)} | {c.limit or ''} |" for c in parity.checks),
        kept=kept,
    )
    (folder / "README.md").write_text(text + of_the_run(run.folder), encoding="utf-8")


def tensors(run: Run, name: str) -> str:
    """Names, types and shapes of what goes in and comes out."""
    if name == "head":
        return "`head.safetensors` holds the tensors that `head.json` lists, under their names in transformers."
    config = run.task.encoder.config
    lines = ["| tensor | type | shape |", "|---|---|---|"]
    lines += [f"| `{tensor}` | int64 | (batch, sequence) |" for tensor in input_names(config.family)]
    size = len(run.task.hf_config()["id2label"])
    shape = f"(batch, sequence, {size})" if architecture(run.task.pipeline).per_token else f"(batch, {size})"
    lines.append(f"| `logits` (out) | float32 | {shape} |")
    notes = (
        f"\n\nAny batch, any sequence up to {run.schema.max_length} tokens. `attention_mask` is 1 at real tokens and 0 "
        f"at padding, which comes last and holds token {pad_token(config)}."
    )
    return "\n".join(lines) + notes + (WITHOUT_PYTHON if name.startswith("onnx") else "")


def of_the_run(folder: Path) -> str:
    """Data, scores and limits from the run's own card; "" where there is none."""
    path = folder / "README.md"
    found = re.search(r"^## Data$.*", path.read_text(encoding="utf-8"), re.M | re.S) if path.is_file() else None
    return f"\n{found.group(0)}" if found else ""
