"""The application: how the server is, and the routes of the tasks under / and under /runs/<name>/."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from pathlib import PurePath
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Path
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse
from starlette.exceptions import HTTPException
from starlette.responses import Response

from app.server import errors, metrics, schemas
from app.server.answers import REFUSALS, reply
from app.server.classifying import add_classifying
from app.server.context import Context, Served
from app.server.errors import RefusedError
from app.server.retrieving import add_retrieving
from app.server.uploads import add_upload


def build_app(context: Context) -> FastAPI:
    """The application without its page."""
    app = FastAPI(
        title="modernbert",
        description="Saved runs over HTTP. Every route also stands under /runs/<name>/, for servers of several runs.",
        version=importlib.metadata.version("modernbert"),
        # Their pages load scripts from another server.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            RefusedError: errors.of_refused,
            HTTPException: errors.of_http,
            RequestValidationError: errors.of_validation,
            Exception: errors.of_bug,
        },
    )
    add_state_routes(app, context)

    async def named(run: Annotated[str, Path(description="The name of the run's folder.")]) -> None:
        """Declares the part of the address; `Context.serving` reads it."""

    for router in (APIRouter(), APIRouter(prefix="/runs/{run}", dependencies=[Depends(named)])):
        add_classifying(router, context)
        add_retrieving(router, context)
        add_upload(router, context)
        app.include_router(router)
    return app


def add_state_routes(app: FastAPI, context: Context) -> None:
    """How the server is, and what it has."""

    @app.get("/health", response_model=schemas.Health)
    async def health() -> Response:
        """200 while the process lives; needs no token."""
        return reply({"status": context.phase})

    @app.get("/ready", response_model=schemas.Health, responses={503: {"model": schemas.Health}})
    async def ready() -> Response:
        """200 while requests are taken, 503 while the runs are loaded or the server stops; needs no token."""
        return reply({"status": context.phase}, 200 if context.phase == "ready" else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def numbers() -> Response:
        """For Prometheus."""
        return Response(context.metrics.text(), media_type=metrics.CONTENT_TYPE)

    @app.get("/info", response_model=schemas.Info, responses=REFUSALS)
    async def info() -> Response:
        """The runs, their routes, and the limits."""
        import torch

        return reply(
            {
                "version": app.version,
                "device": str(next(iter(context.runs.values())).run.task.device),
                "threads": torch.get_num_threads(),
                "tokens_per_batch": context.batcher.tokens_per_batch,
                "limits": dataclasses.asdict(context.settings.limits),
                "documents": None if context.finder is None else len(context.finder.index),
                "runs": [describe(served) for served in context.runs.values()],
            }
        )


def describe(served: Served) -> dict[str, Any]:
    """A run for `/info`."""
    run = served.run
    labels = getattr(getattr(run.schema, "labels", None), "names", None)
    tags = getattr(getattr(run.schema, "tags", None), "labels", None)
    source = run.info.get("encoder", {}).get("source")
    return {
        "name": served.name,
        "task": run.name,
        "about": run.schema.describe(),
        "routes": [f"/runs/{served.name}{route}" for route in served.routes],
        # Where it lay on the machine that trained it is nobody's business.
        "encoder": PurePath(source).name if source and PurePath(source).is_absolute() else source,
        "parameters": sum(each.numel() for each in run.task.parameters()),
        "max_length": run.schema.max_length,
        "labels": list(labels or tags or ()),
    }
