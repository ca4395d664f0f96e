"""`/predict` and `/entities`: labels of texts, and entities in them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.server import schemas
from app.server.answers import REFUSALS, reply, rows_through_run
from app.server.context import Context
from app.server.errors import RefusedError


def add_classifying(router: APIRouter, context: Context) -> None:
    """The routes of classification and of named entities."""

    @router.post(
        "/predict",
        response_model=list[schemas.Prediction] | list[list[schemas.Prediction]],
        responses=REFUSALS,
    )
    async def predict(request: Request, body: schemas.PredictRequest) -> Response:
        """Labels with their probabilities, the likeliest first: a list for one text, a list of lists for several."""
        served = context.serving("/predict", request.path_params.get("run"))
        rows, single = rows_of(body.inputs, len(served.run.schema.text_columns()))
        answers, cut = await rows_through_run(context, served, rows, body.truncate)
        found = [predictions(answer) for answer in answers]
        return reply(found[0] if single else found, cut=cut)

    @router.post(
        "/entities",
        response_model=list[schemas.Entity] | list[list[schemas.Entity]],
        responses=REFUSALS,
    )
    async def entities(request: Request, body: schemas.EntitiesRequest) -> Response:
        """Entities with their places: a list for one text, a list of lists for several."""
        served = context.serving("/entities", request.path_params.get("run"))
        texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
        answers, _ = await rows_through_run(context, served, [(text,) for text in texts])
        found = [[vars(span) for span in spans] for spans in answers]
        return reply(found[0] if isinstance(body.inputs, str) else found)


def rows_of(inputs: str | list[str] | list[list[str]], width: int) -> tuple[list[tuple[str, ...]], bool]:
    """The rows of `/predict` for a run that reads `width` texts, and whether it is one row that is not in a list.

    Raises:
        RefusedError: pairs for a run of one text, or the other way round.
    """
    rows: list[tuple[str, ...]]
    if isinstance(inputs, str):
        rows, single = [(inputs,)], True
    elif inputs and isinstance(inputs[0], str) and width == 2:
        rows, single = [tuple(map(str, inputs))], True
    elif inputs and isinstance(inputs[0], str):
        rows, single = [(str(text),) for text in inputs], False
    else:
        rows, single = [tuple(row) for row in inputs], False
    wrong = next((i for i, row in enumerate(rows) if len(row) != width), None)
    if wrong is not None:
        wanted = "one text" if width == 1 else "two texts: [first, second]"
        raise RefusedError(422, f"inputs: row {wrong} has {len(rows[wrong])} texts, this run reads {wanted}.")
    return rows, single


def predictions(answer: Any) -> list[dict[str, Any]]:
    """A `Label` in the shape of text-embeddings-inference, the likeliest first."""
    if answer.value is not None:
        return [{"label": "value", "score": answer.value}]
    ordered = sorted(answer.scores.items(), key=lambda item: -item[1])
    return [{"label": label, "score": score} for label, score in ordered]
