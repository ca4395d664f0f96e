"""From the command to the last answer: listen at once, load beside, open the page, drain at a signal.

`/health` answers within a second of the command, while torch is still being imported in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from types import FrameType
from typing import Any

import uvicorn
from starlette.responses import HTMLResponse

from app import console
from app.imports import import_heavy
from app.server.context import Context
from app.server.guard import Guard, Receive, Scope, Send
from app.server.routes import build_app

#: Seconds that open streams of the page may hold up the end, once every request is answered.
STREAMS = 1

LOADING = """<!doctype html><html lang="en"><meta charset="utf-8"><title>modernbert</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<meta http-equiv="refresh" content="1"><body style="font: 1rem system-ui, sans-serif; margin: 3rem auto; width: 20rem">
<p role="status">The run is being loaded …"""


class Later:
    """The place of the page: it is built when the runs are there, and says until then that it will come."""

    def __init__(self) -> None:
        self.app: Any = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self.app or HTMLResponse(LOADING, 503, headers={"Retry-After": "1"})
        await app(scope, receive, send)


class Service:
    """One server, from its socket to its end.

    Args:
        listener: bound; it is closed at the end.
    """

    def __init__(self, context: Context, listener: socket.socket) -> None:
        self.context, self.listener = context, listener
        self.page = Later()
        self.error: Exception | None = None
        app = build_app(context)
        if context.settings.page:
            app.mount("/", self.page)
        config = uvicorn.Config(
            Guard(app, context),
            lifespan="off",
            log_config=None,
            access_log=False,
            log_level="error",  # what is no HTTP is answered 400; a line for each scanner helps nobody
            server_header=False,
            timeout_graceful_shutdown=STREAMS,
            ws="none",
        )
        self.server = Drained(config, context)

    async def run(self) -> None:
        """Serve until a signal, or until the runs cannot be loaded.

        Raises:
            Exception: what loading raised.
        """
        async with contextlib.AsyncExitStack() as stack:
            opening = asyncio.create_task(self.open(stack))
            await self.server.serve(sockets=[self.listener])
            await opening
            await asyncio.to_thread(self.context.batcher.close, abandon=self.server.force_exit)
        if self.error is not None:
            raise self.error

    async def open(self, stack: contextlib.AsyncExitStack) -> None:
        """Load the runs, take requests, build the page; what is left of that at a signal is not done."""
        # Imports hold the interpreter for seconds: the server is up before they begin.
        await self.server.up.wait()
        try:
            loading = await asyncio.to_thread(import_heavy, "app.server.loading")
            for step in (loading.load, loading.warm_up):
                if self.context.phase == "loading":
                    await asyncio.to_thread(step, self.context)
            if self.context.phase == "loading":
                self.context.phase = "ready"
                await self.open_page(stack, loading)
        except Exception as error:
            self.error = error
            self.server.stop()

    async def open_page(self, stack: contextlib.AsyncExitStack, loading: Any) -> None:
        if self.context.settings.page:
            page = await asyncio.to_thread(loading.build_page, self.context)
            await stack.enter_async_context(page.router.lifespan_context(page))
            self.page.app = page
        console.out().print(loading.announcement(self.context), soft_wrap=True)


class Drained(uvicorn.Server):
    """A uvicorn server that ends when every request it let in is answered, and lets none in from the signal on.

    A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self.context = context
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.up.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not kept for uvicorn to raise again: a stop that was asked for is no failure."""
        if self.context.phase == "stopping":
            self.should_exit = self.force_exit = True
        self.stop()

    def stop(self) -> None:
        self.context.phase = "stopping"

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if self.context.phase == "stopping" and (self.force_exit or not self.context.in_flight):
            self.context.ended.set()
            self.should_exit = True
        return await super().on_tick(counter)
