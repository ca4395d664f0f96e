"""`POST /batch`: a file in, the same rows with predictions out, as `modernbert predict` writes them.

The body is the file itself: a client gives no name, so no name of a client is ever opened. The file is parsed as rows
of text, in a folder that only this user may enter and that is gone before the first byte of the answer is sent.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Any

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from app.server import schemas
from app.server.context import Context, Served
from app.server.errors import RefusedError

#: Content-Type -> suffix. Nothing that is compressed: a small body must not become a large file.
FORMATS = {
    "text/csv": ".csv",
    "text/tab-separated-values": ".tsv",
    "application/jsonl": ".jsonl",
    "application/x-ndjson": ".jsonl",
}
#: Rows that go into the queue at a time; between two such pieces others have their turn.
CHUNK = 256
#: Files that are scored at once; each holds a thread and a file on disk.
AT_ONCE = 4
#: Bytes of the answer read at a time.
PIECE = 1 << 16
#: Seconds between two looks whether the client is still there.
LOOK = 0.5


def add_upload(router: APIRouter, context: Context) -> None:
    """The route for files."""
    free = threading.BoundedSemaphore(AT_ONCE)

    @router.post(
        "/batch",
        response_class=StreamingResponse,
        responses={
            200: {"content": {kind: {} for kind in FORMATS}, "description": "The rows with their predictions."},
            **{
                status: {"model": schemas.Problem, "description": about}
                for status, about in {
                    413: "more bytes than limits.upload",
                    415: "another format",
                    422: "rows that cannot be read, a column that is not there",
                    429: "too many files are being scored",
                }.items()
            },
        },
        openapi_extra={
            "requestBody": {
                "required": True,
                "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS},
            },
            "parameters": [
                {
                    "name": "text",
                    "in": "query",
                    "required": False,
                    "schema": {"type": "string"},
                    "description": "Column of the text, where it is not named as in training. Other roles of a run "
                    "(text_pair …) go the same way.",
                }
            ],
        },
    )
    async def batch(request: Request) -> StreamingResponse:
        """Score a file: send it as the body, with its Content-Type (text/csv …); it comes back with predictions."""
        served = context.serving("/batch", request.path_params.get("run"))
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in FORMATS:
            raise RefusedError(415, f"Content-Type {kind!r}: send {', '.join(FORMATS)}, with the file as the body.")
        columns = columns_of(served, request)
        if not free.acquire(blocking=False):
            raise RefusedError(429, f"{AT_ONCE} files are being scored; try again later.", {"Retry-After": "30"})
        try:
            result, headers = await score_upload(served, request, FORMATS[kind], columns)
        finally:
            free.release()
        headers["Content-Disposition"] = f'attachment; filename="scored{FORMATS[kind]}"'
        return StreamingResponse(pieces(result), media_type=kind, headers=headers)


def columns_of(served: Served, request: Request) -> dict[str, str]:
    """Role -> column from the query.

    Raises:
        RefusedError: a role that this run does not read.
    """
    roles = [role.name for role in served.run.schema.roles if role.for_prediction]
    for name in request.query_params:
        if name not in roles:
            raise RefusedError(422, f"?{name}=…: this run reads {', '.join(roles)}.")
    return dict(request.query_params)


async def score_upload(
    served: Served, request: Request, suffix: str, columns: dict[str, str]
) -> tuple[IO[bytes], dict[str, str]]:
    """The scored file, open and without a name, and headers that say what was met.

    Raises:
        RefusedError: rows that cannot be read; a client that left.
    """
    from modernbert.errors import ModernBertError

    with tempfile.TemporaryDirectory(prefix="modernbert-") as folder:  # mkdtemp: for this user alone (0700)
        table, scored = Path(folder) / f"table{suffix}", Path(folder) / f"scored{suffix}"
        with table.open("wb") as file:
            async for piece in request.stream():
                await asyncio.to_thread(file.write, piece)
        left = threading.Event()
        work = asyncio.ensure_future(asyncio.to_thread(score, served, table, scored, columns, left))
        try:
            while not (await asyncio.wait({work}, timeout=LOOK))[0]:
                if await request.is_disconnected():
                    left.set()
            headers = work.result()
        except ModernBertError as error:
            raise RefusedError(422, str(error).replace(str(table), "the file")) from error
        finally:
            # The folder goes only when nobody writes in it any more.
            left.set()
            await asyncio.wait({work})
        return scored.open("rb"), headers


def score(served: Served, table: Path, scored: Path, columns: dict[str, Any], left: threading.Event) -> dict[str, str]:
    """Score a file in pieces that wait in the queue like every other request; in a thread of its own.

    Raises:
        ModernBertError: as `modernbert predict`.
        RefusedError: the client left.
    """
    from tasks.scoring import Scoring

    scoring = Scoring(served.run)
    _, tables = served.run.schema.stream(str(table), columns, CHUNK)
    for _ in scoring.write(tables, scored, columns):
        if left.is_set():
            raise RefusedError(499, "The client left.")
    found = {"X-Rows": scoring.rows, "X-Truncated": scoring.cut, "X-Without-Text": len(scoring.empty)}
    return {name: str(number) for name, number in found.items() if number}


async def pieces(file: IO[bytes]) -> AsyncIterator[bytes]:
    try:
        while piece := await asyncio.to_thread(file.read, PIECE):
            yield piece
    finally:
        file.close()
