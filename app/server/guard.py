"""What every request passes first: who may ask, how large a body is, whether the server takes requests now.

Plain ASGI, because Starlette's middleware class would wrap each answer in two more tasks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.server.context import Context, stopping
from app.server.errors import RefusedError, problem
from ui.ports import LOOPBACK

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

#: Answered in every phase, and without a token.
OPEN = ("/health", "/ready")
#: Answered in every phase.
ALWAYS = (*OPEN, "/metrics", "/openapi.json")
#: Of the page; Gradio limits what it is sent there itself.
PAGE_UPLOAD = "/gradio_api/upload"
#: By which the page knows that it is open; it ends with the page, so nothing waits for its end.
STREAM = "/gradio_api/heartbeat/"
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")
COOKIE = "modernbert"

ASK = """<!doctype html><html lang="en"><meta charset="utf-8"><title>modernbert</title>
<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">
<body style="font: 1rem system-ui, sans-serif; max-width: 30rem; margin: 3rem auto; padding: 0 1rem">
<h1>modernbert</h1><form><label>This page needs a token. <input name="token" type="password" required autofocus
autocomplete="current-password"></label> <button>Open</button></form>"""


class Guard:
    """In front of everything."""

    def __init__(self, app: Any, context: Context) -> None:
        self.app, self.context = app, context
        token = context.settings.token
        self.token = None if token is None else token.encode()
        #: What a browser keeps instead of the token: it opens this server and tells nobody what the token is.
        self.pass_ = None if token is None else hashlib.sha256(b"modernbert page" + token.encode()).hexdigest()
        # Without a token, whoever makes a browser on this machine ask is let in: then only pages of this server may.
        self.only_local = self.token is None and context.settings.host in LOOPBACK

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), [0]

        async def noted(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
            await send(message)

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        stream = STREAM in scope["path"]
        self.context.in_flight += not stream
        try:
            answer = self.refusal(scope, headers)
            if answer is not None:
                await answer(scope, receive, noted)
            elif stream:
                await self.until_the_end(scope, receive, noted)
            else:
                await self.app(scope, self.limited(scope, receive), noted)
        finally:
            self.context.in_flight -= not stream
            route = name_of(scope)
            self.context.metrics.requests.add(route, str(status[0] or 499))  # 499: the client had gone
            self.context.metrics.request_seconds.observe(time.perf_counter() - started, route)

    async def until_the_end(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An answer that has no end of its own: it ends with the server."""
        under_way = False

        async def sending(message: MutableMapping[str, Any]) -> None:
            nonlocal under_way
            under_way = message["type"] == "http.response.start" or message.get("more_body", False)
            await send(message)

        answer = asyncio.ensure_future(self.app(scope, receive, sending))
        ended = asyncio.ensure_future(self.context.ended.wait())
        try:
            await asyncio.wait({answer, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            answer.cancel()
            await asyncio.wait({answer})
        if answer.cancelled() and under_way:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif not answer.cancelled():
            answer.result()  # raises what it raised

    def refusal(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """The answer to a request that goes no further."""
        try:
            self.check_origin(headers)
            answer = None if scope["path"] in OPEN else self.check_token(scope, headers)
            self.check_size(scope, headers)
            self.check_phase(scope)
        except RefusedError as error:
            return problem(error.status, str(error), error.headers)
        return answer

    # -- who -----------------------------------------------------------------------------------------------

    def check_origin(self, headers: dict[str, str]) -> None:
        """
        Raises:
            RefusedError: a server for this machine alone is asked under another name (DNS rebinding), or by the
                page of another site.
        """
        if not self.only_local:
            return
        host = headers.get("host", "")
        if host_name(host) not in LOCAL_NAMES:
            raise RefusedError(403, f"Host {host!r}: without token=… this server answers 127.0.0.1 and localhost.")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise RefusedError(403, f"Origin {origin!r}: without token=… only pages of this server may ask.")

    def check_token(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """None for who may pass; a redirect that keeps a browser's token; the page that asks for one.

        Raises:
            RefusedError: no token, or a wrong one.
        """
        if self.token is None or self.pass_ is None:
            return None
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.token):
            return None
        if hmac.compare_digest(cookie(headers).encode(), self.pass_.encode()):
            return None
        wants_page = scope["method"] == "GET" and "text/html" in headers.get("accept", "")
        query = parse_qs(scope["query_string"].decode("latin-1"))
        if wants_page and "token" in query and hmac.compare_digest(query["token"][0].encode(), self.token):
            rest = urlencode({key: values for key, values in query.items() if key != "token"}, doseq=True)
            here = "/" + scope["path"].lstrip("/")  # //example.org would lead there
            answer: Response = RedirectResponse(here + (f"?{rest}" if rest else ""), 303)
            answer.set_cookie(
                COOKIE, self.pass_, httponly=True, samesite="strict", secure=scope.get("scheme") == "https"
            )
            return answer
        if wants_page:
            return HTMLResponse(ASK, 401)
        raise RefusedError(
            401, "This server wants the header Authorization: Bearer <token>.", {"WWW-Authenticate": "Bearer"}
        )

    # -- how large -----------------------------------------------------------------------------------------

    def most(self, scope: Scope) -> int:
        """Bytes that the body of a request may have."""
        limits = self.context.settings.limits
        path = scope["path"]
        return limits.upload if path.endswith("/batch") or PAGE_UPLOAD in path else limits.body

    def check_size(self, scope: Scope, headers: dict[str, str]) -> None:
        """
        Raises:
            RefusedError: a body that says it is too large, before any of it is read.
        """
        given = headers.get("content-length", "0")
        if given.isdigit() and int(given) > self.most(scope):
            raise too_large(int(given), self.most(scope))

    def limited(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that stops a body that does not say how large it is, or that does not come."""
        most, seconds = self.most(scope), self.context.settings.limits.seconds
        read, more = 0, True

        async def receive_limited() -> MutableMapping[str, Any]:
            nonlocal read, more
            if not more:
                return await receive()  # waits for the client to leave
            try:
                async with asyncio.timeout(seconds):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"No more of the body came within {seconds:g} s (limits.seconds).") from None
            read += len(message.get("body", b""))
            more = message.get("more_body", False)
            if read > most:
                # FastAPI lets this one pass through; it turns others into a 400.
                error = too_large(read, most)
                raise HTTPException(error.status, str(error), error.headers)
            return message

        return receive_limited

    # -- now or later --------------------------------------------------------------------------------------

    def check_phase(self, scope: Scope) -> None:
        """
        Raises:
            RefusedError: the runs are being loaded, or the server ends.
        """
        path, phase = scope["path"], self.context.phase
        if phase == "ready" or path in ALWAYS:
            return
        if phase == "stopping":
            raise stopping()
        # Below "/" stands the page, which says by itself that it will come.
        if path != "/":
            raise RefusedError(503, "The server is loading its runs: GET /ready tells when.", {"Retry-After": "2"})


def too_large(size: int, most: int) -> RefusedError:
    # The rest of the body is not read, so this connection cannot carry another request.
    return RefusedError(413, f"{size:,} bytes: this server takes {most:,} (limits).", {"Connection": "close"})


def host_name(host: str) -> str:
    """127.0.0.1:8080 -> 127.0.0.1"""
    name, _, port = host.rpartition(":")
    return (name if port.isdigit() else host).lower()


def cookie(headers: dict[str, str]) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def name_of(scope: Scope) -> str:
    """The route as it is declared, so that metrics have few names whatever clients ask for."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return path if path and scope.get("endpoint") else "other"
