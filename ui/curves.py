"""The curves of a training as it goes: a panel a metric, drawn as SVG in the colours of the page."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from ui.markup import escape

Points = Sequence[tuple[int, float]]
#: Of a panel, in pixels; it grows and shrinks with the page.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 320, 160, 52, 24, 8
#: Validation metrics with a panel of their own, the first of them that there are.
SHOWN = ("accuracy", "f1_macro", "f1", "f1_micro", "subset_accuracy", "ndcg@10", "mrr@10", "map", "recall@10", "qwk",
         "rmse", "spearman", "mae")  # fmt: skip
PANELS = 2
#: Points drawn of a curve: more than its panel has pixels show nothing more.
DRAWN = 300
#: Points up to which each has a dot.
DOTS = 30


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Every value in a run's logs/metrics.csv, name -> (optimiser step, value); empty where there is none yet."""
    if not path.is_file():
        return {}
    found: dict[str, list[tuple[int, float]]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            step = row.pop("step", None)
            for name, value in row.items():
                if value and step and name != "epoch":
                    found.setdefault(name, []).append((int(float(step)), float(value)))
    return found


def panels(curves: Mapping[str, Points]) -> str:
    """The loss, and the validation metrics a person looks at first."""
    chosen = {"training loss": curves["train_loss"]} if "train_loss" in curves else {}
    metrics = [name for name in SHOWN if f"val_{name}" in curves][:PANELS]
    chosen |= {f"validation {name}": curves[f"val_{name}"] for name in metrics}
    return f'<div class="panels">{"".join(panel(name, points) for name, points in chosen.items())}</div>'


def panel(name: str, points: Points) -> str:
    """One curve with its last value; a screen reader is told first and last."""
    if len(points) > DRAWN:
        points = [*points[:: -(-len(points) // DRAWN)], points[-1]]
    steps, values = [step for step, _ in points], [value for _, value in points]
    low, high, first, last = min(values), max(values), min(steps), max(steps)

    def place(step: int, value: float) -> tuple[str, str]:
        across = (step - first) / (last - first) if last > first else 0.5
        down = (high - value) / (high - low) if high > low else 0.5
        return f"{LEFT + (WIDTH - LEFT - 8) * across:.1f}", f"{TOP + (HEIGHT - TOP - BOTTOM) * down:.1f}"

    places = [place(*point) for point in points]
    line = " ".join(",".join(each) for each in places)
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="3"/>' for x, y in places) if len(places) <= DOTS else ""
    ends = ""
    if high > low:
        ends += (
            f'<text x="{LEFT - 6}" y="{TOP + 6}" text-anchor="end">{high:.3g}</text>'
            f'<text x="{LEFT - 6}" y="{HEIGHT - BOTTOM}" text-anchor="end">{low:.3g}</text>'
        )
    if last > first:
        ends += f'<text x="{WIDTH - 8}" y="{HEIGHT - 6}" text-anchor="end">{last}</text>'
    said = f"{name}: {values[0]:.4g} at step {steps[0]}, {values[-1]:.4g} at step {steps[-1]}"
    base = HEIGHT - BOTTOM
    return (
        f'<figure><figcaption>{escape(name)} <b>{values[-1]:.4g}</b></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(said)}">'
        f'<line class="axis" x1="{LEFT}" y1="{base}" x2="{WIDTH - 8}" y2="{base}"/>'
        f'<text x="{LEFT}" y="{HEIGHT - 6}">step {first}</text>{ends}'
        f'<polyline points="{line}"/>{dots}</svg></figure>'
    )
