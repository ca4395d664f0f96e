"""The model card of a run: README.md, as the Hugging Face hub reads it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.base import Task

TEMPLATE = """---
library_name: {library}
pipeline_tag: {pipeline}
tags: [modernbert, {pipeline}]
---

# {title}

{what}, fine-tuned from `{source}`{revision} with [modernbert](https://pypi.org/project/modernbert/).

```python
{usage}
```

## Data

{data}

{lengths}

## Scores

{scores}

Intervals are 95% bootstrap intervals over the rows. They say how far the score could move with other rows of
the same kind, not how the model does on rows of another kind.

## Limits

The model knows the kind of text it was trained on, and its labels where it has any; on anything else its scores mean
little.
The licence of the base encoder, `{source}`, applies to these weights too.
"""


def write_card(folder: Path, task: Task, facts: Mapping[str, Any], metrics: Mapping[str, Mapping[str, Any]]) -> None:
    """README.md of a run, from its facts and metrics alone."""
    encoder = facts["encoder"]
    data = [f"- {split}: {d['rows']:,} rows of `{Path(d['source']).name}`" for split, d in facts["data"].items()]
    text = TEMPLATE.format(
        library=task.library,
        pipeline=task.pipeline,
        usage=task.usage("Where is my order?"),
        title=folder.name,
        what=capitalised(task.schema.describe()),
        source=encoder["source"],
        revision=f" at `{encoder['revision']}`" if encoder["revision"] else "",
        data="\n".join(data),
        lengths=task.schema.describe_lengths(),
        scores=score_table(task, metrics),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def score_table(task: Task, metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """Headline metrics of each split as a Markdown table."""
    lines = ["| metric | " + " | ".join(metrics) + " |", "|---|" + "---|" * len(metrics)]
    for name in task.shown:
        cells = [interval(values, name) for values in metrics.values()]
        if any(cells):
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def interval(values: Mapping[str, Any], name: str) -> str:
    """A value with its interval, "" where it is undefined."""
    value, low, high = (values.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if value is None:
        return ""
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f} to {high:.3f})"


def capitalised(phrase: str) -> str:
    """The phrase as a sentence begins; names inside keep their case."""
    return phrase[:1].upper() + phrase[1:]
