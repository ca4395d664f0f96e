"""What the routes of all tasks share: rows through the queue, truncation that is told, JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson
from starlette.responses import Response

from app.server import schemas
from app.server.context import Context, Served
from app.server.errors import RefusedError

if TYPE_CHECKING:
    from app.server.batcher import Engine
    from app.server.engines import Counted, Row

REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": schemas.Problem, "description": about}
    for status, about in {
        401: "no token, or a wrong one",
        413: "too many bytes, texts or tokens; with truncate=false also a text that is too long",
        422: "not what this route takes",
        429: "the queue is full; Retry-After says when to come again",
        503: "loading or stopping",
        504: "no answer in time",
    }.items()
}


async def answers_of(
    context: Context,
    served: Served,
    engine: Engine,
    lengths: Callable[[Sequence[Row]], Counted],
    rows: Sequence[Row],
    truncate: bool | None = None,
) -> tuple[list[Any], int]:
    """One answer for each row, computed with those of other requests; and how many rows were cut.

    Raises:
        RefusedError: as `Context.count` and `Context.compute`; a row is cut though `truncate` is False.
    """
    counted = await context.count(lengths, rows)
    answers = await context.compute(engine, rows, counted.lengths)
    # An answer that tells it knows better than a count of tokens: pairs may be read apart, long texts in windows.
    cut = [getattr(answer, "cut", flag) for answer, flag in zip(answers, counted.cut, strict=True)]
    if truncate is False and any(cut):
        raise RefusedError(
            413,
            f"Text {cut.index(True)} (counting from 0) is longer than the {max(counted.lengths)} tokens that are read: "
            "shorten it, or leave truncate=false out.",
        )
    context.metrics.cut.add(served.name, by=sum(cut))
    return answers, sum(cut)


async def rows_through_run(
    context: Context, served: Served, rows: Sequence[Row], truncate: bool | None = None
) -> tuple[list[Any], int]:
    """`answers_of` for a run's own text columns."""
    run = served.run
    return await answers_of(context, served, run.engine(run.schema.text_columns()), run.lengths, rows, truncate)


def reply(value: Any, status: int = 200, cut: int = 0) -> Response:
    """JSON; truncation is never silent."""
    headers = {"X-Truncated": str(cut)} if cut else {}
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers=headers, media_type="application/json")
