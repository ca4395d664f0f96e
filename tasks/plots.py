"""Figures of a run as PNG files: confusion matrix, reliability, learning curves, scores against gold.

Drawn on Agg canvases of their own: no display, no pyplot, no state shared between threads. Colours are
of Okabe and Ito's palette, or run from light to dark: colour-blind readers and grey prints tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#999999"
CYCLE = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":")  # a second mark beside the colour

DPI = 120
# More rows than this cannot be read on a page: the labels most confused are shown instead.
MOST_LABELS = 30
LONGEST_LABEL = 28


def confusion_matrix(path: Path | str, matrix: NDArray, labels: Sequence[str], things: str = "rows") -> None:
    """Rows of gold, columns of predictions: the share of each gold label as colour, the counts as text.

    With more than 30 labels the block of the 30 that take part in the most confusions is drawn, and says so.
    """
    matrix = np.asarray(matrix)
    if matrix.shape != (len(labels), len(labels)) or not len(labels):
        raise ValueError(f"a confusion matrix of {len(labels)} labels is square, not {matrix.shape}")
    right = int(np.trace(matrix))
    title = f"{right:,} of {int(matrix.sum()):,} {things} right"
    shown = _most_confused(matrix)
    if len(shown) < len(labels):
        wrong = int(matrix.sum()) - right
        inside = int(matrix[np.ix_(shown, shown)].sum() - matrix[shown, shown].sum())
        title += (
            f"\nthe {len(shown)} most confused of {len(labels)} labels: "
            f"{inside:,} of {wrong:,} confusions lie among them"
        )
    support = matrix.sum(axis=1)
    share = matrix[np.ix_(shown, shown)] / np.maximum(support[shown], 1)[:, None]
    size = len(shown)
    side = 3.0 + 0.36 * max(size, 5)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    # A dollar sign would start mathematics in matplotlib.
    names = [_short(str(labels[i])).replace("$", r"\$") for i in shown]
    axes.set_xticks(range(size), names, rotation=90 if size > 6 or max(map(len, names)) > 8 else 0)
    axes.set_yticks(range(size), [f"{n} ({support[i]:,})" for n, i in zip(names, shown, strict=True)])
    axes.tick_params(labelsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("gold (rows)")
    axes.set_title(title, fontsize=10)
    for i, j in zip(*np.nonzero(share), strict=True):
        count = int(matrix[shown[i], shown[j]])
        colour = "white" if share[i, j] > 0.5 else "black"
        axes.text(j, i, _compact(count), ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(image, ax=axes, label="share of the gold label's rows", shrink=0.8)
    _save(figure, path)


def reliability(path: Path | str, bins: Sequence[Mapping[str, Any]], note: str = "") -> None:
    """Accuracy against confidence, with the rows a bin below; `bins` as `Report.reliability()` gives them."""
    used = [row for row in bins if row["count"]]
    figure = Figure(figsize=(5.0, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    width = bins[0]["high"] - bins[0]["low"]
    middles = [(row["low"] + row["high"]) / 2 for row in used]
    top.bar(
        middles,
        [row["accuracy"] for row in used],
        width=width,
        color=BLUE,
        edgecolor="white",
        label="accuracy of the bin",
    )
    top.plot([0, 1], [0, 1], color="black", linestyle="--", linewidth=1, label="perfectly calibrated")
    top.plot(
        [row["confidence"] for row in used],
        [row["accuracy"] for row in used],
        "D",
        color=ORANGE,
        markeredgecolor="white",
        markersize=6,
        label="at the mean confidence",
    )
    top.set(ylabel="accuracy", ylim=(0, 1.02), xlim=(0, 1))
    top.set_title("Reliability" + (f": {note}" if note else ""), fontsize=10)
    top.legend(fontsize=8, loc="upper left")
    bottom.bar(middles, [row["count"] for row in used], width=width, color=GREY, edgecolor="white")
    bottom.set(xlabel="confidence", ylabel="rows")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (top, bottom):
        _tidy(axes)
    _save(figure, path)


def learning_curves(path: Path | str, history: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """A panel a metric over the steps.

    Args: history: "<split>/<metric>" or "<metric>" -> (step, value) pairs; splits of a metric share a panel.
    """
    panels: dict[str, list[tuple[str, Sequence[tuple[float, float]]]]] = {}
    for key, points in history.items():
        split, _, metric = key.rpartition("/")
        panels.setdefault(metric, []).append((split or "train", points))
    if not panels:
        raise ValueError("learning_curves: an empty history has nothing to draw")
    columns = min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(1.0 + 3.8 * columns, 3.2 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (metric, curves) in zip(grid, panels.items(), strict=False):
        for i, (split, points) in enumerate(curves):
            x, y = np.asarray(points, dtype=float).reshape(-1, 2).T
            axes.plot(
                x,
                y,
                color=CYCLE[i % len(CYCLE)],
                linestyle=LINES[i % len(LINES)],
                marker="o" if len(x) <= 30 else None,
                markersize=3,
                label=split,
            )
        axes.set(xlabel="optimiser step", ylabel=metric)
        axes.legend(fontsize=8)
        _tidy(axes)
    for axes in list(figure.axes)[len(panels) :]:
        axes.set_axis_off()
    _save(figure, path)


def scores(path: Path | str, predicted: NDArray, gold: NDArray) -> None:
    """Predicted against gold scores (N,) as a 2-D histogram: any number of rows stays readable."""
    predicted, gold = np.asarray(predicted, dtype=float), np.asarray(gold, dtype=float)
    if predicted.shape != gold.shape or predicted.ndim != 1 or not len(gold):
        raise ValueError(f"scores: two filled arrays (N,), not {predicted.shape} and {gold.shape}")
    low = float(min(predicted.min(), gold.min()))
    high = float(max(predicted.max(), gold.max()))
    margin = 0.02 * (high - low) or 0.5  # all rows at one point still need an axis
    edges = np.linspace(low - margin, high + margin, 51)
    figure = Figure(figsize=(5.6, 4.8), layout="constrained")
    axes = figure.subplots()
    counts, _, _ = np.histogram2d(gold, predicted, bins=(edges, edges))
    image = axes.pcolormesh(
        edges,
        edges,
        np.ma.masked_equal(counts.T, 0),
        cmap="viridis",
        norm=LogNorm(1, max(counts.max(), 2)),
        rasterized=True,
    )
    axes.plot(
        edges[[0, -1]], edges[[0, -1]], color=ORANGE, linestyle="--", linewidth=1, label="predicted = gold"
    )
    axes.set(xlabel="gold", ylabel="predicted", aspect="equal")
    axes.set_title(f"{len(gold):,} rows", fontsize=10)
    axes.legend(fontsize=8, loc="upper left")
    figure.colorbar(image, ax=axes, label="rows (log scale)")
    _tidy(axes)
    _save(figure, path)


def _most_confused(matrix: NDArray) -> NDArray[np.int64]:
    """At most MOST_LABELS labels, in the order of the matrix, whose rows or columns hold the most confusions.

    The label that takes part in the fewest confusions with those still in is dropped, one by one, so that the
    confusions left lie within the block.
    """
    wrong = matrix - np.diag(np.diagonal(matrix))
    both = wrong + wrong.T
    kept = np.arange(len(matrix))
    taken_part = both.sum(axis=1).astype(float)
    while len(kept) > MOST_LABELS:
        # Of equals the last goes, so the choice is fixed.
        least = len(kept) - 1 - int(np.argmin(taken_part[kept][::-1]))
        taken_part -= both[kept[least]]
        kept = np.delete(kept, least)
    return kept


def _short(label: str) -> str:
    if len(label) <= LONGEST_LABEL:
        return label
    # Cut in the middle: labels of one family differ at their end.
    half = (LONGEST_LABEL - 1) // 2
    return f"{label[: LONGEST_LABEL - 1 - half]}…{label[-half:]}"


def _compact(count: int) -> str:
    """A count in at most four characters."""
    if count < 10_000:
        return str(count)
    return f"{count / 1000:.0f}k" if count < 1_000_000 else f"{count / 1e6:.1f}M"


def _tidy(axes: Axes) -> None:
    axes.grid(alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path | str) -> None:
    FigureCanvasAgg(
        figure
    )  # attaches itself: whatever the backend of the process, this figure draws with Agg
    figure.savefig(path, format="png", dpi=DPI, bbox_inches="tight")
