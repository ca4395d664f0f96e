"""One shape for every answer that is not a success, and the status each kind of trouble has."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

#: Status -> error_type, the words of text-embeddings-inference where it has one.
KINDS = {
    401: "unauthorized",
    403: "unauthorized",
    408: "timeout",
    429: "overloaded",
    503: "unavailable",
    504: "timeout",
}


class RefusedError(Exception):
    """A request that is answered with a status other than 200."""

    def __init__(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.headers = status, dict(headers or {})


def problem(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer of `schemas.Problem`."""
    kind = KINDS.get(status, "validation" if status < 500 else "internal")
    body = json.dumps({"error": message, "error_type": kind}, ensure_ascii=False)
    return Response(body, status, headers=dict(headers or {}), media_type="application/json")


async def of_refused(request: Request, error: Any) -> Response:
    return problem(error.status, str(error), error.headers)


async def of_http(request: Request, error: Any) -> Response:
    """What FastAPI and Starlette refuse: no such route, another method, a body that cannot be read."""
    message = str(error.detail)
    if error.status_code == 404 and message == HTTPStatus(404).phrase:
        message = f"There is no {request.url.path} here: GET /info lists the routes of each run."
    return problem(error.status_code, message, error.headers)


async def of_validation(request: Request, error: Any) -> Response:
    """A body of another shape: the first places that do not fit, in a line."""
    found = [f"{'.'.join(map(str, each['loc'][1:])) or 'body'}: {each['msg']}" for each in error.errors()[:SHOWN]]
    return problem(422, "; ".join(dict.fromkeys(found)))


async def of_bug(request: Request, error: Exception) -> Response:
    """Nobody's fault but ours; the trace is in the server's log, not in the answer."""
    return problem(500, "This is a bug in modernbert; the server's log has the trace.")


#: Places of a bad body that are named.
SHOWN = 3
