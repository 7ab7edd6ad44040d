"""One id for each request, whatever was sent, and with Ray Serve's proxy in front.

That proxy puts an `x-request-id` on every response: the request's own, if it has one. So the
request gets a good one before the proxy looks (`Sanitised`), and the application leaves it to the
proxy to say it (`SaidOnce`): two headers would be read as `id, id`, which is nobody's.
"""

from __future__ import annotations

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_NAME = "x-request-id"
_SANE = re.compile(r"[A-Za-z0-9._-]{1,128}")


def chosen(headers: Headers) -> str:
    """The caller's id, if there is one and it is a sane one; else a new one."""
    given = headers.getlist(_NAME)
    return given[0] if len(given) == 1 and _SANE.fullmatch(given[0]) else uuid.uuid4().hex


def for_proxy() -> list[Middleware]:
    """For `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`: what Serve's proxy puts around itself."""
    return [Middleware(Sanitised)]


class Sanitised:
    """Sees to it that a request has exactly one id, and a sane one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = MutableHeaders(scope=scope)
            headers[_NAME] = chosen(headers)
        await self._app(scope, receive, send)


class SaidOnce:
    """Leaves the id of a request that came with one to the proxy, which gives it to all. Outside of
    everything, so that failures pass here too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        by_proxy = scope["type"] == "http" and _NAME in Headers(scope=scope)

        async def send_without(message: Message) -> None:
            if by_proxy and message["type"] == "http.response.start":
                del MutableHeaders(scope=message)[_NAME]
            await send(message)

        await self._app(scope, receive, send_without)
