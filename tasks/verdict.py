"""Two runs compared, in words and rows for a person: what `modernbert compare` and the page share."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.metrics.paired import Paired
from tasks.metrics.report import LESS_IS_BETTER

#: Of a ranking's many metrics a table has these.
OF_RANKINGS = ("ndcg@10", "mrr@10", "map", "recall@10", "recall@100")
#: The usual level of significance; the interval leaves out 0 at about the same.
LEVEL = 0.05
HEADERS = ("difference", "95% interval", "p")


def difference_rows(found: Mapping[str, Paired]) -> list[list[str]]:
    """Metric, value of each run, and HEADERS, for the metrics that a table has."""
    rankings = set(OF_RANKINGS) & set(found)
    return [
        [name, f"{one.first:.4f}", f"{one.second:.4f}", f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}",
         p_value(one)]
        for name, one in found.items() if not rankings or name in rankings
    ]  # fmt: skip


def p_value(one: Paired) -> str:
    return f"{one.p_value:.4f}" if one.p_value >= 1e-3 else f"{one.p_value:.1e}"


def verdict(first: str, second: str, found: Mapping[str, Paired]) -> str:
    """The first metric in words: what a person came for."""
    name, one = next(iter(found.items()))
    if one.p_value >= LEVEL or not one.difference:
        return f"By {name}, {first} and {second} cannot be told apart on these rows (p {p_value(one)})."
    other_is_better = (one.difference > 0) != (name in LESS_IS_BETTER)
    better, worse = (second, first) if other_is_better else (first, second)
    return f"By {name}, {better} is better than {worse} by {abs(one.difference):.4f} (p {p_value(one)})."
