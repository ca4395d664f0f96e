"""The page inside another server: an application to mount, over runs that this server has loaded."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import gradio as gr
from fastapi import FastAPI

from tasks.run import Run
from ui.page import build, settings
from ui.shelf import Shelf
from ui.uploads import UPLOADS


def mountable(runs: Mapping[str, Run], host: str, port: int, max_file_size: int) -> FastAPI:
    """The page of these runs at "/".

    The caller enters the application's lifespan: in it the page works through its queue, and at its end what was
    uploaded is removed.

    Args:
        runs: name -> run.
        max_file_size: bytes of an upload.

    Raises:
        ConfigError: the page has no renderer for what the first run's task gives.
    """
    app = FastAPI(openapi_url=None, lifespan=closing)
    UPLOADS.take()
    try:
        page = build(Shelf(loaded=runs))
    except BaseException:
        UPLOADS.give_back()
        raise
    return gr.mount_gradio_app(
        app, page, "/", server_name=host, server_port=port, max_file_size=max_file_size, **settings()
    )


@asynccontextmanager
async def closing(app: FastAPI) -> AsyncIterator[None]:
    yield
    UPLOADS.give_back()
